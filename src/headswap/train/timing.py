"""Where the time of an epoch goes."""

import time

import torch

PHASES = ("checkpoint", "data", "forward", "backward", "step", "val")
"""The phases of an epoch: saving the previous one, making batches, the loss, its gradients, the
steps of the optimizer, validation."""


class PhaseTimer:
    """Wall-clock seconds of an epoch by phase.

    Attributes
    ----------
    seconds : dict of str to float
    """

    def __init__(self, device: str):
        self._device = device
        self._last = time.perf_counter()
        self.start_epoch()

    def start_epoch(self) -> None:
        """Set all phases to zero."""
        self.seconds = dict.fromkeys(PHASES, 0.0)

    def lap(self, phase: str) -> None:
        """Add the time since the last lap to `phase`."""
        if self._device != "cpu":
            torch.accelerator.synchronize()  # wait for the work that was only queued
        now = time.perf_counter()
        self.seconds[phase] += now - self._last
        self._last = now
