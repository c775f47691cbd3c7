"""The training loop: one network, one recipe, one seed, epoch by epoch."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from headswap.errors import UserError
from headswap.params import Recipe
from headswap.train.checkpoint import (
    History,
    copy_tensors,
    load_checkpoint,
    save_checkpoint,
    trainable_state,
)
from headswap.train.dataset import Batches
from headswap.train.seeds import derive
from headswap.train.speed.frozen_weights import cast_frozen_weights
from headswap.train.speed.low_rank import LowRankUpdates
from headswap.train.speed.validation import CachedValidation
from headswap.train.timing import PhaseTimer


class Dataset(Protocol):
    """What a network is trained on: `dataset.ImageDataset` or `features.FeatureDataset`."""

    labels: dict[str, torch.Tensor]

    def train_batches(self, seed: int, epoch: int, batch_size: int) -> Batches:
        """Yield the training batches of an epoch."""

    def val_batches(self) -> Batches:
        """Yield the validation batches."""


def train(
    network: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    seed: int,
    *,
    precision: str = "float32",
    device: str = "cpu",
    checkpoint: Path | None = None,
    on_progress: Callable[..., None] = lambda **message: None,
) -> History:
    """Train all of a network that requires gradients, by the recipe of the tutorial [1]_.

    Parameters
    ----------
    network
        Changed in place. In the training phase it is in train mode, also where it is frozen.
    dataset
        Training and validation batches.
    recipe
        Epochs, batch size, learning rate and its schedule, momentum.
    seed
        Of the run.
    precision
        ``float32``, or ``bfloat16``: then autocast is on, and trained parameters stay float32.
    device
        ``cpu``, ``cuda`` or ``mps``.
    checkpoint
        Each finished epoch is saved here, and an interrupted run continues from here.
    on_progress
        Called after each epoch with ``done``, the number of finished epochs, and figures or a note;
        at most twice a second also during an epoch, with the ``share`` of its images so far.

    Returns
    -------
    History

    References
    ----------
    .. [1] S. Chilamkurthy, "Transfer Learning for Computer Vision Tutorial", PyTorch tutorials.
    """
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if precision == "bfloat16":
        cast_frozen_weights(network)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=recipe.lr, momentum=recipe.momentum)
    low_rank = LowRankUpdates(network, optimizer, recipe.batch_size)
    autocast = make_autocast(precision, device)
    validate = CachedValidation(network, partial(evaluate, autocast=autocast, device=device))
    timer = PhaseTimer(device)
    history = History()
    if checkpoint:
        try:
            history = load_checkpoint(checkpoint, network, optimizer, low_rank) or history
        except ValueError as error:
            on_progress(done=0, note=f"starts from the first epoch: {error}")

    on_batch = _BatchProgress(on_progress, len(dataset.labels["train"]))
    for epoch in range(len(history.seconds), recipe.epochs):
        if history.diverged is not None:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, epoch)
        torch.manual_seed(derive(seed, "dropout", epoch))
        on_batch.start_epoch(epoch)
        timer.start_epoch()
        timer.lap("checkpoint")
        batches = dataset.train_batches(seed, epoch, recipe.batch_size)
        try:
            train_loss, train_accuracy = train_epoch(
                network, batches, optimizer, autocast, device, timer, on_batch
            )
        except SingleImage as error:
            raise UserError(
                f"A batch of a single image is too few for batch norm: {error}\n"
                + _sizes_that_do(recipe.batch_size, len(dataset.labels["train"]))
            ) from error
        low_rank.flush()
        timer.lap("step")
        val_loss, val_accuracy, probabilities = validate(
            dataset.val_batches(), dataset.labels["val"]
        )
        timer.lap("val")

        history.seconds.append(timer.seconds)
        if math.isfinite(train_loss) and math.isfinite(val_loss):
            history.curves += [
                (epoch, "train", train_loss, train_accuracy),
                (epoch, "val", val_loss, val_accuracy),
            ]
            history.last = {
                "epoch": epoch,
                "accuracy": val_accuracy,
                "probabilities": probabilities,
            }
            if not history.best or val_accuracy > history.best["accuracy"]:
                history.best = {**history.last, "state": copy_tensors(trainable_state(network))}
        else:
            history.diverged = epoch
        if checkpoint:
            save_checkpoint(checkpoint, network, optimizer, low_rank, history)
        on_progress(done=epoch + 1, **_progress_message(history, recipe))
    return history


class _BatchProgress:
    """Report at most twice a second how much of an epoch's images was trained on."""

    def __init__(self, on_progress: Callable[..., None], images: int):
        self._on_progress, self._images = on_progress, images
        self._epoch, self._reported = 0, -math.inf

    def start_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self(0)

    def __call__(self, images: int) -> None:
        if time.monotonic() - self._reported > 0.5:
            self._reported = time.monotonic()
            self._on_progress(done=self._epoch, share=images / self._images)


