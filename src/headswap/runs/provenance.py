"""What made a result: code, package versions, machine, revision."""

import ast
import functools
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from headswap.io import digest
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


def code_digest(package: Path = Path(__file__).parents[1]) -> str:
    """Return a digest of the code that trains: of the wing `train` and of `images`.

    It covers the syntax trees without docstrings, so comments, docstrings and formatting do not
    change it.

    Parameters
    ----------
    package
        The folder of the package ``headswap``.
    """
    paths = sorted(path for wing in ("images", "train") for path in (package / wing).rglob("*.py"))
    return digest(
        [
            (path.relative_to(package).as_posix(), _syntax_tree(path.read_text(encoding="utf-8")))
            for path in paths
        ]
    )


@functools.cache  # of all files it takes 0.2 s, and the status of all runs needs it for each cell
def _syntax_tree(code: str) -> str:
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [statement for statement in node.body if not _is_string(statement)]
    return ast.dump(tree)


def _is_string(statement: ast.stmt) -> bool:
    """Return whether a statement is a docstring, or the string below a constant."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Return the versions of Python and of the packages that compute.

    Parameters
    ----------
    packages
        Others, which a factory uses; they may no longer be installed.
    """
    found = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine(device: str = "cpu") -> dict[str, str | int | bool | None]:
    """Return what a measured time depends on besides the code, and the state of the checkout.

    Parameters
    ----------
    device
        ``cpu``, ``cuda`` or ``mps``.

    Returns
    -------
    dict
        ``processor``; ``cores``; ``device``, of a CUDA device its model; ``workers``, the maximum
        number of runs in parallel; ``system``; ``arithmetic``, the variables of `ARITHMETIC` that
        are set; ``revision``, None outside a Git checkout;
        ``dirty``, whether ``src`` has uncommitted changes (parameters are recorded as such).
    """
    if device == "cuda":
        import torch

        device = torch.cuda.get_device_name()
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": device,
        "workers": worker_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "arithmetic": " ".join(
            f"{name}={os.environ[name]}" for name in ARITHMETIC if name in os.environ
        ),
        "revision": _git("rev-parse", "HEAD"),
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
