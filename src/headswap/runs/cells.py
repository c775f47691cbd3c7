"""A cell: trains its runs in parallel, and writes its five outputs from the finished ones."""

import math
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from operator import mul
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from headswap.images.index import Index, read_index
from headswap.io import atomic_write, read_json, read_tensors, write_csv, write_json
from headswap.params import ALL, Cell, Params
from headswap.paths import CELL_METRICS, CURVES, MODELS, PREDICTIONS, RUNS, TIMING
from headswap.progress import OnProgress, console
from headswap.runs.keys import cache_key, weights_packages
from headswap.runs.record import RECORD, TRAINED, cell_record
from headswap.runs.store import (
    changes_since_last_run,
    expected_memory,
    find_damage,
    index_of_run,
    is_finished,
    part_name,
    read_features,
    run_folder,
    run_name,
)
from headswap.runs.tuning import describe_choice, log_losses, planned_runs, planned_trials
from headswap.runs.workers import TRAIN_RUN, Task, run_here


def train_cell(cell: Cell, params: Params, on_progress: OnProgress) -> None:
    """Train the unfinished runs of a cell in parallel; if none fails, write the outputs of all."""
    for planned in (planned_trials, planned_runs):
        tasks = unfinished_runs(planned(cell, params), params)
        if cell.mode == "probe":  # seconds of work, which need neither Dask nor torch
            for task in tasks:
                run_here(task, partial(on_progress, task.name))
        elif tasks:
            from headswap.runs.cluster import run_parallel

            run_parallel(tasks, on_progress)
    write_outputs(cell, params)


def unfinished_runs(runs: list[tuple[Cell, int]], params: Params) -> list[Task]:
    """Return a task for each run that is not finished, or damaged; print why none is reused."""
    tasks, keys = list[Task](), dict[Cell, dict[str, Any]]()
    for cell, seed in runs:
        whole = replace(cell, fold=None)
        key = keys[whole] = keys.get(whole) or cache_key(whole, params)
        folder = run_folder(cell, key, seed)
        if damage := find_damage(folder):
            what = f"{', '.join(damage)} missing or damaged"
            console.print(f"{folder}: {what}; the run is trained again.")
        if damage or not is_finished(folder):
            about = task_name(cell, seed), TRAIN_RUN, (cell, params, seed, key)
            tasks.append(Task(*about, expected_memory(cell), params.epochs(cell)))
    if runs and len(tasks) == len(runs) and (changes := changes_since_last_run(cell, key)):
        unused = f"the finished runs in {RUNS / cell.name} are not used"
        console.print(f"{cell.name}: {unused}: {'; '.join(changes)}.")
    return tasks


def task_name(cell: Cell, seed: int) -> str:
    """Return the name of a run for the terminal, such as ``resnet18-frozen seed 0``."""
    return " ".join(filter(None, (f"{cell.name} seed {seed}", part_name(cell).replace("-", " "))))


class _Run(NamedTuple):
    """A finished run: its name and folder, its ``run.json``, and its validation images."""

    name: str
    folder: Path
    record: dict[str, Any]
    images: list[str]


class _Replicate(NamedTuple):
    """The runs of a seed: one, or one for each fold."""

    seed: int
    runs: list[_Run]

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
    index = read_features(cell.model)[1] if cell.mode == "probe" else read_index()
    planned = planned_runs(cell, params)
    runs = {(run.fold, seed): _read_run(run, seed, params, index) for run, seed in planned}
    replicates = [
        _Replicate(seed, [run for (fold, of), run in runs.items() if of == seed and fold != ALL])
        for seed in params.run_seeds(cell)
    ]
    finished = [one for one in replicates if one.diverged is None]
    kept = {one.seed: one.runs[0] for one in finished[: 1 if cell.mode == "finetune" else None]}
    if params.dataset.folds:
        seed = replicates[0].seed
        whole = runs[ALL, seed]
        kept = {seed: whole} if whole.record["diverged"] is None else {}
    first = replicates[0].runs[0].record
    record: dict[str, Any] = {
        **cell_record(cell, params, index, first),
        "runs": [
            {
                **{"seed": one.seed, "diverged": one.diverged},
                **{which: one.at(which) for which in ("best", "last")},
                "weights": f"run-{one.seed}.safetensors" if one.seed in kept else None,
            }
            for one in replicates
        ],
        "kept": None,
        **_tuning(planned, params),
    }
    if "tuning" in record:
        console.print(f"{cell.name}: {record['tuning']}.")
    if kept:
        seed, run = next(iter(kept.items()))
        why = "the one with the lowest seed, at its last epoch"
        if params.dataset.folds:
            why = "trained on all photographs; its accuracy is that of the cross-validation"
        about = {"seed": seed, "epoch": run.record["last"]["epoch"]}
        record["kept"] = {**about, "weights": f"run-{seed}.safetensors", "why": why}
    write_json(
        CELL_METRICS / f"{cell.name}.json",
        {
            **first["complexity"],
            "seeds": len(replicates),
            "diverged": len(replicates) - len(finished),
            **{f"{name}_digest": one for name, one in first["inputs"].items()},
            **{key: record[key] for key in ("preprocessing", "folds", "tuning") if key in record},
            **({"lr": first["recipe"]["lr"]} if "tuning" in record else {}),
        },
    )
    timing = {**_timing(replicates), "precision": params.precision}
    if cell.mode != "probe":
        timing["weights_versions"] = weights_packages(cell.model)
    write_json(TIMING / f"{cell.name}.json", timing)
    write_csv(
        CURVES / f"{cell.name}.csv",
        ["seed", "epoch", "split", "loss", "accuracy"],
        [[one.seed, *point] for one in replicates for point in _mean_curves(one)],
    )
    fold = ["fold"] if params.dataset.folds else []
    write_csv(
        PREDICTIONS / f"{cell.name}.csv",
        ["seed", *fold, "epoch", "which", "image", "label", "predicted"]
        + [f"p_{name}" for name in index.classes],
        _predictions(finished, index),
    )
    with atomic_write(MODELS / cell.name, replace_folder=True) as target:
        target.mkdir()
        write_json(target / RECORD, record)
        for run in runs.values():
            write_json(target / f"run-{run.name}.json", run.record)
        for seed, run in kept.items():
            shutil.copyfile(run.folder / TRAINED, target / f"run-{seed}.safetensors")


