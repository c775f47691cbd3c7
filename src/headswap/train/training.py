"""What a run trains: a pretrained network with a new head, all of it or the head alone."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from headswap.images.index import read_index
from headswap.images.preprocessing import preprocessing
from headswap.params import Cell, Params
from headswap.progress import OnProgress
from headswap.runs.store import TRAINED, index_of_run, with_progress_file
from headswap.train.checkpoint import trainable_state
from headswap.train.complexity import measure_complexity
from headswap.train.dataset import ImageDataset
from headswap.train.features import compute_features
from headswap.train.loop import make_autocast, train
from headswap.train.networks import freeze_all_but, new_head, replace_layer
from headswap.train.probe import fit_probe
from headswap.train.seeds import generator
from headswap.train.speed.memory import keep_freed_memory
from headswap.train.weights import load_pretrained, save_tensors


def train_network(
    cell: Cell, params: Params, seed: int, folder: Path, on_progress: OnProgress
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Train a network; return what ``run.json`` says of it, and the seconds of each epoch.

    While it is trained, the run's folder holds a checkpoint and ``progress.json``; then, unless it
    diverged, what was trained, and the probabilities at the best and the last epoch.
    """
    torch.set_num_threads(1)  # as many change the order of sums, and so the result
    keep_freed_memory()
    recipe = params.recipe(cell)
    index = index_of_run(read_index(), cell, params, seed)
    dataset = ImageDataset(preprocessing(cell.model, params.image), index, recipe.flip)
    network = build_network(cell, params, dataset, seed)
    complexity = {
        "trainable_parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
        **measure_complexity(network, dataset.preprocessing.size),
    }
    history = train(
        network,
        dataset,
        recipe,
        seed,
        precision=params.precision,
        device=params.device,
        checkpoint=folder / "checkpoint.pt",
        on_progress=with_progress_file(folder, on_progress),
    )
    epochs = {"best": history.best, "last": history.last}
    if history.diverged is None:
        save_tensors(folder / TRAINED, trainable_state(network))
        probabilities = {which: epoch["probabilities"] for which, epoch in epochs.items()}
        save_tensors(folder / "probabilities.safetensors", probabilities)
    validated = len(dataset.labels["val"]) > 0
    record = {
        "complexity": complexity,
        "diverged": history.diverged,
        **{
            which: {"epoch": epoch["epoch"], "accuracy": epoch["accuracy"] if validated else None}
            if epoch
            else None
            for which, epoch in epochs.items()
        },
        "curves": history.curves,
    }
    return record, history.seconds


def build_network(cell: Cell, params: Params, dataset: ImageDataset, seed: int) -> nn.Module:
    """Build the network of a run, with a new head."""
    network, head = load_pretrained(cell.model, params)
    network.requires_grad_(True)  # a factory may have frozen it
    features: Any = network.get_submodule(head).in_features
    new = new_head(features, len(dataset.classes), generator(seed, "head"))
    if params.recipe(cell).head == "probe":
        replace_layer(network, head, nn.Identity())
        fit_head(new, network, dataset, params)
    replace_layer(network, head, new)
    if cell.mode == "frozen":
        freeze_all_but(network, head)
    return network


def fit_head(head: nn.Linear, backbone: nn.Module, dataset: ImageDataset, params: Params) -> None:
    """Let a head start as the linear probe of the training images [1]_.

    References
    ----------
    .. [1] A. Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform
       Out-of-Distribution", ICLR 2022.
    """
    backbone.to(device=params.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    autocast = make_autocast(params.precision, params.device)
    batches = dataset.train_batches_as_validated()
    features = compute_features(backbone, batches, autocast, params.device).numpy()
    labels = dataset.labels["train"].numpy()
    fit = fit_probe(features, labels, head.out_features, 0, dataset.groups)
    head.load_state_dict({"weight": torch.tensor(fit.weight), "bias": torch.tensor(fit.bias)})
