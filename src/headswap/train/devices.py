"""The device that a network is trained on; torch is imported only where there may be a GPU."""

import sys
import time
from pathlib import Path

from headswap.errors import UserError


def resolve_device(device: str) -> str:
    """Turn ``device`` of ``params.yaml``, which may be ``auto``, into one that this machine has."""
    drivers = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # of NVIDIA, AMD, and Windows in WSL
    has_driver = sys.platform != "linux" or any(Path(driver).exists() for driver in drivers)
    if device == "cpu" or (device == "auto" and not has_driver):
        return "cpu"
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next((name for name in available if available[name]), "cpu")
    if not available[device]:
        raise UserError(f"This machine has no {device}.\nSet device: auto, then: headswap check")
    return device


def device_name(device: str) -> str:
    """Return the model of a CUDA device, else the device as it is."""
    if device != "cuda":
        return device
    import torch

    return torch.cuda.get_device_name()


def device_time(device: str) -> float:
    """Return seconds of the processor, or of a clock after the work that a GPU has queued."""
    if device == "cpu":
        return time.process_time()
    import torch

    torch.accelerator.synchronize()
    return time.perf_counter()


class Stopwatch:
    """The seconds since the last lap, of `device_time` and those that passed."""

    def __init__(self, device: str):
        self._device = device
        self._processor, self._wall = device_time(device), time.perf_counter()

    def lap(self) -> float:
        """Return the seconds of `device_time`."""
        last, self._processor = self._processor, device_time(self._device)
        return self._processor - last

    def wall_lap(self) -> float:
        """Return the seconds that passed."""
        last, self._wall = self._wall, time.perf_counter()
        return self._wall - last
