"""The training loop: one network, one recipe, one seed, epoch by epoch."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from headswap.errors import UserError
from headswap.params import Recipe
from headswap.progress import OnProgress
from headswap.train.checkpoint import History, load_checkpoint, save_checkpoint
from headswap.train.dataset import Batches, ImageDataset
from headswap.train.devices import Stopwatch
from headswap.train.networks import cast_frozen_weights
from headswap.train.recipe import make_loss, make_optimizer, make_schedule
from headswap.train.seeds import derive
from headswap.train.speed.low_rank import LowRankUpdates
from headswap.train.speed.validation import CachedValidation


def train(
    network: nn.Module,
    dataset: ImageDataset,
    recipe: Recipe,
    seed: int,
    *,
    precision: str = "float32",
    device: str = "cpu",
    checkpoint: Path | None = None,
    on_progress: OnProgress = lambda done, figures=None, note="": None,
) -> History:
    """Train all of a network that requires gradients, by default as the tutorial does [1]_.

    The network is changed in place. In the training phase it is in train mode, also where it is
    frozen. With `precision` ``bfloat16`` autocast is on, and trained parameters stay float32. Each
    finished epoch is saved in `checkpoint`, and an interrupted run continues from there.

    References
    ----------
    .. [1] S. Chilamkurthy, "Transfer Learning for Computer Vision Tutorial", PyTorch tutorials.
    """
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if precision == "bfloat16":
        cast_frozen_weights(network)
    autocast = make_autocast(precision, device)
    check_batches(network, dataset, recipe.batch_size, autocast, device)
    loss = make_loss(recipe, dataset).to(device)
    optimizer = make_optimizer(recipe, network)
    schedule = make_schedule(recipe, optimizer)
    low_rank = LowRankUpdates(network, optimizer, recipe.batch_size)
    parts = {"optimizer": optimizer, "schedule": schedule, "low_rank": low_rank}
    validate = CachedValidation(network, partial(evaluate, autocast=autocast, device=device))
    history = History()
    if checkpoint and checkpoint.exists():
        try:
            history = load_checkpoint(checkpoint, network, parts)
        except ValueError as error:
            on_progress(0, note=f"starts from the first epoch: {error}")

    def on_batch(trained: int) -> None:
        on_progress(len(history.seconds) + trained / sum(map(len, dataset.labels.values())))

    is_validated = len(dataset.labels["val"]) > 0
    stopwatch = Stopwatch(device)
    while history.diverged is None and (epoch := len(history.seconds)) < recipe.epochs:
        (lr,) = schedule.get_last_lr()
        torch.manual_seed(derive(seed, "dropout", epoch))
        seconds = {"checkpoint": stopwatch.lap()}
        train_loss, train_accuracy = train_epoch(
            network,
            dataset.train_batches(seed, epoch, recipe.batch_size),
            loss,
            optimizer,
            autocast,
            device,
            on_batch,
        )
        low_rank.flush()
        seconds["train"] = stopwatch.lap()
        val_loss, val_accuracy, probabilities = validate(
            dataset.val_batches(), dataset.labels["val"]
        )
        seconds |= {"val": stopwatch.lap(), "wall": stopwatch.wall_lap()}

        history.seconds.append(seconds)
        if math.isfinite(train_loss) and math.isfinite(val_loss):
            schedule.step()
            history.curves.append((epoch, "train", train_loss, train_accuracy))
            if is_validated:
                history.curves.append((epoch, "val", val_loss, val_accuracy))
            history.last = {
                "epoch": epoch,
                "accuracy": val_accuracy,
                "probabilities": probabilities,
            }
            if not history.best or val_accuracy > history.best["accuracy"]:
                history.best = history.last
        else:
            history.diverged = epoch
        if checkpoint:
            save_checkpoint(checkpoint, network, parts, history)
        if history.diverged is None:
            validation = {"validation accuracy": val_accuracy, "loss": val_loss}
            on_progress(epoch + 1, validation if is_validated else {"loss": train_loss})
        else:
            on_progress(
                epoch + 1,
                note=f"diverged: the loss is not finite in epoch {epoch} at learning rate {lr:g}; "
                "the run counts as diverged",
            )
    return history


def train_epoch(
    network: nn.Module,
    batches: Batches,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    autocast: AbstractContextManager[Any],
    device: str,
    on_batch: Callable[[int], None],
) -> tuple[float, float]:
    """Train for one epoch; `on_batch` is called with the number of images after each batch.

    Return loss and accuracy: means over the images, each from before its step; NaN as soon as a
    loss is not finite.
    """
    network.train()
    loss_sum, correct, images = 0.0, 0, 0
    for inputs, labels in batches:
        inputs, labels = inputs.to(device), labels.to(device)
        optimizer.zero_grad()
        with autocast:
            outputs = network(inputs)
        loss = criterion(outputs.float(), labels)
        if not torch.isfinite(loss):
            return math.nan, math.nan
        loss.backward()
        optimizer.step()
        loss_sum += loss.item() * len(labels)
        correct += int((outputs.argmax(1) == labels).sum())
        images += len(labels)
        on_batch(images)
    return loss_sum / images, correct / images


@torch.no_grad()
def evaluate(
    network: nn.Module, batches: Batches, autocast: AbstractContextManager[Any], device: str
) -> tuple[float, float, torch.Tensor]:
    """Evaluate a network in eval mode.

    Return loss and accuracy, means over the images; and the probabilities, float32 on the CPU,
    shape (images, classes). Without images loss and accuracy are 0.
    """
    network.eval()
    outputs, labels = [], []
    with autocast:  # around all batches, because autocast caches the weights that it has cast
        for batch, batch_labels in batches:
            outputs.append(network(batch.to(device)).float().cpu())
            labels.append(batch_labels)
    if not outputs:
        return 0.0, 0.0, torch.empty(0, 1)
    all_outputs, all_labels = torch.cat(outputs), torch.cat(labels)
    accuracy = (all_outputs.argmax(1) == all_labels).double().mean().item()
    return cross_entropy(all_outputs, all_labels).item(), accuracy, all_outputs.softmax(1)


def make_autocast(precision: str, device: str) -> torch.autocast:
    """Return the autocast context of a precision of ``params.yaml``."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")


@torch.no_grad()
def check_batches(
    network: nn.Module,
    dataset: ImageDataset,
    batch_size: int,
    autocast: AbstractContextManager[Any],
    device: str,
) -> None:
    """Raise a UserError if an epoch has a batch of a single image, and batch norm cannot take it.

    No tensor of the network is changed.
    """
    images = len(dataset.labels["train"])
    if (images % batch_size or batch_size) > 1:
        return
    inputs, _ = next(iter(dataset.train_batches(0, 0, batch_size=1)))
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        with autocast:
            torch.func.functional_call(network.train(), buffers, inputs.to(device))
    except ValueError as error:
        raise UserError(
            f"A batch of a single image is too few for batch norm: {error}\n"
            + _valid_batch_sizes(batch_size, images)
        ) from error


def _valid_batch_sizes(batch_size: int, images: int) -> str:
    """Say which batch sizes near one that fails leave no batch of a single image."""
    sizes = [size for size in range(2, images + 1) if images % size != 1]
    nearest = sorted(sizes, key=lambda size: (abs(size - batch_size), size))[:2]
    left = "" if batch_size == 1 else f" The last of {images} training images is left over."
    return f"batch_size is {batch_size}.{left} Set it to {' or '.join(map(str, sorted(nearest)))}."