class SingleImage(Exception):
    """A network cannot be trained on a batch of a single image."""


def train_epoch(
    network: nn.Module,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    autocast: AbstractContextManager[Any],
    device: str,
    timer: PhaseTimer,
    on_batch: Callable[[int], None],
) -> tuple[float, float]:
    """Train for one epoch; `on_batch` is called with the number of images after each batch.

    Returns
    -------
    loss, accuracy : float
        Means over the images, each from before its step; NaN as soon as a loss is not finite.

    Raises
    ------
    SingleImage
        If a batch has a single image, and the network does not accept it.
    """
    network.train()
    loss_sum, correct, images = 0.0, 0, 0
    for inputs, labels in batches:
        inputs, labels = inputs.to(device), labels.to(device)
        timer.lap("data")
        optimizer.zero_grad()
        with autocast:
            outputs = _forward(network, inputs)
        loss = cross_entropy(outputs.float(), labels)
        if not torch.isfinite(loss):
            return math.nan, math.nan
        timer.lap("forward")
        loss.backward()
        timer.lap("backward")
        optimizer.step()
        timer.lap("step")
        loss_sum += loss.item() * len(labels)
        correct += int((outputs.argmax(1) == labels).sum())
        images += len(labels)
        on_batch(images)
    return loss_sum / images, correct / images


@torch.no_grad()
def evaluate(
    network: nn.Module,
    batches: Batches,
    autocast: AbstractContextManager[Any],
    device: str,
) -> tuple[float, float, torch.Tensor]:
    """Evaluate a network in eval mode.

    Returns
    -------
    loss, accuracy : float
        Means over the images.
    probabilities : torch.Tensor
        Float32 on the CPU, shape (images, classes).
    """
    network.eval()
    outputs, labels = [], []
    with autocast:  # around all batches, because autocast caches the weights that it has cast
        for batch, batch_labels in batches:
            outputs.append(network(batch.to(device)).float().cpu())
            labels.append(batch_labels)
    all_outputs, all_labels = torch.cat(outputs), torch.cat(labels)
    accuracy = (all_outputs.argmax(1) == all_labels).double().mean().item()
    return cross_entropy(all_outputs, all_labels).item(), accuracy, all_outputs.softmax(1)


def make_autocast(precision: str, device: str) -> torch.autocast:
    """Return the autocast context of a precision of ``params.yaml``."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """Return the learning rate of an epoch, counted from 0, as `torch.optim.lr_scheduler.StepLR`.

    >>> recipe = Recipe(epochs=9, batch_size=4, lr=1.0, momentum=0.9, lr_step=7, lr_gamma=0.1)
    >>> learning_rate(recipe, 6), learning_rate(recipe, 7)
    (1.0, 0.1)
    """
    return recipe.lr * recipe.lr_gamma ** (epoch // recipe.lr_step)


def _forward(network: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    try:
        return network(inputs)
    except ValueError as error:
        if len(inputs) > 1:
            raise
        raise SingleImage(str(error)) from error


def _sizes_that_do(batch_size: int, images: int) -> str:
    """Say which batch sizes near one that fails leave no batch of a single image."""
    sizes = [size for size in range(2, images + 1) if images % size != 1]
    nearest = sorted(sizes, key=lambda size: (abs(size - batch_size), size))[:2]
    left = "" if batch_size == 1 else f" The last of {images} training images is left over."
    return f"batch_size is {batch_size}.{left} Set it to {' or '.join(map(str, sorted(nearest)))}."


def _progress_message(history: History, recipe: Recipe) -> dict[str, Any]:
    if history.diverged is None:
        _, _, loss, accuracy = history.curves[-1]
        return {"validation accuracy": accuracy, "loss": loss}
    lr = learning_rate(recipe, history.diverged)
    return {
        "note": f"diverged: the loss is not finite in epoch {history.diverged} "
        f"at learning rate {lr:g}; the run counts as diverged"
    }
