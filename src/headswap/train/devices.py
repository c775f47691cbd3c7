"""The device that a network is trained on: which it is, its name, its clock.

Torch, which takes seconds to import, is imported only where there may be a GPU.
"""

import sys
import time
from pathlib import Path

from headswap.errors import UserError

GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Device files of NVIDIA's and AMD's drivers on Linux, and of Windows' driver in WSL."""


def resolve_device(device: str) -> str:
    """Turn ``device`` of ``params.yaml``, which may be ``auto``, into one that this machine has.

    Raises a UserError if the machine does not have it.
    """
    if device == "cpu" or (device == "auto" and not _may_have_gpu()):
        return "cpu"
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next((name for name, is_available in available.items() if is_available), "cpu")
    if not available[device]:
        raise UserError(
            f"device: {device} is not available on this machine.\n"
            "Set device: auto in params.yaml, then: headswap check"
        )
    return device


def _may_have_gpu() -> bool:
    return sys.platform != "linux" or any(Path(file).exists() for file in GPU_FILES)


def device_name(device: str) -> str:
    """Return the model of a CUDA device, else the device as it is."""
    if device != "cuda":
        return device
    import torch

    return torch.cuda.get_device_name()


def device_time(device: str) -> float:
    """Return a clock's seconds: of the processor, which other processes do not slow down.

    The clock of a GPU is the time that passes until the work that was queued on it is done.
    """
    if device == "cpu":
        return time.process_time()
    import torch

    torch.accelerator.synchronize()
    return time.perf_counter()


class Stopwatch:
    """The time between two laps."""

    def __init__(self, device: str):
        self._device = device
        self._processor, self._wall = device_time(device), time.perf_counter()

    def lap(self) -> float:
        """Return the seconds of `device_time` since the last lap."""
        last, self._processor = self._processor, device_time(self._device)
        return self._processor - last

    def wall_lap(self) -> float:
        """Return the seconds that passed since the last lap of this kind."""
        last, self._wall = self._wall, time.perf_counter()
        return self._wall - last
