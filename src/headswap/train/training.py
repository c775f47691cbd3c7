"""What computes with a pretrained network: its features, and the training with a new head."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headswap.images.index import read_index
from headswap.images.preprocessing import Preprocessing, preprocessing
from headswap.params import Cell, Params
from headswap.paths import IMAGES
from headswap.progress import OnProgress
from headswap.runs import provenance, store
from headswap.runs.features import BATCH, feature_key
from headswap.snapshot import unchanged
from headswap.train import devices, networks, seeds, weights
from headswap.train.complexity import measure_complexity
from headswap.train.dataset import ImageDataset, decode, evaluation_transform, normalize
from headswap.train.loop import make_autocast, train, trainable_state
from headswap.train.probe import fit_probe
from headswap.train.speed import keep_freed_memory

Parts = Mapping[Path, list[str]]
Tensors = Iterable[torch.Tensor]


def train_network(
    cell: Cell, params: Params, seed: int, folder: Path, on_progress: OnProgress
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Train a network and write it; return what ``run.json`` says, and each epoch's seconds."""
    torch.set_num_threads(1)  # as many change the order of sums, and so the result
    keep_freed_memory()
    recipe = params.recipe(cell)
    index = store.index_of_run(read_index(), cell, params, seed)
    dataset = ImageDataset(preprocessing(cell.model, params.image), index, recipe.flip)
    network = build_network(cell, params, dataset, seed)
    complexity = {
        "trainable_parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
        **measure_complexity(network, dataset.preprocessing.size),
    }
    how: dict[str, Any] = params.model_dump(include={"precision", "device"})
    how |= {"on_progress": store.with_progress_file(folder, on_progress)}
    history = train(network, dataset, recipe, seed, checkpoint=folder / "checkpoint.pt", **how)
    record: dict[str, Any] = {"complexity": complexity, "diverged": history.diverged}
    epochs = {"best": history.best, "last": history.last}
    for which, epoch in epochs.items():
        accuracy = epoch["accuracy"] if epoch and len(dataset.labels["val"]) else None
        record[which] = {"epoch": epoch["epoch"], "accuracy": accuracy} if epoch else None
    if history.diverged is None:
        weights.save_tensors(folder / store.TRAINED, trainable_state(network))
        probabilities = {which: epoch["probabilities"] for which, epoch in epochs.items()}
        weights.save_tensors(folder / "probabilities.safetensors", probabilities)
    return {**record, "curves": history.curves}, history.seconds


def build_network(cell: Cell, params: Params, dataset: ImageDataset, seed: int) -> nn.Module:
    """Build the network of a run, whose new head is random, or the probe of the training images."""
    network, name = weights.load_pretrained(cell.model, params)
    network.requires_grad_(cell.mode == "finetune")  # whatever a factory did; the head is new
    width: Any = network.get_submodule(name).in_features
    head = networks.new_head(width, len(dataset.classes), seeds.generator(seed, "head"))
    if params.recipe(cell).head == "probe":  # Kumar et al., "Fine-Tuning can Distort …", ICLR 2022
        network.set_submodule(name, nn.Identity())
        batches = _read(dataset.names["train"], dataset.preprocessing, 0, lambda _: None)
        features = compute_features(network, batches, params.precision, params.device).numpy()
        labels = dataset.labels["train"].numpy()
        fit = fit_probe(features, labels, head.out_features, 0, dataset.groups)
        head.load_state_dict({"weight": torch.tensor(fit.weight), "bias": torch.tensor(fit.bias)})
    network.set_submodule(name, head)
    return network


def compute_parts(
    model: str, params: Params, key: dict[str, Any], parts: Parts, on_progress: OnProgress
) -> None:
    """Compute parts of the features, the images of each by its file; `key` is `feature_key`'s."""
    torch.set_num_threads(1)
    keep_freed_memory()
    how, values = (params.precision, params.device), preprocessing(model, params.image)
    folder = next(iter(parts)).parent
    with unchanged(key, lambda: feature_key(model, params), written=folder):
        backbone, head = weights.load_pretrained(model, params)
        backbone.set_submodule(head, nn.Identity())
        complexity = measure_complexity(backbone, values.size)
        machine = provenance.machine(devices.device_name(params.device))
        for number, (file, names) in enumerate(parts.items()):
            on_progress(number)
            watch = devices.Stopwatch(params.device)
            batches = _read(names, values, number, on_progress)
            features = compute_features(backbone, batches, *how)
            about = {"seconds": watch.lap(), "wall": watch.wall_lap(), "machine": machine}
            weights.save_tensors(file, {"features": features}, backbone=complexity, **about)


def _read(names: list[str], values: Preprocessing, part: int, on_progress: OnProgress) -> Tensors:
    fit = evaluation_transform(values)
    for end in range(BATCH, len(names) + BATCH, BATCH):
        yield normalize([fit(decode(IMAGES / name)) for name in names[end - BATCH : end]], values)
        on_progress(part + min(1, end / len(names)))


@torch.no_grad()  # not inference mode, in which autocast does not cache the weights that it casts
def compute_features(
    backbone: nn.Module, batches: Tensors, precision: str = "float32", device: str = "cpu"
) -> torch.Tensor:
    """Return the outputs of a backbone in eval mode: float32, shape (images, features)."""
    backbone.eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with make_autocast(precision, device):
        return torch.cat([backbone(batch.to(device)).float().cpu() for batch in batches])
