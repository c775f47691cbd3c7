"""The checkpoint of a run: everything that an interrupted run needs to continue."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.serialization import config

from headswap.io import atomic_write
from headswap.train.speed.low_rank import LowRankUpdates


@dataclass
class History:
    """The results of a run so far."""

    curves: list[tuple[int, str, float, float]] = field(default_factory=list)
    """(epoch, split, loss, accuracy), two per epoch; epochs count from 0."""
    seconds: list[dict[str, float]] = field(default_factory=list)
    """For each epoch those of ``train``, ``val`` and ``checkpoint`` (to save the epoch before), by
    the clock of `devices.device_time`; and ``wall``, those that passed."""
    best: dict[str, Any] = field(default_factory=dict)
    """The epoch with the best validation accuracy, the first of equals: ``epoch``, ``accuracy``,
    ``probabilities`` (float32, shape (images, classes)) and ``state`` (`trainable_state`)."""
    last: dict[str, Any] = field(default_factory=dict)
    """The same for the last finished epoch, without the state, which is that of the network."""
    diverged: int | None = None
    """The epoch in which the loss was not finite, where the run ended."""


def trainable_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors that training can change: trained parameters and saved buffers.

    In `frozen`, the buffers of batch norm change although none of its parameters does.
    """
    state = network.state_dict()
    fixed = {name for name, value in network.named_parameters() if not value.requires_grad}
    return {name: value for name, value in state.items() if name not in fixed}


def copy_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return copies on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def save_checkpoint(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    low_rank: LowRankUpdates,
    history: History,
) -> None:
    """Save a run after an epoch; beside it, in ``best-<epoch>.pt``, the state of the best epoch."""
    content = {
        "network": trainable_state(network),
        "optimizer": optimizer.state_dict(),
        "low_rank": low_rank.state_dict(),
        **vars(history),
    }
    best = _best_path(path, history)
    if history.best:
        content["best"] = {key: value for key, value in history.best.items() if key != "state"}
        if history.best["epoch"] == len(history.seconds) - 1:
            _save(best, history.best["state"])
            content["network"] = {}  # the same as the best state
    _save(path, content)
    for other in path.parent.glob("best-*.pt"):
        if other != best:
            other.unlink()


def load_checkpoint(
    path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, low_rank: LowRankUpdates
) -> History:
    """Restore network and optimizer, and return the run's history.

    Raises ValueError if the checkpoint is damaged, as a power cut may leave it.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        states = [content.pop(key) for key in ("network", "optimizer", "low_rank")]
        history = History(**content)
        if history.best:
            best = _best_path(path, history)
            history.best["state"] = torch.load(best, map_location="cpu", weights_only=True)
    except Exception as error:  # the file may have any content
        raise ValueError(
            f"the checkpoint in {path.parent} is damaged ({type(error).__name__})"
        ) from error
    network_state, optimizer_state, low_rank_state = states
    network.load_state_dict(network_state or history.best["state"], strict=False)
    optimizer.load_state_dict(optimizer_state)
    low_rank.load_state_dict(low_rank_state)
    return history


def _best_path(path: Path, history: History) -> Path:
    return path.with_name(f"best-{history.best.get('epoch')}.pt")


def _save(path: Path, content: Any) -> None:
    # Speed: `torch.load` does not read the checksums that `torch.save` computes.
    no_checksums = config.patch({"save.compute_crc32": False})  # type: ignore[attr-defined]
    with atomic_write(path, RuntimeError, durable=False) as temporary, no_checksums:
        torch.save(content, temporary)
