"""One run: a cell trained with one seed to its end, in a process of its own."""

import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headswap.images.preprocessing import preprocessing
from headswap.io import write_json
from headswap.params import Cell, Params
from headswap.paths import EMBEDDINGS
from headswap.runs.provenance import machine
from headswap.runs.status import recorded
from headswap.runs.store import (
    cache_key,
    delete_checkpoint,
    file_digests,
    run_folder,
)
from headswap.snapshot import unchanged
from headswap.train.checkpoint import trainable_state
from headswap.train.complexity import measure_complexity
from headswap.train.dataset import ImageDataset
from headswap.train.features import FeatureDataset
from headswap.train.loop import train
from headswap.train.networks import freeze_all_but, new_head, replace_layer
from headswap.train.seeds import generator
from headswap.train.tensors import save_tensors
from headswap.train.weights import load_pretrained

RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes of the unit in which the system reports memory."""


def train_run(
    cell: Cell,
    params: Params,
    seed: int,
    key: dict[str, Any],
    *,
    on_progress: Callable[..., None],
) -> None:
    """Train a run to its end, from its last finished epoch on, and save its result.

    While it is trained, its folder holds a checkpoint and ``progress.json`` (`status.recorded`).
    The folder (`run_cache.run_folder`) then has ``timing.json``;
    ``probabilities.safetensors`` (of the validation images at the best and the last epoch);
    ``best.safetensors`` and ``last.safetensors`` (the trainable state; of `finetune` the best
    only); and ``run.json`` (everything but times). ``run.json`` is written last: with it the run is
    finished.

    Parameters
    ----------
    cell, params, seed
        What is trained.
    key
        The cell's cache key (`run_cache.cache_key`), after which the run's folder is named.
    on_progress
        Called after each epoch (see `loop.train`).

    Raises
    ------
    UserError
        If the images, the weights or the code are not, at its start or its end, those of the key.
    """
    folder = run_folder(cell, key, seed)
    with unchanged(key, lambda: cache_key(cell, params), written=folder):
        record = _train(cell, params, seed, key, folder, on_progress)
    write_json(folder / "run.json", record)
    delete_checkpoint(folder)


def _train(
    cell: Cell,
    params: Params,
    seed: int,
    key: dict[str, Any],
    folder: Path,
    on_progress: Callable[..., None],
) -> dict[str, Any]:
    """Train a run and write its files but ``run.json``, whose content is returned."""
    torch.set_num_threads(1)
    dataset = open_dataset(cell, params)
    network = build_network(cell, params, dataset, seed)
    complexity = _complexity(dataset, network)
    recipe = params.recipe(cell)
    history = train(
        network,
        dataset,
        recipe,
        seed,
        precision=params.precision,
        device=key["device"],
        checkpoint=folder / "checkpoint.pt",
        on_progress=recorded(folder, recipe.epochs, on_progress),
    )
    if history.best:
        save_tensors(folder / "best.safetensors", history.best["state"])
        if cell.mode != "finetune" and history.diverged is None:
            save_tensors(folder / "last.safetensors", trainable_state(network))
        epochs = {"best": history.best, "last": history.last}
        probabilities = {which: epoch["probabilities"] for which, epoch in epochs.items()}
        save_tensors(folder / "probabilities.safetensors", probabilities)
    times = {
        "epochs": history.seconds,
        "memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT,
        **machine(key["device"]),
    }
    write_json(folder / "timing.json", times)
    return {
        **key,
        "seed": seed,
        "complexity": complexity,
        "diverged": history.diverged,
        "best": _without_tensors(history.best),
        "last": _without_tensors(history.last),
        "curves": history.curves,
        "files": file_digests(folder),
    }


def _without_tensors(epoch: dict[str, Any]) -> dict[str, Any] | None:
    return {name: epoch[name] for name in ("epoch", "accuracy")} if epoch else None


def open_dataset(cell: Cell, params: Params) -> ImageDataset | FeatureDataset:
    """Open what a cell is trained on: images, or in `probe` features."""
    if cell.mode == "probe":
        return FeatureDataset(EMBEDDINGS / f"{cell.model}.safetensors")
    return ImageDataset(preprocessing(cell.model, params.image))


def build_network(
    cell: Cell, params: Params, dataset: ImageDataset | FeatureDataset, seed: int
) -> nn.Module:
    """Build the network of a run, with a new head; in `probe` the head is all of it."""
    random, classes = generator(seed, "head"), len(dataset.classes)
    if isinstance(dataset, FeatureDataset):
        return new_head(dataset.features, classes, random)
    network, head = load_pretrained(cell.model, params)
    features: Any = network.get_submodule(head).in_features
    replace_layer(network, head, new_head(features, classes, random))
    if cell.mode == "frozen":
        freeze_all_but(network, head)
    return network


def _complexity(dataset: ImageDataset | FeatureDataset, network: nn.Module) -> dict[str, Any]:
    """Return the number of trained parameters, and the complexity of backbone and head."""
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    if isinstance(dataset, ImageDataset):
        complexity = measure_complexity(network, dataset.preprocessing.size)
        return {"trainable_parameters": trained, **complexity}
    classes = len(dataset.classes)
    return {
        "trainable_parameters": trained,
        "parameters": dataset.backbone["parameters"] + trained,
        "gmacs": round(dataset.backbone["gmacs"] + dataset.features * classes / 1e9, 6),
        "activations": dataset.backbone["activations"] + classes,
        "depth": dataset.backbone["depth"] + 1,
    }
