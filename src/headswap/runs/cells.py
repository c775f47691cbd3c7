"""A cell: trains its runs in parallel, and writes its five outputs from the finished ones."""

import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from headswap.images.index import read_index
from headswap.io import atomic_write, read_json, read_tensors, write_csv, write_json
from headswap.params import Cell, Params
from headswap.paths import CELL_METRICS, CURVES, EMBEDDINGS, MODELS, PREDICTIONS, RUNS, TIMING
from headswap.progress import OnProgress, console
from headswap.runs.keys import cache_key, weights_packages
from headswap.runs.record import RECORD, TRAINED, cell_record, runs_with_weights, weights_file
from headswap.runs.store import (
    changes_since_last_run,
    expected_memory,
    find_damage,
    is_finished,
    run_folder,
)
from headswap.runs.tuning import describe_choice, log_losses, planned, tuned
from headswap.runs.workers import TRAIN_RUN, Task, run_here


def train_cell(cell: Cell, params: Params, on_progress: OnProgress) -> None:
    """Train the unfinished runs of a cell in parallel; if none fails, write the outputs of all."""
    if tasks := unfinished_trials(cell, params):
        from headswap.runs.cluster import run_parallel

        run_parallel(tasks, on_progress)
    cell = tuned(cell, params)
    key = cache_key(cell, params)
    if tasks := unfinished_runs(cell, params, key):
        if cell.mode == "probe":  # a second of work, which needs neither Dask nor torch
            run_here(tasks[0], partial(on_progress, tasks[0].name))
        else:
            from headswap.runs.cluster import run_parallel

            run_parallel(tasks, on_progress)
    write_outputs(cell, params, [run_folder(cell, key, seed) for seed in params.run_seeds(cell)])


def unfinished_trials(cell: Cell, params: Params) -> list[Task]:
    """Return a task for each run without which the cell's learning rate cannot be chosen."""
    found = [unfinished_runs(c, params, cache_key(c, params)) for c in planned(cell, params)[:-1]]
    return [task for tasks in found for task in tasks]


def unfinished_runs(cell: Cell, params: Params, key: dict[str, Any]) -> list[Task]:
    """Return a task for each run that is not finished, or damaged; print why none is reused."""
    folders = {seed: run_folder(cell, key, seed) for seed in params.run_seeds(cell)}
    damage = {seed: find_damage(folder) for seed, folder in folders.items()}
    for seed, files in damage.items():
        if files:
            what = f"{', '.join(files)} missing or damaged"
            console.print(f"{folders[seed]}: {what}; the run is trained again.")
    seeds = [seed for seed in folders if damage[seed] or not is_finished(folders[seed])]
    if len(seeds) == len(folders) and (changes := changes_since_last_run(cell, key)):
        unused = f"the finished runs in {RUNS / cell.name} are not used"
        console.print(f"{cell.name}: {unused}: {'; '.join(changes)}.")
    memory, epochs = expected_memory(cell), params.epochs(cell)
    return [
        Task(f"{cell.name} seed {seed}", TRAIN_RUN, (cell, params, seed, key), memory, epochs)
        for seed in seeds
    ]


def write_outputs(cell: Cell, params: Params, folders: list[Path]) -> None:
    """Write a cell's metrics, times, curves, predictions and models from its runs' folders."""
    runs = [read_json(folder / "run.json") for folder in folders]
    classes, names = _classes_and_names(cell)
    counts = {split: len(of_split) for split, of_split in names.items()}
    record = cell_record(cell, params.image, classes, counts, runs)
    if losses := log_losses(replace(cell, lr=None), params):
        console.print(f"{cell.name}: {describe_choice(losses)}.")
        record["tuning"] = [
            {"lr": rate, "log_loss": loss if math.isfinite(loss) else None}
            for rate, loss in losses.items()
        ]
    metrics = {
        **runs[0]["complexity"],
        "seeds": len(runs),
        "diverged": sum(run["diverged"] is not None for run in runs),
        **{f"{name}_digest": digest for name, digest in runs[0]["inputs"].items()},
        "preprocessing": record["preprocessing"],
        **({"tuning": describe_choice(losses)} if losses else {}),
    }
    write_json(CELL_METRICS / f"{cell.name}.json", metrics)
    timing = {**_timing(folders, runs), "precision": params.precision}
    if cell.mode != "probe":
        timing["weights_versions"] = weights_packages(cell.model)
    write_json(TIMING / f"{cell.name}.json", timing)
    write_csv(
        CURVES / f"{cell.name}.csv",
        ["seed", "epoch", "split", "loss", "accuracy"],
        [[run["seed"], *point] for run in runs for point in run["curves"]],
    )
    write_csv(
        PREDICTIONS / f"{cell.name}.csv",
        ["seed", "epoch", "which", "image", "label", "predicted"]
        + [f"p_{name}" for name in classes],
        _predictions(classes, names["val"], runs, folders),
    )
    _write_models(cell, folders, runs, record)


def _classes_and_names(cell: Cell) -> tuple[list[str], dict[str, list[str]]]:
    """Return the sorted classes, and for each split the sorted paths of its images."""
    if cell.mode == "probe":
        _, metadata = read_tensors(EMBEDDINGS / f"{cell.model}.safetensors", only=())
        return metadata["classes"], metadata["names"]
    index = read_index()
    return index.classes, index.names


def _timing(folders: list[Path], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the times of the runs that did not diverge, and on what: all values that differ."""
    timings = [read_json(folder / "timing.json") for folder in folders]
    pairs = zip(timings, runs, strict=True)
    finished = [timing["epochs"] for timing, run in pairs if run["diverged"] is None]
    wall = [sum(epoch["wall"] for epoch in epochs) for epochs in finished]
    seconds = [sum(sum(epoch.values()) - epoch["wall"] for epoch in epochs) for epochs in finished]
    result: dict[str, Any] = {
        "seconds_per_run": [round(of_run, 3) for of_run in seconds],
        "wall_seconds_per_run": [round(of_run, 3) for of_run in wall],
        "versions": runs[0]["versions"],
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


def _predictions(
    classes: list[str], images: list[str], runs: list[dict[str, Any]], folders: list[Path]
) -> Iterator[list[Any]]:
    """Yield a row for each run that did not diverge, epoch (best or last) and validation image."""
    for run, folder in zip(runs, folders, strict=True):
        if run["diverged"] is not None:
            continue
        probabilities, _ = read_tensors(folder / "probabilities.safetensors")
        for which in ("best", "last"):
            about_run = [run["seed"], run[which]["epoch"], which]
            for image, of_image in zip(images, probabilities[which], strict=True):
                name, predicted = image.removeprefix("val/"), classes[of_image.argmax()]
                texts = [f"{probability:.6g}" for probability in of_image]
                yield [*about_run, name, name.split("/")[0], predicted, *texts]


def _write_models(
    cell: Cell, folders: list[Path], runs: list[dict[str, Any]], record: dict[str, Any]
) -> None:
    """Write ``models/<cell>/``: the record of the cell and of each run, and trained tensors."""
    with atomic_write(MODELS / cell.name, replace_folder=True) as target:
        target.mkdir()
        write_json(target / RECORD, record)
        for folder, run in zip(folders, runs, strict=True):
            write_json(target / f"run-{run['seed']}.json", run)
            if run in runs_with_weights(cell, runs):
                shutil.copyfile(folder / TRAINED, target / weights_file(run))
