"""Features: the head's inputs for all images, when the backbone is frozen and in eval mode."""

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headswap.errors import UserError
from headswap.images.index import read_index
from headswap.images.preprocessing import preprocessing
from headswap.io import digest, read_tensors, write_json
from headswap.params import Params
from headswap.paths import EMBEDDINGS, TIMING, WEIGHTS
from headswap.progress import OnProgress
from headswap.runs.cluster import run_parallel
from headswap.runs.keys import code_digest, file_digest, weights_packages
from headswap.runs.locks import file_lock
from headswap.runs.provenance import machine, versions
from headswap.runs.record import describe_inputs
from headswap.runs.store import runs_root
from headswap.runs.workers import Task, worker_count
from headswap.snapshot import unchanged
from headswap.train.complexity import measure_complexity
from headswap.train.dataset import ImageDataset
from headswap.train.devices import device_name, device_time
from headswap.train.loop import make_autocast
from headswap.train.networks import replace_layer
from headswap.train.weights import load_pretrained, save_tensors

COMPUTE_PARTS = "headswap.train.features:compute_parts"
"""The function that a worker computes features with."""


def write_features(model: str, params: Params, on_progress: OnProgress) -> None:
    """Compute the features of a backbone, in parallel, and write them and the time it took.

    `on_progress` is called with the number of parts that are done: of the two splits, and of
    the augmented views of the training images. If a worker fails, the finished parts are kept.
    """
    key = _cache_key(model, params)
    folder = runs_root() / f"{model}-embed" / digest(key)
    parts = ["val", "train", *map(str, range(params.embed.views))]
    on_progress = partial(on_progress, f"{model} views")
    with file_lock(folder.with_suffix(".lock"), on_progress):
        unfinished = [part for part in parts if not _is_finished(folder / f"{part}.safetensors")]
        workers = max(1, min(worker_count(), len(unfinished)))
        shares = [unfinished[worker::workers] for worker in range(workers)]
        tasks = [
            Task(f"{model} views {number}", COMPUTE_PARTS, (model, params, share, folder))
            for number, share in enumerate(shares)
        ]
        with unchanged(key, lambda: _cache_key(model, params), written=folder):
            run_parallel(tasks, _sum_of_tasks(on_progress, len(parts) - len(unfinished)))
        inputs = describe_inputs(model, params.image, key["images"], key["weights"])
        _write_joined(model, params, folder, parts, key["versions"], inputs)
        shutil.rmtree(folder)


def _sum_of_tasks(on_progress: OnProgress, already: int) -> OnProgress:
    """Return what adds up what several tasks have done."""
    done_by_task: dict[str, float] = {}

    def on_progress_of_one(
        task: str, done: float | None, figures: Mapping[str, float] | None = None, note: str = ""
    ) -> None:
        if done is not None:
            done_by_task[task] = done
        total = already + round(sum(done_by_task.values()), 6)  # of many small steps
        on_progress(total, figures, note)

    return on_progress_of_one


def _cache_key(model: str, params: Params) -> dict[str, Any]:
    """Return all that the features depend on, except the number of views."""
    return {
        **params.model_dump(include={"embed": {"seed"}, "precision": True, "device": True}),
        "image": asdict(preprocessing(model, params.image)),
        "images": read_index().digest,
        "weights": file_digest(WEIGHTS / f"{model}.safetensors"),
        "code": code_digest(),
        "versions": versions(weights_packages(model)),
    }


def _is_finished(path: Path) -> bool:
    """Return whether a part of the features was computed, and is not damaged."""
    try:
        return bool(read_tensors(path)[0])
    except UserError:
        return False


def compute_parts(
    model: str, params: Params, parts: list[str], folder: Path, on_progress: OnProgress
) -> None:
    """Compute parts of the features, and write each to a file of its own.

    A part is a split, whose images are center-cropped, or the number of an augmented view of the
    training images.
    """
    torch.set_num_threads(1)
    device = params.device
    backbone = _backbone(model, params)
    backbone.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    dataset = ImageDataset(preprocessing(model, params.image))
    for number, part in enumerate(parts):
        start, wall = device_time(device), time.perf_counter()
        batches: Iterable[torch.Tensor]
        if part == "val":
            batches = (inputs for inputs, _ in dataset.val_batches())
        elif part == "train":
            batches = dataset.center_cropped_train_batches()
        else:
            batches = dataset.augmented_batches(params.embed.seed, int(part))
        images = len(dataset.labels["val" if part == "val" else "train"])
        batches = _counted(batches, number, images, on_progress)
        autocast = make_autocast(params.precision, device)
        features = compute_features(backbone, batches, autocast, device)
        seconds, wall = device_time(device) - start, time.perf_counter() - wall
        tensors = {"features": features}
        save_tensors(folder / f"{part}.safetensors", tensors, seconds=seconds, wall=wall)


def _counted(
    batches: Iterable[torch.Tensor], part: int, images: int, on_progress: OnProgress
) -> Iterator[torch.Tensor]:
    """Yield the batches of a part; after each, say how much of its images is done."""
    computed = 0
    for batch in batches:
        yield batch
        computed += len(batch)
        on_progress(part + computed / images)


@torch.no_grad()  # not inference mode, in which autocast does not cache the weights that it casts
def compute_features(
    backbone: nn.Module,
    batches: Iterable[torch.Tensor],
    autocast: AbstractContextManager[Any],
    device: str,
) -> torch.Tensor:
    """Return the outputs of a backbone in eval mode: float32, shape (images, features)."""
    backbone.eval()
    with autocast:
        return torch.cat([backbone(batch.to(device)).float().cpu() for batch in batches])


def _backbone(model: str, params: Params) -> nn.Module:
    """Return a pretrained network whose output is the input of its head."""
    network, head = load_pretrained(model, params)
    replace_layer(network, head, nn.Identity())
    return network


def _write_joined(
    model: str,
    params: Params,
    folder: Path,
    parts: list[str],
    made_by: dict[str, str],
    inputs: dict[str, Any],
) -> None:
    """Join the parts into the file that `FeatureDataset` reads, and sum their times."""
    dataset = ImageDataset(preprocessing(model, params.image))
    features, seconds, wall = {}, 0.0, 0.0
    for part in parts:
        tensors, metadata = read_tensors(folder / f"{part}.safetensors", "pt")
        features[part] = tensors["features"]
        seconds += metadata["seconds"]
        wall += metadata["wall"]
    origin = {
        "precision": params.precision,
        **machine(device_name(params.device)),
        "versions": made_by,
        "weights_versions": weights_packages(model),
    }
    times = {"seconds": round(seconds, 3), "wall_seconds": round(wall, 3)}
    write_json(TIMING / f"{model}-embed.json", {**times, **origin})
    save_tensors(
        EMBEDDINGS / f"{model}.safetensors",
        {
            "train": torch.stack([features[str(view)] for view in range(params.embed.views)]),
            "train_centred": features["train"],
            "val": features["val"],
            "train_labels": dataset.labels["train"],
            "val_labels": dataset.labels["val"],
        },
        classes=dataset.classes,
        names=dataset.names,
        inputs=inputs,
        backbone=measure_complexity(_backbone(model, params), dataset.preprocessing.size),
    )
