"""What made a result: digests of code and images, versions, machine, revision."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from .files import digest, sha256
from .layout import IMAGES, images_in
from .workers import how_many

TRAINING_CODE = (
    "embedding",
    "images",
    "layout",
    "networks",
    "runs",
    "seeds",
    "sgd",
    "training",
    "weights",
    "workers",
)
"""The modules that a result depends on; the stages in ``dvc.yaml`` name the same."""


def images_digest(folder=IMAGES):
    """Return a digest of the names and contents of all images."""
    return digest([(name, sha256(path)) for name, path in images_in(folder).items()])


def code_digest():
    """Return a digest of the modules named in `TRAINING_CODE`."""
    return digest([sha256(Path(__file__).with_name(f"{name}.py")) for name in TRAINING_CODE])


def versions():
    """Return the versions of what computes."""
    names = ("headswap", "torch", "torchvision", "pillow")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def machine(device="cpu"):
    """Return what a measured time depends on besides the code, and the state of the checkout.

    Parameters
    ----------
    device : {"cpu", "cuda", "mps"}
        What computes; of a GPU its name is told.

    Returns
    -------
    dict
        ``processor``, ``cores``, ``device``, ``workers`` (side by side), ``system``, ``revision``
        (None outside a checkout) and whether it is ``dirty``.
    """
    if device == "cuda":
        import torch

        device = torch.cuda.get_device_name()
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": device,
        "workers": how_many(),
        "system": f"{platform.system()} {platform.machine()}",
        "revision": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        return platform.processor() or "unknown"


def _git(*arguments):
    """Return what Git says, or None outside a checkout or without Git."""
    try:
        answer = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