def _read_run(cell: Cell, seed: int, params: Params, index: Index) -> _Run:
    folder = run_folder(cell, cache_key(replace(cell, fold=None), params), seed)
    images = index_of_run(index, cell, params, seed).names["val"]
    return _Run(run_name(cell, seed), folder, read_json(folder / "run.json"), images)


def _mean_curves(replicate: _Replicate) -> Iterator[list[Any]]:
    """Yield epoch, split, loss and accuracy; the means over the folds, if there are any."""
    curves = [run.record["curves"] for run in replicate.runs]
    for points in zip(*curves, strict=replicate.diverged is None):
        (epoch, split, *_), figures = points[0], [point[2:] for point in points]
        yield [
            epoch,
            split,
            *(figures[0] if len(points) == 1 else map(fmean, zip(*figures, strict=True))),
        ]


def _timing(replicates: list[_Replicate]) -> dict[str, Any]:
    """Return the times of the runs that did not diverge, and on what: all values that differ."""
    runs = [run for replicate in replicates for run in replicate.runs]
    timings = [read_json(run.folder / "timing.json") for run in runs]
    ended = [one.diverged is None for one in replicates for _ in one.runs]
    finished = [one["epochs"] for one, has_ended in zip(timings, ended, strict=True) if has_ended]
    wall = [sum(epoch["wall"] for epoch in epochs) for epochs in finished]
    seconds = [sum(sum(epoch.values()) - epoch["wall"] for epoch in epochs) for epochs in finished]
    result: dict[str, Any] = {
        "seconds_per_run": [round(of_run, 3) for of_run in seconds],
        "wall_seconds_per_run": [round(of_run, 3) for of_run in wall],
        "versions": runs[0].record["versions"],
    }
    if finished:
        epochs = [epoch for of_run in finished for epoch in of_run]
        parts = ("train", "val", "checkpoint")
        means = {part: fmean(epoch[part] for epoch in epochs) for part in parts}
        result |= {
            "seconds_per_run_mean": round(fmean(seconds), 3),
            "seconds_per_epoch_mean": round(sum(means.values()), 4),
            **{f"{part}_seconds_per_epoch_mean": round(means[part], 4) for part in means},
        }
    for key in timings[0]:
        if key == "memory_bytes":
            result[key] = max(timing[key] for timing in timings)
        elif key != "epochs":
            values = list(dict.fromkeys(timing[key] for timing in timings))
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


def _tuning(runs: list[tuple[Cell, int]], params: Params) -> dict[str, Any]:
    """Return what was chosen of a list of learning rates, by how many runs, and why."""
    choices = Counter[str]()
    losses = {}
    for run, seed in runs:
        if of_run := log_losses(replace(run, lr=None), params, seed):
            choices[describe_choice(of_run)] += 1
            losses[run_name(run, seed)] = [
                {"lr": rate, "log_loss": loss if math.isfinite(loss) else None}
                for rate, loss in of_run.items()
            ]
    if not choices:
        return {}
    most = choices.total()
    texts = [f"{text} ({of} of {most} runs)" if of < most else text for text, of in choices.items()]
    return {"tuning": "; ".join(texts), "log_losses": losses}
