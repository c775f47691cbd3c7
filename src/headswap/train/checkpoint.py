"""The checkpoint of a run: everything that an interrupted run needs to continue."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.serialization import config

from headswap.io import atomic_write

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
