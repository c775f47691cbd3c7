"""Where the time of an epoch goes."""

import time

import torch

PHASES = ("checkpoint", "data", "forward", "backward", "step", "val")
"""The phases of an epoch: saving the previous one, making batches, the loss, its gradients, the
steps of the optimizer, validation."""


def device_time(device: str) -> float:
    """Return a clock's seconds: of the processor, which other processes do not slow down.

    The clock of a GPU is the time that passes until the work that was queued on it is done.
    """
    if device == "cpu":
        return time.process_time()
    torch.accelerator.synchronize()
    return time.perf_counter()


class PhaseTimer:
    """The time of an epoch by phase.

    Attributes
    ----------
    seconds : dict of str to float
        Seconds of `device_time` for each of `PHASES`; and ``wall``, the time that passed.
    """

    def __init__(self, device: str):
        self._device = device
        self._last, self._wall = device_time(device), time.perf_counter()
        self.start_epoch()

    def start_epoch(self) -> None:
        """Set all phases to zero."""
        self.seconds = dict.fromkeys((*PHASES, "wall"), 0.0)

    def lap(self, phase: str) -> None:
        """Add the time since the last lap to `phase`."""
        now, wall = device_time(self._device), time.perf_counter()
        self.seconds[phase] += now - self._last
        self.seconds["wall"] += wall - self._wall
        self._last, self._wall = now, wall
