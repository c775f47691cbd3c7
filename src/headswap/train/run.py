"""One run: a cell trained with one seed to its end."""

import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headswap.images.preprocessing import preprocessing
from headswap.io import write_json
from headswap.params import Cell, Params
from headswap.paths import EMBEDDINGS
from headswap.progress import OnProgress
from headswap.runs.keys import cache_key
from headswap.runs.locks import file_lock
from headswap.runs.provenance import machine
from headswap.runs.record import TRAINED
from headswap.runs.store import (
    delete_checkpoint,
    file_digests,
    find_damage,
    is_finished,
    run_folder,
    with_progress_file,
)
from headswap.snapshot import unchanged
from headswap.train.checkpoint import History, trainable_state
from headswap.train.complexity import measure_complexity
from headswap.train.dataset import Dataset, FeatureDataset, ImageDataset
from headswap.train.devices import device_name
from headswap.train.loop import train
from headswap.train.networks import freeze_all_but, new_head, replace_layer
from headswap.train.seeds import generator
from headswap.train.weights import load_pretrained, save_tensors

RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes of the unit in which the system reports memory."""


def train_run(
    cell: Cell, params: Params, seed: int, key: dict[str, Any], on_progress: OnProgress
) -> None:
    """Train a run from its last finished epoch to its end, unless another process has finished it.

    While it is trained, its folder holds a checkpoint and ``progress.json``. `key` is the cell's
    cache key: a run is not kept if images, weights or code are not those of the key.
    """
    torch.set_num_threads(1)  # as many change the order of sums, and so the result
    folder = run_folder(cell, key, seed)
    with file_lock(folder.with_suffix(".lock"), on_progress):
        if find_damage(folder):
            shutil.rmtree(folder)
        if not is_finished(folder):
            with unchanged(key, lambda: cache_key(cell, params), written=folder):
                dataset = open_dataset(cell, params)
                network = build_network(cell, params, dataset, seed)
                complexity = _complexity(dataset, network)
                history = train(
                    network,
                    dataset,
                    params.recipe(cell),
                    seed,
                    precision=params.precision,
                    device=params.device,
                    checkpoint=folder / "checkpoint.pt",
                    on_progress=with_progress_file(folder, on_progress),
                )
                if history.diverged is None:
                    _write_tensors(folder, network, history)
            _write_record(params, folder, {**key, "seed": seed, "complexity": complexity}, history)
        delete_checkpoint(folder)  # also of a process that was killed at the end of the run


def open_dataset(cell: Cell, params: Params) -> Dataset:
    """Open what a cell is trained on: images, or in `probe` features."""
    if cell.mode == "probe":
        return FeatureDataset(EMBEDDINGS / f"{cell.model}.safetensors")
    return ImageDataset(preprocessing(cell.model, params.image), held_out=cell.held_out)


def build_network(cell: Cell, params: Params, dataset: Dataset, seed: int) -> nn.Module:
    """Build the network of a run, with a new head; in `probe` the head is all of it."""
    random, classes = generator(seed, "head"), len(dataset.classes)
    if isinstance(dataset, FeatureDataset):
        return new_head(dataset.features, classes, random)
    network, head = load_pretrained(cell.model, params)
    network.requires_grad_(True)  # a factory may have frozen it
    features: Any = network.get_submodule(head).in_features
    replace_layer(network, head, new_head(features, classes, random))
    if cell.mode == "frozen":
        freeze_all_but(network, head)
    return network


def _complexity(dataset: Dataset, network: nn.Module) -> dict[str, Any]:
    """Return the number of trained parameters, and the complexity of backbone and head."""
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    if isinstance(dataset, ImageDataset):
        complexity = measure_complexity(network, dataset.preprocessing.size)
        return {"trainable_parameters": trained, **complexity}
    return {
        "trainable_parameters": trained,
        "parameters": dataset.backbone["parameters"] + trained,
        "gmacs": round(
            dataset.backbone["gmacs"] + dataset.features * len(dataset.classes) / 1e9, 6
        ),
        "depth": dataset.backbone["depth"] + 1,
    }


def _write_tensors(folder: Path, network: nn.Module, history: History) -> None:
    """Write what was trained, and the probabilities at the best and the last epoch."""
    save_tensors(folder / TRAINED, trainable_state(network))
    epochs = {"best": history.best, "last": history.last}
    probabilities = {which: epoch["probabilities"] for which, epoch in epochs.items()}
    save_tensors(folder / "probabilities.safetensors", probabilities)


def _write_record(
    params: Params, folder: Path, made_from: dict[str, Any], history: History
) -> None:
    """Write all that has a clock in it, and ``run.json``, with which the run is finished."""
    times = {
        "epochs": history.seconds,
        "memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT,
        **machine(device_name(params.device)),
    }
    write_json(folder / "timing.json", times)
    epochs = {"best": history.best, "last": history.last}
    record = {
        **made_from,
        "diverged": history.diverged,
        **{
            which: {name: epoch[name] for name in ("epoch", "accuracy")} if epoch else None
            for which, epoch in epochs.items()
        },
        "curves": history.curves,
        "files": file_digests(folder),
    }
    write_json(folder / "run.json", record)
