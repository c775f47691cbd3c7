"""What made a result: package versions, machine, revision."""

import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from headswap.runs.workers import worker_count

PACKAGES = ("headswap", "torch", "torchvision", "pillow")
"""The packages that compute."""
ARITHMETIC = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
)
"""Variables by which torch and its libraries choose other instructions, which round differently."""


def versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Return the versions of Python, of `PACKAGES`, and of others, which may not be installed."""
    found = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine(device: str = "cpu") -> dict[str, str | int | bool | None]:
    """Return what a measured time depends on besides the code, and the state of the checkout."""
    set_variables = [f"{name}={os.environ[name]}" for name in ARITHMETIC if name in os.environ]
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": device,
        "workers": worker_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "arithmetic": " ".join(set_variables),
        "revision": _git("rev-parse", "HEAD"),
        # Of the code alone; parameters are recorded as such.
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no", "--", "src")),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        return platform.processor() or "unknown"


def _git(*arguments: str) -> str | None:
    """Return the output of a Git command, None outside a checkout or without Git."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
