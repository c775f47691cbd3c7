"""A cell: trains its runs in parallel, and writes its five outputs from the finished ones."""

import math
import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from operator import mul
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from headswap.images.index import Index, read_index
from headswap.io import atomic_write, read_json, read_tensors, write_csv, write_json
from headswap.params import Cell, Params
from headswap.paths import CELL_METRICS, CURVES, MODELS, PREDICTIONS, TIMING, WEIGHTS
from headswap.progress import OnProgress, console
from headswap.runs import cluster, provenance, store
from headswap.runs.queue import Run, plan_runs, unfinished_runs
from headswap.runs.temperature import fit_temperature


def train_cell(cell: Cell, params: Params, on_progress: OnProgress) -> None:
    """Train the unfinished runs of a cell in parallel; if none fails, write the outputs of all."""
    for kind in range(2):  # trials of learning rates, then the runs for which they are chosen
        if tasks := unfinished_runs(plan_runs(cell, params)[kind], params):
            # A probe's take seconds, and need neither Dask nor torch.
            cluster.run_parallel(tasks, on_progress, in_process=cell.mode == "probe")
    write_outputs(cell, params)


class _Finished(NamedTuple):
    run: Run
    record: dict[str, Any]  # what ``run.json`` says
    timing: dict[str, Any]
    images: list[str]  # those that validate it


def write_outputs(cell: Cell, params: Params) -> None:
    """Write a cell's metrics, times, curves, predictions and models from its finished runs."""
    planned, folds = plan_runs(cell, params)[1], params.dataset.folds
    records, timings = (
        [read_json(run.folder / name) for run in planned] for name in ("run.json", "timing.json")
    )
    first, digests, tuning = records[0], records[0]["inputs"], _tuning(planned)
    if cell.mode == "probe":
        _, index, features = store.read_features(cell.model)
        inputs = features["inputs"]
    else:
        index = read_index()
        of = digests["images"], digests["weights"]
        inputs = provenance.describe_inputs(cell.model, params.image, *of)
    images = [store.index_of_run(index, run.cell, params, run.seed).names["val"] for run in planned]
    runs = [*map(_Finished, planned, records, timings, images)]
    replicated = runs[:-1] if folds else runs  # the last is of all photographs
    of_seeds = groupby(replicated, key=lambda one: one.run.seed)
    replicates = {seed: list(of_seed) for seed, of_seed in of_seeds}
    means = {seed: _mean_record(of_seed) for seed, of_seed in replicates.items()}
    finished = [seed for seed, mean in means.items() if mean["diverged"] is None]
    if folds:
        kept = [one for one in runs[-1:] if one.record["diverged"] is None]
        why = "trained on all photographs; its accuracy is that of the cross-validation"
    else:
        kept = [replicates[seed][0] for seed in finished[: 1 if cell.mode == "finetune" else None]]
        why = "the one with the lowest seed, at its last epoch"
    weights = {one.run.seed: f"run-{one.run.seed}.safetensors" for one in kept}
    where = f"in this folder or in the project's {WEIGHTS.as_posix()}"
    needs = f"the backbone's {inputs['backbone']['file']}, {where}"
    record = {
        **{"cell": cell.name, "mode": cell.mode, **inputs},
        "needs": None if cell.mode == "finetune" else needs,
        "classes": index.classes,
        "counts": {split: len(index.rows if folds else of) for split, of in index.names.items()},
        **({"folds": folds} if folds else {}),
        **{key: first[key] for key in ("recipe", "precision", "versions")},
        "runs": [
            {"seed": seed}
            | {key: mean[key] for key in ("diverged", "best", "last")}
            | {"weights": weights.get(seed)}
            for seed, mean in means.items()
        ],
        "kept": None,
        **tuning,
    }
    ended = [one for seed in finished for one in replicates[seed]]
    if validated := [one for one in ended if one.images]:
        record["temperature"] = _temperature(validated, index)
    if kept:
        about = {"seed": kept[0].run.seed, "epoch": kept[0].record["last"]["epoch"]}
        record["kept"] = {**about, "weights": weights[about["seed"]], "why": why}
    of_metrics = ("preprocessing", "folds", "tuning", "temperature")
    metrics = {
        **first["complexity"],
        **{"seeds": len(means), "diverged": len(means) - len(finished)},
        **{f"{name}_digest": digest for name, digest in digests.items()},
        **{key: record[key] for key in of_metrics if key in record},
    }
    timing = {**_timing(replicated, ended), "precision": params.precision}
    if cell.mode != "probe":
        timing["weights_versions"] = provenance.weights_packages(cell.model)
    if tuning:
        metrics["lr"] = first["recipe"]["lr"]
        console.print(f"{cell.name}: {tuning['tuning']}.")
    write_json(CELL_METRICS / f"{cell.name}.json", metrics)
    write_json(TIMING / f"{cell.name}.json", timing)
    curves = [[seed, *point] for seed, mean in means.items() for point in mean["curves"]]
    write_csv(CURVES / f"{cell.name}.csv", ["seed", "epoch", "split", "loss", "accuracy"], curves)
    columns = ["seed", *["fold"] * bool(folds), "epoch", "which", "image", "label", "predicted"]
    columns += [f"p_{name}" for name in index.classes]
    write_csv(PREDICTIONS / f"{cell.name}.csv", columns, _predictions(ended, index))
    with atomic_write(MODELS / cell.name, replace_folder=True) as target:
        target.mkdir()
        write_json(target / store.RECORD, record)
        for one in runs:
            write_json(target / f"run-{one.run.name}.json", one.record)
        for one in kept:
            shutil.copyfile(one.run.folder / store.TRAINED, target / weights[one.run.seed])


