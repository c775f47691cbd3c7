"""The device that a network is trained on."""

import sys
from pathlib import Path

from headswap.errors import UserError

GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Device files of NVIDIA's and AMD's drivers on Linux, and of Windows' driver in WSL."""


def resolve_device(device: str) -> str:
    """Turn ``device`` of ``params.yaml`` into one that this machine has.

    Torch, which takes seconds to import, is imported only where there may be a GPU.

    Parameters
    ----------
    device
        ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Returns
    -------
    str
        ``cpu``, ``cuda`` or ``mps``.

    Raises
    ------
    UserError
        If the machine does not have the device.
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
