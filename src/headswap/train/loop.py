"""One run: one network, one mode, one seed, epoch by epoch."""

import math
import os
import time
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.serialization import config

from headswap.errors import UserError
from headswap.io import atomic_write
from headswap.train.seeds import derive
from headswap.train.sgd import SGD


def pick(device):
    """Turn ``device`` of ``params.yaml`` into one that is here.

    Raises
    ------
    UserError
        If it names one that is not.
    """
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next((name for name, available in here.items() if available), "cpu")
    if not here.get(device, True):
        raise UserError(f"device: {device} is not to be had on this machine.\nSet device: auto.")
    return device


def products(precision, device):
    """Return the context in which a network's products have the wanted precision."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")


def learning_rate(recipe, epoch):
    """Return the learning rate of an epoch, counted from 0.

    >>> from headswap.params import Recipe
    >>> recipe = Recipe(epochs=9, batch_size=4, lr=1.0, momentum=0.9, lr_step=7, lr_gamma=0.1)
    >>> learning_rate(recipe, 6), learning_rate(recipe, 7)
    (1.0, 0.1)
    """
    return recipe.lr * recipe.lr_gamma ** (epoch // recipe.lr_step)


PHASES = ("checkpoint", "data", "forward", "backward", "step", "val")
"""What an epoch's time goes into: keeping the one before, cutting batches, the loss, its gradients,
SGD; validation."""


class Stopwatch:
    """Wall-clock seconds of an epoch, by what they went into."""

    def __init__(self, device):
        self._device = device
        self._since = time.perf_counter()
        self.new_epoch()

    def new_epoch(self):
        """Count from nothing."""
        self.seconds = dict.fromkeys(PHASES, 0.0)

    def lap(self, phase):
        """Count the time since the last lap towards `phase`."""
        if self._device != "cpu":
            torch.accelerator.synchronize()  # the work was only queued so far
        now = time.perf_counter()
        self.seconds[phase] += now - self._since
        self._since = now


@dataclass
class History:
    """What is known of a run so far; all of it is in its checkpoint and the file beside that.

    Attributes
    ----------
    curves : list of tuple
        (epoch, split, loss, accuracy), two an epoch; epochs count from 0.
    seconds : list of dict of str to float
        For each epoch the wall-clock seconds of `PHASES`.
    best : dict
        The best epoch on the validation set, the first of equals: ``epoch``, ``accuracy``,
        ``probabilities`` (float32, shape (images, classes)) and ``state`` (see `moving`).
    last : dict
        The same for the last finished epoch, without its state, which the network itself has.
    diverged : int or None
        The epoch in which the loss was no longer a finite number; the run ended there.
    """

    curves: list = field(default_factory=list)
    seconds: list = field(default_factory=list)
    best: dict = field(default_factory=dict)
    last: dict = field(default_factory=dict)
    diverged: int | None = None


def train(
    network,
    feed,
    recipe,
    seed,
    *,
    precision="float32",
    device="cpu",
    checkpoint=None,
    on_progress=None,
):
    """Train whatever of a network requires gradients, by the classic recipe [1]_.

    Parameters
    ----------
    network : torch.nn.Module
        In the training phase it is in train mode throughout, frozen or not.
    feed : object
        With ``train(seed, epoch, batch_size)`` and ``val()``, which yield inputs and labels, and
        ``labels``, a dict with those of ``val``.
    recipe : params.Recipe
        Epochs, batch size, learning rate and its steps, momentum.
    seed : int
        Of the run.
    precision : {"float32", "bfloat16"}
        Of the products; trained parameters are float32 always.
    device : str
        Where to train.
    checkpoint : pathlib.Path, optional
        Where each finished epoch is kept, and an interrupted run found again. Beside it
        ``best-<epoch>.pt`` is kept, the state of the best one.
    on_progress : callable, optional
        Called after each epoch with ``done``, the epochs done, and figures or a note on them.

    Returns
    -------
    History

    References
    ----------
    .. [1] S. Chilamkurthy, "Transfer Learning for Computer Vision Tutorial", PyTorch tutorials.
    """
    network.to(device=device, memory_format=torch.channels_last)
    if precision == "bfloat16":
        _cast_frozen(network)
    optimizer = SGD(network, recipe)
    history = _resume(checkpoint, network, optimizer, on_progress) or History()
    precisely = products(precision, device)
    validate = Validation(network, precisely, device)
    watch = Stopwatch(device)
    for epoch in range(len(history.seconds), recipe.epochs):
        if history.diverged is not None:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, epoch)
        torch.manual_seed(derive(seed, "dropout", epoch))
        watch.new_epoch()
        watch.lap("checkpoint")
        batches = feed.train(seed, epoch, recipe.batch_size)
        train_loss, train_accuracy = _learn(network, batches, optimizer, precisely, device, watch)
        optimizer.settle()
        watch.lap("step")
        val_loss, val_accuracy, probabilities = validate(feed)
        watch.lap("val")
        history.seconds.append(watch.seconds)
        if not (math.isfinite(train_loss) and math.isfinite(val_loss)):
            history.diverged = epoch
        else:
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
                history.best = {**history.last, "state": _copy(moving(network))}
        _keep(checkpoint, network, optimizer, history)
        if on_progress:
            on_progress(done=epoch + 1, **_news(history, recipe))
    return history


PRODUCTS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""The layers that use their weights for a product and nothing else; classes derived may differ."""


