"""The checkpoint of a run: everything that an interrupted run needs to continue."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.serialization import config

from headswap.io import atomic_write


@dataclass
class History:
    """The results of a run so far."""

    curves: list[tuple[int, str, float, float]] = field(default_factory=list)
    """(epoch, split, loss, accuracy), two per epoch; epochs count from 0."""
    seconds: list[dict[str, float]] = field(default_factory=list)
    """For each epoch those of ``train``, ``val`` and ``checkpoint`` (to save the epoch before), by
    the clock of `devices.device_time`; and ``wall``, those that passed."""
    best: dict[str, Any] = field(default_factory=dict)
    """The epoch with the best validation accuracy, the first of equals: ``epoch``, ``accuracy``
    and ``probabilities`` (float32, shape (images, classes))."""
    last: dict[str, Any] = field(default_factory=dict)
    """The same for the last finished epoch."""
    diverged: int | None = None
    """The epoch in which the loss was not finite, where the run ended."""


def trainable_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors that training can change: trained parameters and saved buffers.

    In `frozen`, the buffers of batch norm change although none of its parameters does.
    """
    state = network.state_dict()
    fixed = {name for name, value in network.named_parameters() if not value.requires_grad}
    return {name: value for name, value in state.items() if name not in fixed}


def save_checkpoint(
    path: Path, network: nn.Module, parts: Mapping[str, Any], history: History
) -> None:
    """Save a run after an epoch: its network, and `parts` with a ``state_dict()``, by name."""
    states = {name: part.state_dict() for name, part in parts.items()}
    content = {"network": trainable_state(network), **states, **vars(history)}
    # Speed: `torch.load` does not read the checksums that `torch.save` computes.
    no_checksums = config.patch({"save.compute_crc32": False})  # type: ignore[attr-defined]
    with atomic_write(path, RuntimeError, durable=False) as temporary, no_checksums:
        torch.save(content, temporary)


def load_checkpoint(path: Path, network: nn.Module, parts: Mapping[str, Any]) -> History:
    """Restore network and parts, and return the run's history.

    Raises ValueError if the checkpoint is damaged, as a power cut may leave it.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        network_state = content.pop("network")
        states = {name: content.pop(name) for name in parts}
        history = History(**content)
    except Exception as error:  # the file may have any content
        raise ValueError(
            f"the checkpoint in {path.parent} is damaged ({type(error).__name__})"
        ) from error
    network.load_state_dict(network_state, strict=False)
    for name, part in parts.items():
        part.load_state_dict(states[name])
    return history
