"""Features: the head's inputs for all images, when the backbone is frozen and in eval mode."""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headswap.errors import UserError
from headswap.images.index import read_index
from headswap.images.preprocessing import preprocessing
from headswap.io import digest, read_tensors, sha256, write_json
from headswap.params import Params
from headswap.paths import EMBEDDINGS, TIMING, WEIGHTS
from headswap.progress import OnProgress
from headswap.runs.cluster import run_parallel
from headswap.runs.locks import file_lock
from headswap.runs.provenance import code_digest, machine, versions
from headswap.runs.record import describe_inputs
from headswap.runs.store import runs_root, weights_packages
from headswap.runs.workers import Task, worker_count
from headswap.snapshot import unchanged
from headswap.train.complexity import measure_complexity
from headswap.train.dataset import Batches, ImageDataset
from headswap.train.devices import resolve_device
from headswap.train.loop import make_autocast
from headswap.train.networks import replace_layer
from headswap.train.seeds import generator
from headswap.train.tensors import save_tensors
from headswap.train.timing import device_time
from headswap.train.weights import load_pretrained


class FeatureDataset:
    """The features of a data set, in place of its images.

    Parameters
    ----------
    path
        A file that `write_features` wrote.

    Attributes
    ----------
    classes : list of str
        Sorted; a label is an index into it.
    names : dict of str to list of str
        For each split the paths of its images, sorted.
    labels : dict of str to torch.Tensor
        For each split int64, shape (images,).
    backbone : dict
        Its complexity without a head (see `complexity.measure_complexity`).
    features : int
        The number of features of an image.
    """

    def __init__(self, path: Path):
        tensors, metadata = read_tensors(path, "pt")
        self.classes, self.names = metadata["classes"], metadata["names"]
        self.backbone = metadata["backbone"]
        self.labels = {"train": tensors["train_labels"], "val": tensors["val_labels"]}
        # Copied out of the mapped file: the order of MKL's sums depends on a tensor's alignment.
        self._train, self._val = tensors["train"], tensors["val"].clone()
        self.features = self._val.shape[1]

    def train_batches(self, seed: int, epoch: int, batch_size: int) -> Batches:
        """Yield the batches of an epoch, each image in a random one of its augmented views."""
        views, images, _ = self._train.shape
        order = torch.randperm(images, generator=generator(seed, "order", epoch))
        random = generator(seed, "augmentation", epoch)
        view = torch.randint(views, (images,), generator=random)
        for indices in order.split(batch_size):
            yield self._train[view[indices], indices], self.labels["train"][indices]

    def val_batches(self) -> Batches:
        """Yield the validation images in one batch."""
        yield self._val, self.labels["val"]


def write_features(
    model: str,
    params: Params,
    on_progress: OnProgress,
) -> None:
    """Compute the features of a backbone, in parallel, and write them and the time it took.

    Parameters
    ----------
    model
        A model of ``params.yaml``.
    params
        All parameters.
    on_progress
        Called after some batches, with their share of a part: of a split, or of an augmented view
        of the training images.

    Raises
    ------
    UserError
        If a worker fails. The finished parts are kept for the next attempt.
    """
    key = _cache_key(model, params)
    folder = runs_root() / f"{model}-embed" / digest(key)
    parts = ["val", "train", *map(str, range(params.embed.views))]
    name = f"{model} views"
    with file_lock(
        folder.with_suffix(".lock"), lambda note: on_progress(name, {"by": 0, "note": note})
    ):
        unfinished = [part for part in parts if not _is_finished(folder / f"{part}.safetensors")]
        workers = min(worker_count(), len(unfinished))
        shares = [unfinished[worker::workers] for worker in range(workers)]
        tasks = [Task(name, compute_parts, (model, params, share, folder)) for share in shares]
        with unchanged(key, lambda: _cache_key(model, params), written=folder):
            run_parallel(tasks, on_progress)
        inputs = describe_inputs(model, params.image, key["images"], key["weights"])
        _write_joined(model, params, folder, parts, key["versions"], inputs)
        shutil.rmtree(folder)


def _cache_key(model: str, params: Params) -> dict[str, Any]:
    """Return all that the features depend on, except the number of views."""
    return {
        **params.model_dump(include={"embed": {"seed"}, "precision": True}),
        "image": asdict(preprocessing(model, params.image)),
        "device": resolve_device(params.device),
        "images": read_index().digest,
        "weights": sha256(WEIGHTS / f"{model}.safetensors"),
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
    model: str,
    params: Params,
    parts: list[str],
    folder: Path,
    *,
    on_progress: Callable[..., None],
) -> None:
    """Compute parts of the features, and write each to a file of its own.

    A part is a split, whose images are center-cropped, or the number of an augmented view of the
    training images. `on_progress` is called with the share of a part that was computed since.
    """
    torch.set_num_threads(1)
    device = resolve_device(params.device)
    backbone = _backbone(model, params)
    backbone.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    dataset = ImageDataset(preprocessing(model, params.image))
    for part in parts:
        start, wall = device_time(device), time.perf_counter()
        batches: Iterable[torch.Tensor]
        if part == "val":
            batches = (inputs for inputs, _ in dataset.val_batches())
        elif part == "train":
            batches = dataset.center_cropped_train_batches()
        else:
            batches = dataset.augmented_batches(params.embed.seed, int(part))
        images = len(dataset.labels["val" if part == "val" else "train"])
        batches = _counted(batches, images, on_progress)
        autocast = make_autocast(params.precision, device)
        features = compute_features(backbone, batches, autocast, device)
        seconds, wall = device_time(device) - start, time.perf_counter() - wall
        tensors = {"features": features}
        save_tensors(folder / f"{part}.safetensors", tensors, seconds=seconds, wall=wall)


def _counted(
    batches: Iterable[torch.Tensor], images: int, on_progress: Callable[..., None]
) -> Iterator[torch.Tensor]:
    """Yield the batches; say at most twice a second by which share of all images there are more."""
    computed, since = 0, time.monotonic()
    for batch in batches:
        yield batch
        computed += len(batch)
        if time.monotonic() - since > 0.5:
            on_progress(by=computed / images)
            computed, since = 0, time.monotonic()
    on_progress(by=computed / images)


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
        **machine(resolve_device(params.device)),
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
