"""What made a result: digests of code and images, versions, machine, revision."""

import ast
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from headswap.images.folders import images_in
from headswap.io import digest, sha256
from headswap.paths import IMAGES
from headswap.train.workers import how_many


def images_digest(folder=IMAGES):
    """Return a digest of the names and contents of all images."""
    return digest([(name, sha256(path)) for name, path in images_in(folder).items()])


def code_digest() -> str:
    """Return a digest of the code of the training wing and of how images are read.

    It is taken of the syntax trees without docstrings, so that comments, docstrings and formatting
    do not change it.
    """
    package = Path(__file__).parents[1]
    paths = sorted(path for wing in ("images", "train") for path in (package / wing).rglob("*.py"))
    return digest([(str(path.relative_to(package)), _code(path)) for path in paths])


def _code(path: Path) -> str:
    """Return the syntax tree of a module without its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [statement for statement in node.body if not _is_string(statement)]
    return ast.dump(tree)


def _is_string(statement: ast.stmt) -> bool:
    """Tell whether a statement is a docstring, or a string that documents a constant."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


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