def _mean_record(runs: list[_Finished]) -> dict[str, Any]:
    """Return curves and results of the runs of a seed, the means over its folds, if it has any."""
    if len(runs) == 1:
        return runs[0].record
    runs = [one for one in runs if one.images]  # of few groups, a fold may have none
    records = [one.record for one in runs]
    epochs = [record["diverged"] for record in records if record["diverged"] is not None]
    mean: dict[str, Any] = {"diverged": min(epochs, default=None), "curves": []}
    for points in zip(*(record["curves"] for record in records), strict=not epochs):
        (epoch, *_), (split, *_), *figures = zip(*points, strict=True)
        mean["curves"].append([epoch, split, *map(fmean, figures)])
    sizes = [len(one.images) for one in runs]
    for which in ("best", "last"):
        found = [record[which] for record in records]
        mean[which] = None
        if all(found):
            accuracy = sum(map(mul, (of["accuracy"] for of in found), sizes)) / sum(sizes)
            epoch = round(fmean(of["epoch"] for of in found))
            mean[which] = {"epoch": epoch, "accuracy": accuracy}
    return mean


def _timing(runs: list[_Finished], finished: list[_Finished]) -> dict[str, Any]:
    """Return the times of the runs that did not diverge, and on what: all values that differ."""
    epochs, parts = [one.timing["epochs"] for one in finished], ("train", "val", "checkpoint")
    seconds = [sum(epoch[part] for epoch in of_run for part in parts) for of_run in epochs]
    result = {
        "seconds_per_run": [round(of_run, 3) for of_run in seconds],
        "wall_seconds_per_run": [round(sum(e["wall"] for e in of_run), 3) for of_run in epochs],
        "versions": runs[0].record["versions"],
    }
    if finished:
        means = {part: fmean(epoch[part] for run in epochs for epoch in run) for part in parts}
        result |= {
            "seconds_per_run_mean": round(fmean(seconds), 3),
            "seconds_per_epoch_mean": round(sum(means.values()), 4),
            **{f"{part}_seconds_per_epoch_mean": round(means[part], 4) for part in parts},
        }
    result["memory_bytes"] = max(one.timing["memory_bytes"] for one in runs)
    for key in [key for key in runs[0].timing if key not in ("epochs", "memory_bytes")]:
        value, *others = dict.fromkeys(one.timing[key] for one in runs)
        result[key] = [value, *others] if others else value
    return result


def _predictions(runs: list[_Finished], index: Index) -> Iterator[list[Any]]:
    """Yield a row for each run, epoch (best or last) and image; with folds its path is whole."""
    labels = {row.path: row.label for row in index.rows}
    for run, record, _, images in runs:
        folds = [] if run.cell.fold is None else [run.cell.fold]
        probabilities, _ = read_tensors(run.folder / "probabilities.safetensors")
        for which in ("best", "last"):
            about = [run.seed, *folds, record[which]["epoch"], which]
            for path, of_image in zip(images, probabilities[which], strict=True):
                name = path if folds else path.removeprefix("val/")
                about_image = [name, labels[path], index.classes[of_image.argmax()]]
                yield [*about, *about_image, *(f"{share:.6g}" for share in of_image)]


def _temperature(runs: list[_Finished], index: Index) -> float:
    """Fit the temperature on the images that the runs held out, at their last epochs."""
    labels = {row.path: index.classes.index(row.label) for row in index.rows}
    files = (read_tensors(one.run.folder / "probabilities.safetensors")[0] for one in runs)
    probabilities = np.concatenate([tensors["last"] for tensors in files])
    of_images = [labels[path] for one in runs for path in one.images]
    return fit_temperature(probabilities, np.array(of_images))


def _tuning(runs: list[Run]) -> dict[str, Any]:
    """Return what was chosen of a list of learning rates, by how many runs, and why."""
    if not (tuned := {run.name: run.log_losses for run in runs if run.log_losses}):
        return {}
    choices = Counter[str]()
    for losses in tuned.values():
        rates, best = sorted(losses), min(losses, key=losses.__getitem__)
        *others, last = map("{:g}".format, rates)
        text = f"learning rate {best:g} of {', '.join(others)} and {last}"
        if best in (rates[0], rates[-1]):
            text += ", an end of the list: another beyond it may be better"
        choices[text] += 1
    texts = [f"{text} ({n} of {len(tuned)} runs)" for text, n in choices.items()]
    log_losses = {
        name: [{"lr": r, "log_loss": s if math.isfinite(s) else None} for r, s in losses.items()]
        for name, losses in tuned.items()
    }
    return {"tuning": "; ".join(texts if len(texts) > 1 else choices), "log_losses": log_losses}
