"""A cell: trains its runs in parallel, and writes its five outputs from the finished ones."""

import math
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import partial
from operator import mul
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from headswap.images.index import Index, read_index
from headswap.io import atomic_write, read_json, read_tensors, write_csv, write_json
from headswap.params import ALL, Cell, Params
from headswap.paths import CELL_METRICS, CURVES, MODELS, PREDICTIONS, TIMING, WEIGHTS
from headswap.progress import OnProgress, console
from headswap.runs.provenance import describe_inputs, weights_packages
from headswap.runs.queue import Run, plan_runs, unfinished_runs
from headswap.runs.store import RECORD, TRAINED, index_of_run, read_features
from headswap.runs.workers import run_here


def train_cell(cell: Cell, params: Params, on_progress: OnProgress) -> None:
    """Train the unfinished runs of a cell in parallel; if none fails, write the outputs of all."""
    for kind in range(2):  # trials of learning rates, then the runs for which they are chosen
        tasks = unfinished_runs(plan_runs(cell, params)[kind], params)
        if cell.mode == "probe":  # seconds of work, which need neither Dask nor torch
            for task in tasks:
                run_here(task, partial(on_progress, task.name))
        elif tasks:
            from headswap.runs.cluster import run_parallel

            run_parallel(tasks, on_progress)
    write_outputs(cell, params)


class _Finished(NamedTuple):
    """What ``run.json`` says of a run, its folder, and its validation images."""

    record: dict[str, Any]
    folder: Path
    images: list[str]


class _Replicate(NamedTuple):
    """The runs of a seed: one, or one for each fold."""

    seed: int
    runs: list[_Finished]

    @property
    def diverged(self) -> int | None:
        """The first epoch in which a run diverged; None if none did."""
        epochs = [run.record["diverged"] for run in self.runs]
        return min((epoch for epoch in epochs if epoch is not None), default=None)

    def at(self, which: str) -> dict[str, Any] | None:
        """Return epoch and accuracy, of several runs their means, at the best or the last epoch."""
        found = [run.record[which] for run in self.runs]
        if len(found) == 1 or not all(found):
            return found[0] if len(found) == 1 else None
        accuracies, sizes = [of["accuracy"] for of in found], [len(run.images) for run in self.runs]
        accuracy = sum(map(mul, accuracies, sizes)) / sum(sizes)
        return {"epoch": round(fmean(of["epoch"] for of in found)), "accuracy": accuracy}


def write_outputs(cell: Cell, params: Params) -> None:
    """Write a cell's metrics, times, curves, predictions and models from its finished runs."""
    features = read_features(cell.model)[1:] if cell.mode == "probe" else None
    index, folds = features[0] if features else read_index(), params.dataset.folds
    planned = plan_runs(cell, params)[1]
    runs = {run.name: _read_run(run, index, params) for run in planned}
    replicates = [
        _Replicate(seed, [runs[r.name] for r in planned if r.seed == seed and r.cell.fold != ALL])
        for seed in params.run_seeds(cell)
    ]
    finished = [one for one in replicates if one.diverged is None]
    kept = {one.seed: one.runs[0] for one in finished[: 1 if cell.mode == "finetune" else None]}
    why = "the one with the lowest seed, at its last epoch"
    if folds:
        why = "trained on all photographs; its accuracy is that of the cross-validation"
        seed, whole = planned[-1].seed, runs[planned[-1].name]
        kept = {seed: whole} if whole.record["diverged"] is None else {}
    first = replicates[0].runs[0].record
    digests, tuning = first["inputs"], _tuning(planned)
    inputs = (
        features[1]["inputs"]
        if features
        else describe_inputs(cell.model, params.image, digests["images"], digests["weights"])
    )
    file = inputs["backbone"]["file"]
    needs = f"the backbone's {file}, in this folder or in the project's {WEIGHTS.as_posix()}"
    record: dict[str, Any] = {
        "cell": cell.name,
        "mode": cell.mode,
        **inputs,
        "needs": None if cell.mode == "finetune" else needs,
        "classes": index.classes,
        "counts": {split: len(index.rows if folds else of) for split, of in index.names.items()},
        **({"folds": folds} if folds else {}),
        **{key: first[key] for key in ("recipe", "precision", "versions")},
        "runs": [
            {
                **{"seed": one.seed, "diverged": one.diverged},
                **{which: one.at(which) for which in ("best", "last")},
                "weights": f"run-{one.seed}.safetensors" if one.seed in kept else None,
            }
            for one in replicates
        ],
        "kept": None,
        **tuning,
    }
    for seed, run in list(kept.items())[:1]:
        about = {"seed": seed, "epoch": run.record["last"]["epoch"]}
        record["kept"] = {**about, "weights": f"run-{seed}.safetensors", "why": why}
    metrics = {
        **first["complexity"],
        "seeds": len(replicates),
        "diverged": len(replicates) - len(finished),
        **{f"{name}_digest": digest for name, digest in digests.items()},
        **{key: record[key] for key in ("preprocessing", "folds", "tuning") if key in record},
    }
    timing = {**_timing(replicates), "precision": params.precision}
    if cell.mode != "probe":
        timing["weights_versions"] = weights_packages(cell.model)
    if tuning:
        metrics["lr"] = first["recipe"]["lr"]
        console.print(f"{cell.name}: {tuning['tuning']}.")
    write_json(CELL_METRICS / f"{cell.name}.json", metrics)
    write_json(TIMING / f"{cell.name}.json", timing)
    write_csv(
        CURVES / f"{cell.name}.csv",
        ["seed", "epoch", "split", "loss", "accuracy"],
        [[one.seed, *point] for one in replicates for point in _mean_curves(one)],
    )
    write_csv(
        PREDICTIONS / f"{cell.name}.csv",
        ["seed", *["fold"] * bool(folds), "epoch", "which", "image", "label", "predicted"]
        + [f"p_{name}" for name in index.classes],
        _predictions(finished, index),
    )
    with atomic_write(MODELS / cell.name, replace_folder=True) as target:
        target.mkdir()
        write_json(target / RECORD, record)
        for name, run in runs.items():
            write_json(target / f"run-{name}.json", run.record)
        for seed, run in kept.items():
            shutil.copyfile(run.folder / TRAINED, target / f"run-{seed}.safetensors")


