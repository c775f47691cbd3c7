"""The training loop: one network, one recipe, one seed, epoch by epoch."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn, optim
from torch.optim import lr_scheduler
from torch.utils.serialization import config

from headswap.errors import UserError
from headswap.io import atomic_write
from headswap.params import Recipe
from headswap.progress import OnProgress
from headswap.train.dataset import Batches, ImageDataset
from headswap.train.devices import Stopwatch
from headswap.train.networks import cast_frozen_weights
from headswap.train.seeds import derive
from headswap.train.speed.low_rank import LowRankUpdates

Result = tuple[float, float, torch.Tensor]
"""Loss and accuracy, 0 without images, and probabilities, float32, shape (images, classes)."""
Parts = dict[str, Any]  # each with `state_dict` and `load_state_dict`


@dataclass
class History:
    """The results of a run so far; epochs count from 0.

    In `seconds`, ``checkpoint`` is what it took to save the epoch before. `best` and `last` have
    ``epoch``, ``accuracy``, and ``probabilities``, float32, shape (images, classes).
    """

    curves: list[tuple[int, str, float, float]] = field(default_factory=list)
    """(epoch, split, loss, accuracy), two per epoch."""
    seconds: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)  # the first of equal validation accuracy
    last: dict[str, Any] = field(default_factory=dict)
    diverged: int | None = None  # the epoch whose loss was not finite, where the run ended


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
    """Train what requires gradients, all in train mode, from the last epoch in `checkpoint` on.

    The defaults are S. Chilamkurthy's, "Transfer Learning for Computer Vision Tutorial", PyTorch.
    """
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if precision == "bfloat16":
        cast_frozen_weights(network)
    autocast = make_autocast(precision, device)
    check_batches(network, dataset, recipe.batch_size, autocast)
    criterion = make_loss(recipe, dataset).to(device)
    optimizer = make_optimizer(recipe, network)
    schedule = make_schedule(recipe, optimizer)
    low_rank = LowRankUpdates(network, optimizer, recipe.batch_size)
    parts = {"optimizer": optimizer, "schedule": schedule, "low_rank": low_rank}
    validate = CachedValidation(network, autocast)
    history, val_labels = History(), dataset.labels["val"]
    if checkpoint and checkpoint.exists():
        try:
            history = load_checkpoint(checkpoint, network, parts)
        except ValueError as error:
            on_progress(0, note=f"starts from the first epoch: {error}")
    stopwatch = Stopwatch(device)
    while history.diverged is None and (epoch := len(history.seconds)) < recipe.epochs:
        (lr,) = schedule.get_last_lr()
        torch.manual_seed(derive(seed, "dropout", epoch))
        seconds = {"checkpoint": stopwatch.lap()}
        network.train()
        loss_sum, correct, images = 0.0, 0, 0
        for inputs, labels in dataset.train_batches(seed, epoch, recipe.batch_size):
            inputs, labels = inputs.to(device), labels.to(device)
            optimizer.zero_grad()
            with autocast:
                outputs = network(inputs)
            loss = criterion(outputs.float(), labels)
            loss_sum += loss.item() * len(labels)  # each image's from before its step
            correct += int((outputs.argmax(1) == labels).sum())
            images += len(labels)
            if not math.isfinite(loss_sum):
                break
            loss.backward()
            optimizer.step()
            on_progress(epoch + images / sum(map(len, dataset.labels.values())))
        low_rank.flush()
        seconds["train"] = stopwatch.lap()
        val_loss, val_accuracy, probabilities = validate(dataset.val_batches(), val_labels)
        seconds |= {"val": stopwatch.lap(), "wall": stopwatch.wall_lap()}
        history.seconds.append(seconds)
        figures, note = {"loss": loss_sum / images}, ""
        if math.isfinite(loss_sum) and math.isfinite(val_loss):
            schedule.step()
            history.curves.append((epoch, "train", loss_sum / images, correct / images))
            if len(val_labels):
                history.curves.append((epoch, "val", val_loss, val_accuracy))
                figures = {"validation accuracy": val_accuracy, "loss": val_loss}
            result = {"accuracy": val_accuracy, "probabilities": probabilities}
            history.last = {"epoch": epoch, **result}
            if val_accuracy > history.best.get("accuracy", -1):
                history.best = history.last
        else:
            history.diverged, figures = epoch, {}
            note = f"diverged: the loss is not finite in epoch {epoch} at learning rate {lr:g}"
        if checkpoint:
            save_checkpoint(checkpoint, network, parts, history)
        on_progress(epoch + 1, figures, note=note)
    return history


class CachedValidation:
    """The validation after each epoch: from the last inputs of a head that alone is trained.

    They are valid while buffers, such as batch norm's, stay the same. Speed: saves a third of an
    epoch of AlexNet's `frozen`, 5 % of ResNet-18's.
    """

    def __init__(self, network: nn.Module, autocast: torch.autocast):
        self._network, self._autocast = network, autocast
        names = [name for name, value in network.named_parameters() if value.requires_grad]
        trained = {name.rpartition(".")[0] for name in names}
        self._head = network.get_submodule(trained.pop()) if len(trained) == 1 else None
        self._inputs: list[torch.Tensor] = []
        self._buffers: dict[str, torch.Tensor] = {}

    def __call__(self, batches: Batches, labels: torch.Tensor) -> Result:
        """Evaluate the network; `labels` are those of all images."""
        if self._head is None:
            return evaluate(self._network, batches, self._autocast)
        buffers = dict(self._network.named_buffers())
        if self._inputs and all(buffers[name].equal(old) for name, old in self._buffers.items()):
            split = labels.split([len(inputs) for inputs in self._inputs])
            return evaluate(self._head, zip(self._inputs, split, strict=True), self._autocast)
        self._inputs = []
        self._buffers = {name: buffer.clone() for name, buffer in buffers.items()}
        with self._head.register_forward_pre_hook(lambda _, x: self._inputs.append(x[0].clone())):
            return evaluate(self._network, batches, self._autocast)


@torch.no_grad()
def evaluate(network: nn.Module, batches: Batches, autocast: torch.autocast) -> Result:
    """Evaluate a network in eval mode."""
    network.eval()
    with autocast:  # around all batches, because autocast caches the weights that it has cast
        pairs = [(network(x.to(autocast.device)).float().cpu(), labels) for x, labels in batches]
    if not pairs:
        return 0.0, 0.0, torch.empty(0, 1)
    outputs, labels = map(torch.cat, zip(*pairs, strict=True))
    accuracy = (outputs.argmax(1) == labels).double().mean().item()
    return nn.functional.cross_entropy(outputs, labels).item(), accuracy, outputs.softmax(1)


def make_autocast(precision: str, device: str) -> torch.autocast:
    """Return the autocast context of a precision of ``params.yaml``."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")