def _cast_frozen(network):
    """Cast once the frozen weights that autocast would cast to the same in every step."""
    for module in network.modules():
        if type(module) in PRODUCTS:
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(torch.bfloat16)


def _news(history, recipe):
    """Return what there is to say of the epoch just finished."""
    if history.diverged is None:
        _, _, loss, accuracy = history.curves[-1]
        return {"loss": loss, "accuracy": accuracy}
    rate = learning_rate(recipe, history.diverged)
    return {
        "note": f"diverged: the loss is no finite number in epoch {history.diverged} "
        f"at learning rate {rate:g}; the run is counted as diverged"
    }


def _learn(network, batches, optimizer, precisely, device, watch):
    """Train for one epoch; return the mean loss and the accuracy of what was seen."""
    network.train()
    losses, hits, images = 0.0, 0, 0
    for inputs, labels in batches:
        inputs, labels = inputs.to(device), labels.to(device)
        watch.lap("data")
        optimizer.zero_grad()
        with precisely:
            outputs = _outputs(network, inputs)
        loss = cross_entropy(outputs.float(), labels)
        if not torch.isfinite(loss):
            return math.nan, math.nan
        watch.lap("forward")
        loss.backward()
        watch.lap("backward")
        optimizer.step()
        watch.lap("step")
        losses += loss.item() * len(labels)
        hits += (outputs.argmax(1) == labels).sum().item()
        images += len(labels)
    return losses / images, hits / images


def _outputs(network, inputs):
    try:
        return network(inputs)
    except ValueError as error:
        if len(inputs) > 1:
            raise
        raise UserError(
            f"An epoch's last batch is a single image, and batch norm asks for more: {error}\n"
            "Set batch_size so that the images in train do not leave a rest of one."
        ) from error


@torch.no_grad()
def evaluate(network, batches, precisely, device):
    """Run a network in eval mode.

    Returns
    -------
    loss, accuracy : float
        Means over the images.
    probabilities : torch.Tensor
        Float32 on the CPU, shape (images, classes).
    """
    network.eval()
    outputs, labels = [], []
    with precisely:  # once for all batches: autocast keeps what it has cast
        for batch, truth in batches:
            outputs.append(network(batch.to(device)).float().cpu())
            labels.append(truth)
    outputs, labels = torch.cat(outputs), torch.cat(labels)
    accuracy = (outputs.argmax(1) == labels).double().mean().item()
    return cross_entropy(outputs, labels).item(), accuracy, outputs.softmax(1)


