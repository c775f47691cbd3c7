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
from headswap.runs import cluster, provenance, store
from headswap.runs.workers import Task, worker_count

PARTS = 16
BATCH = 32  # images that are computed at once: they affect the last bits, so no parameter


def write_features(model: str, params: Params) -> None:
    """Compute the features of a backbone in parallel; write them, and the time that they took."""
    key = feature_key(model, params)
    parts = _parts(model, key)
    folder = next(iter(parts)).parent
    lock = folder.with_suffix(".lock")
    with store.file_lock(lock, lambda _, note: console.print(f"{model}-embed: {note}")):
        if tasks := feature_tasks(model, params, key):
            with progress("part", {task.name: task.steps for task in tasks}) as on_progress:
                cluster.run_parallel(tasks, on_progress)
        tensors, metadata = zip(*map(read_tensors, parts), strict=True)
        features = np.concatenate([part["features"] for part in tensors])
        inputs = provenance.describe_inputs(model, params.image, key["images"], key["weights"])
        write_tensors(
            EMBEDDINGS / f"{model}.safetensors",
            {"features": features},
            rows=[row[:4] for row in read_index().rows],
            inputs=inputs,
            backbone=metadata[0]["backbone"],
        )
        times = {
            "seconds": round(sum(part["seconds"] for part in metadata), 3),
            "wall_seconds": round(sum(part["wall"] for part in metadata), 3),
            "precision": params.precision,
            **metadata[0]["machine"],
            "versions": key["versions"],
            "weights_versions": provenance.weights_packages(model),
        }
        write_json(TIMING / f"{model}-embed.json", times)
        shutil.rmtree(folder)


def feature_tasks(model: str, params: Params, key: dict[str, Any]) -> list[Task]:
    """Return a task for each worker that can take a share of the unfinished parts."""
    unfinished = []
    for part in _parts(model, key).items():
        try:
            read_tensors(part[0])
        except UserError:  # it was not computed, or is damaged
            unfinished.append(part)
    workers = min(max(1, worker_count()), len(unfinished))
    shares = [dict(unfinished[worker::workers]) for worker in range(workers)]
    memory = store.BASE_MEMORY + 2 * (WEIGHTS / f"{model}.safetensors").stat().st_size
    function = "headswap.train.training:compute_parts"
    return [
        Task(f"{model} features {n}", function, (model, params, key, share), memory, len(share))
        for n, share in enumerate(shares)
    ]


def feature_key(model: str, params: Params) -> dict[str, Any]:
    """Return all that the features of a network depend on."""
    return {
        **params.model_dump(include={"precision", "device"}),
        "image": asdict(preprocessing(model, params.image)),
        "images": read_index().digest,
        "weights": provenance.file_digest(WEIGHTS / f"{model}.safetensors"),
        "code": provenance.code_digest(),
        "versions": provenance.versions(provenance.weights_packages(model)),
    }


def _parts(model: str, key: dict[str, Any]) -> dict[Path, list[str]]:
    """Return the images of each part by its file: whole batches, however many workers there are."""
    paths = [row.path for row in read_index().rows]
    size = BATCH * math.ceil(len(paths) / BATCH / PARTS)
    folder = store.runs_root() / f"{model}-embed" / digest(key)
    starts = range(0, len(paths), size)
    return {folder / f"{start}.safetensors": paths[start : start + size] for start in starts}