@torch.no_grad()
def check_batches(
    network: nn.Module, dataset: ImageDataset, batch_size: int, autocast: torch.autocast
) -> None:
    """Raise a UserError if batch norm cannot take the batch of a single image that an epoch has."""
    images = len(dataset.labels["train"])
    if (images % batch_size or batch_size) > 1:
        return
    inputs, _ = next(iter(dataset.train_batches(0, 0, batch_size=1)))
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        with autocast:
            torch.func.functional_call(network.train(), buffers, inputs.to(autocast.device))
    except ValueError as error:
        valid = (size for size in range(2, images + 1) if images % size != 1)
        nearest = sorted(valid, key=lambda size: (abs(size - batch_size), size))[:2]
        sizes = " or ".join(map(str, sorted(nearest)))
        text = f"A batch of a single image is too few for batch norm: {error}\nbatch_size is "
        text += f"{batch_size}, of {images} training images. Set it to {sizes}."
        raise UserError(text) from error


def make_loss(recipe: Recipe, dataset: ImageDataset) -> nn.Module:
    """Return cross-entropy; balanced weights are n / (classes * images of the class)."""
    weights = None
    if recipe.class_weights == "balanced":
        counts = dataset.labels["train"].bincount(minlength=len(dataset.classes))
        weights = counts.sum() / (len(counts) * counts.clamp(min=1))
    return nn.CrossEntropyLoss(weights, label_smoothing=recipe.label_smoothing)


def make_optimizer(recipe: Recipe, network: nn.Module) -> optim.Optimizer:
    """Return the optimizer of all parameters that require gradients."""
    assert isinstance(recipe.lr, float)  # a list has been tuned
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if recipe.optimizer == "adamw":
        return optim.AdamW(trained, recipe.lr, weight_decay=recipe.weight_decay)
    return optim.SGD(trained, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)


def make_schedule(recipe: Recipe, optimizer: optim.Optimizer) -> lr_scheduler.LRScheduler:
    """Return the schedule of the learning rate, to be stepped after each epoch."""
    warmup = recipe.warmup_epochs
    schedule: lr_scheduler.LRScheduler
    if recipe.schedule == "cosine":
        schedule = lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs - warmup)
    else:
        schedule = lr_scheduler.StepLR(optimizer, recipe.lr_step, recipe.lr_gamma)
    if not warmup:
        return schedule
    rise = lr_scheduler.LinearLR(optimizer, 0.01, total_iters=warmup)  # as torchvision's references
    return lr_scheduler.SequentialLR(optimizer, [rise, schedule], [warmup])


def trainable_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return what training can change: trained parameters and all buffers, as batch norm's."""
    fixed = {name for name, value in network.named_parameters() if not value.requires_grad}
    return {name: value for name, value in network.state_dict().items() if name not in fixed}


def save_checkpoint(path: Path, network: nn.Module, parts: Parts, history: History) -> None:
    """Save a run after an epoch."""
    states = {name: part.state_dict() for name, part in parts.items()}
    content = {"network": trainable_state(network), **states, **vars(history)}
    # Speed: `torch.load` does not read the checksums that `torch.save` computes.
    no_checksums = config.patch({"save.compute_crc32": False})  # type: ignore[attr-defined]
    with atomic_write(path, RuntimeError, durable=False) as temporary, no_checksums:
        torch.save(content, temporary)


def load_checkpoint(path: Path, network: nn.Module, parts: Parts) -> History:
    """Restore network and parts, and return the history; ValueError if a power cut damaged it."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        states = {name: content.pop(name) for name in ("network", *parts)}
        history = History(**content)
    except Exception as error:  # the file may have any content
        kind = type(error).__name__
        raise ValueError(f"the checkpoint in {path.parent} is damaged ({kind})") from error
    network.load_state_dict(states["network"], strict=False)
    for name, part in parts.items():
        part.load_state_dict(states[name])
    return history