class Validation:
    """The validation after each epoch, without computing again what cannot have changed.

    Below a head that alone is trained, only buffers can change (those of batch norm do). While
    they stay as they are, what the head saw of an image the first time is what it would see again.

    Parameters
    ----------
    network : torch.nn.Module
    precisely : context manager
        See `products`.
    device : str
    """

    def __init__(self, network, precisely, device):
        self._network, self._how = network, (precisely, device)
        trained = {
            name.rpartition(".")[0]
            for name, parameter in network.named_parameters()
            if parameter.requires_grad
        }
        self._head = network.get_submodule(trained.pop()) if len(trained) == 1 else None
        self._seen, self._buffers = [], {}

    def __call__(self, feed):
        """Return what `evaluate` finds on the validation images of `feed`."""
        if self._head is None:
            return evaluate(self._network, feed.val(), *self._how)
        buffers = _copy(dict(self._network.named_buffers()))
        if self._seen and all(buffers[name].equal(kept) for name, kept in self._buffers.items()):
            labels = feed.labels["val"].split([len(inputs) for inputs in self._seen])
            return evaluate(self._head, zip(self._seen, labels, strict=True), *self._how)
        self._seen, self._buffers = [], buffers
        hook = self._head.register_forward_pre_hook(
            lambda _, inputs: self._seen.extend(given.clone() for given in inputs)
        )
        try:
            return evaluate(self._network, feed.val(), *self._how)
        finally:
            hook.remove()


def moving(network):
    """Return the tensors that training can change: trained parameters, and what buffers are kept.

    In `frozen` the buffers of batch norm move although no parameter of it does.
    """
    state = network.state_dict()
    fixed = {name for name, value in network.named_parameters() if not value.requires_grad}
    return {name: value for name, value in state.items() if name not in fixed}


def _copy(tensors):
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def _keep(checkpoint, network, optimizer, history):
    """Write all that an interrupted run needs; the best epoch's state, when there is a new one."""
    if checkpoint is None:
        return
    kept = {"network": moving(network), "optimizer": optimizer.state_dict(), **vars(history)}
    best = _best_of(checkpoint, history)
    if history.best:
        kept["best"] = {key: value for key, value in history.best.items() if key != "state"}
        if history.best["epoch"] == len(history.seconds) - 1:
            _save(best, history.best["state"])
            kept["network"] = {}  # it is what the best file holds
    _save(checkpoint, kept)
    for other in checkpoint.parent.glob("best-*.pt"):
        if other != best:
            other.unlink()


def _best_of(checkpoint, history):
    return checkpoint.with_name(f"best-{history.best.get('epoch')}.pt")


def _save(path, content):
    no_checksums = config.patch({"save.compute_crc32": False})  # which `torch.load` does not read
    with atomic_write(path, RuntimeError, durable=False) as temporary, no_checksums:
        torch.save(content, temporary)


def _resume(checkpoint, network, optimizer, on_progress):
    """Bring network and optimizer to where a checkpoint left them; return its history."""
    if checkpoint is None or not os.path.exists(checkpoint):
        return None
    try:
        kept = torch.load(checkpoint, map_location="cpu", weights_only=True)
        network_state, optimizer_state = kept.pop("network"), kept.pop("optimizer")
        history = History(**kept)
        if history.best:
            best = _best_of(checkpoint, history)
            history.best["state"] = torch.load(best, map_location="cpu", weights_only=True)
    except Exception as error:  # a power cut may have left anything
        if on_progress:
            damage = f"what {checkpoint.parent} holds is damaged ({type(error).__name__})"
            on_progress(done=0, note=f"starts anew: {damage}")
        return None
    network.load_state_dict(network_state or history.best["state"], strict=False)
    optimizer.load_state_dict(optimizer_state)
    return history