def _read_run(run: Run, index: Index, params: Params) -> _Finished:
    images = index_of_run(index, run.cell, params, run.seed).names["val"]
    return _Finished(read_json(run.folder / "run.json"), run.folder, images)


def _mean_curves(replicate: _Replicate) -> Iterator[list[Any]]:
    """Yield epoch, split, loss and accuracy; the means over the folds, if there are any."""
    curves = [run.record["curves"] for run in replicate.runs]
    for points in zip(*curves, strict=replicate.diverged is None):
        epoch, split, *figures = points[0]
        if len(points) > 1:
            figures = [
                fmean(values) for values in zip(*(point[2:] for point in points), strict=True)
            ]
        yield [epoch, split, *figures]


def _timing(replicates: list[_Replicate]) -> dict[str, Any]:
    """Return the times of the runs that did not diverge, and on what: all values that differ."""
    timings = [[read_json(run.folder / "timing.json") for run in one.runs] for one in replicates]
    pairs = zip(replicates, timings, strict=True)
    finished = [run["epochs"] for one, of in pairs if one.diverged is None for run in of]
    epochs = [epoch for of_run in finished for epoch in of_run]
    parts = ("train", "val", "checkpoint")
    seconds = [sum(epoch[part] for epoch in of_run for part in parts) for of_run in finished]
    wall = [sum(epoch["wall"] for epoch in of_run) for of_run in finished]
    result: dict[str, Any] = {
        "seconds_per_run": [round(of_run, 3) for of_run in seconds],
        "wall_seconds_per_run": [round(of_run, 3) for of_run in wall],
        "versions": replicates[0].runs[0].record["versions"],
    }
    if finished:
        means = {part: fmean(epoch[part] for epoch in epochs) for part in parts}
        result |= {
            "seconds_per_run_mean": round(fmean(seconds), 3),
            "seconds_per_epoch_mean": round(sum(means.values()), 4),
            **{f"{part}_seconds_per_epoch_mean": round(means[part], 4) for part in parts},
        }
    every = [run for of in timings for run in of]
    result["memory_bytes"] = max(run["memory_bytes"] for run in every)
    for key in [key for key in every[0] if key not in ("epochs", "memory_bytes")]:
        values = list(dict.fromkeys(run[key] for run in every))
        result[key] = values[0] if len(values) == 1 else values
    return result


def _predictions(finished: list[_Replicate], index: Index) -> Iterator[list[Any]]:
    """Yield a row for each run, epoch (best or last) and validation image.

    In a cross-validation an image has its whole path in the index, and a row has its fold.
    """
    labels = {row.path: row.label for row in index.rows}
    for replicate in finished:
        for fold, run in enumerate(replicate.runs):
            folds = [fold] if len(replicate.runs) > 1 else []
            probabilities, _ = read_tensors(run.folder / "probabilities.safetensors")
            for which in ("best", "last"):
                about_run = [replicate.seed, *folds, run.record[which]["epoch"], which]
                for path, of_image in zip(run.images, probabilities[which], strict=True):
                    name = path if folds else path.removeprefix("val/")
                    texts = [f"{probability:.6g}" for probability in of_image]
                    predicted = index.classes[of_image.argmax()]
                    yield [*about_run, name, labels[path], predicted, *texts]


def _tuning(runs: list[Run]) -> dict[str, Any]:
    """Return what was chosen of a list of learning rates, by how many runs, and why."""
    tuned = {run.name: run.log_losses for run in runs if run.log_losses}
    if not tuned:
        return {}
    choices = Counter(map(describe_choice, tuned.values()))
    most = choices.total()
    texts = [f"{text} ({of} of {most} runs)" if of < most else text for text, of in choices.items()]
    log_losses = {
        name: [{"lr": r, "log_loss": s if math.isfinite(s) else None} for r, s in losses.items()]
        for name, losses in tuned.items()
    }
    return {"tuning": "; ".join(texts), "log_losses": log_losses}


def describe_choice(losses: dict[float, float]) -> str:
    """Say which learning rate was chosen.

    >>> describe_choice({0.001: 0.2, 0.01: 0.1})
    'learning rate 0.01 of 0.001 and 0.01, an end of the list: another beyond it may be better'
    """
    *rates, last = sorted(losses)
    best = min(losses, key=losses.__getitem__)
    text = f"learning rate {best:g} of {', '.join(f'{rate:g}' for rate in rates)} and {last:g}"
    is_end = best in (min(losses), last)
    return text + ", an end of the list: another beyond it may be better" * is_end
