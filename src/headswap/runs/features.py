"""The features of a network: computed in parts by several workers, and joined."""

import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from headswap.errors import UserError
from headswap.images.index import read_index
from headswap.images.preprocessing import preprocessing
from headswap.io import digest, read_tensors, write_json, write_tensors
from headswap.params import Params
from headswap.paths import EMBEDDINGS, TIMING, WEIGHTS
from headswap.progress import console, progress
from headswap.runs.cluster import run_parallel
from headswap.runs.provenance import (
    code_digest,
    describe_inputs,
    file_digest,
    versions,
    weights_packages,
)
from headswap.runs.store import BASE_MEMORY, file_lock, runs_root
from headswap.runs.workers import Task, worker_count

COMPUTE_PARTS = "headswap.train.training:compute_parts"
"""The function that a worker computes features with."""
PARTS = 16
BATCH = 32
"""Images that are computed at once. It affects the last bits, so it is not a parameter."""


def write_features(model: str, params: Params) -> None:
    """Compute the features of a backbone in parallel; write them, and the time that they took.

    If a worker fails, the finished parts are kept.
    """
    key = feature_key(model, params)
    folder = next(iter(_parts(model, key))).parent

    def on_wait(_: None, note: str) -> None:
        console.print(f"{model}-embed: {note}")

    with file_lock(folder.with_suffix(".lock"), on_wait):
        if tasks := feature_tasks(model, params, key):
            with progress("part", {task.name: task.steps for task in tasks}) as on_progress:
                run_parallel(tasks, on_progress)
        _join(model, params, key)
        shutil.rmtree(folder)


def feature_tasks(model: str, params: Params, key: dict[str, Any]) -> list[Task]:
    """Return a task for each worker that can take a share of the unfinished parts."""
    parts = _parts(model, key)
    unfinished = [file for file in parts if not _is_finished(file)]
    workers = min(max(1, worker_count()), len(unfinished))
    shares = [unfinished[worker::workers] for worker in range(workers)]
    memory = BASE_MEMORY + 2 * (WEIGHTS / f"{model}.safetensors").stat().st_size
    return [
        Task(
            f"{model} features {number}",
            COMPUTE_PARTS,
            (model, params, key, {file: parts[file] for file in share}),
            memory,
            len(share),
        )
        for number, share in enumerate(shares)
    ]


def feature_key(model: str, params: Params) -> dict[str, Any]:
    """Return all that the features of a network depend on."""
    return {
        **params.model_dump(include={"precision", "device"}),
        "image": asdict(preprocessing(model, params.image)),
        "images": read_index().digest,
        "weights": file_digest(WEIGHTS / f"{model}.safetensors"),
        "code": code_digest(),
        "versions": versions(weights_packages(model)),
    }


def _parts(model: str, key: dict[str, Any]) -> dict[Path, list[str]]:
    """Return the images of each part by its file: whole batches, however many workers there are."""
    paths = [row.path for row in read_index().rows]
    size = BATCH * math.ceil(len(paths) / BATCH / PARTS)
    folder = runs_root() / f"{model}-embed" / digest(key)
    starts = range(0, len(paths), size)
    return {folder / f"{start}.safetensors": paths[start : start + size] for start in starts}


def _is_finished(path: Path) -> bool:
    """Return whether a part was computed, and is not damaged."""
    try:
        return bool(read_tensors(path)[0])
    except UserError:
        return False


def _join(model: str, params: Params, key: dict[str, Any]) -> None:
    """Join the parts into one file, and sum their times."""
    index = read_index()
    parts, metadata = zip(*map(read_tensors, _parts(model, key)), strict=True)
    write_tensors(
        EMBEDDINGS / f"{model}.safetensors",
        {"features": np.concatenate([part["features"] for part in parts])},
        rows=[row[:4] for row in index.rows],
        inputs=describe_inputs(model, params.image, key["images"], key["weights"]),
        backbone=metadata[0]["backbone"],
    )
    times = {
        "seconds": round(sum(part["seconds"] for part in metadata), 3),
        "wall_seconds": round(sum(part["wall"] for part in metadata), 3),
        "precision": params.precision,
        **metadata[0]["machine"],
        "versions": key["versions"],
        "weights_versions": weights_packages(model),
    }
    write_json(TIMING / f"{model}-embed.json", times)
