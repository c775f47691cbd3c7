"""What a result depends on: the cache key of a run, versions, the machine, the revision."""

import functools
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from headswap.images.index import read_index
from headswap.images.preprocessing import preprocessing
from headswap.io import digest, read_tensors, sha256, syntax_tree
from headswap.params import Cell, Image, Params
from headswap.paths import EMBEDDINGS, WEIGHTS
from headswap.runs.workers import worker_count

PACKAGES = ("headswap", "torch", "torchvision", "pillow")
"""The packages that compute."""
ARITHMETIC = (
    *("ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "MKL_CBWR"),
    *("MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA"),
)
"""Variables by which torch and its libraries choose other instructions, which round differently."""


def cache_key(cell: Cell, params: Params) -> dict[str, Any]:
    """Return all that the results of a cell's runs depend on, except seed and fold: JSON-like.

    Raises a UserError if images, weights or features are missing.
    """
    key: dict[str, Any] = {"cell": cell.name, **params.model_dump(include={"precision", "device"})}
    file, folds = f"{cell.model}.safetensors", params.dataset.folds
    if cell.mode == "probe":
        inputs, packages = {"embeddings": file_digest(EMBEDDINGS / file)}, ["numpy", "scipy"]
    else:
        index, recipe = read_index(), params.recipe(cell)
        key["recipe"] = recipe.model_dump()
        key["image"] = asdict(preprocessing(cell.model, params.image))
        inputs = {"images": index.digest, "weights": file_digest(WEIGHTS / file)}
        packages = [*weights_packages(cell.model)]
        if recipe.head == "probe":
            packages += ["numpy", "scipy"]
        if folds or cell.held_out is not None or recipe.head == "probe":
            inputs["groups"] = digest([row.group for row in index.rows])
    if folds:
        key["folds"] = folds
    inputs["code"] = code_digest()
    return {**key, "inputs": inputs, "versions": versions(packages)}


def describe_inputs(model: str, image: Image, images: str, weights: str) -> dict[str, Any]:
    """Return what a network is made from, from two digests, and what it expects to see."""
    path = WEIGHTS / f"{model}.safetensors"
    _, metadata = read_tensors(path, only=())
    of_network = {key: metadata.get(key) for key in ("factory", "code", "source", "head")}
    return {
        "backbone": {"name": model, **of_network, "file": path.name, "sha256": weights},
        "preprocessing": asdict(preprocessing(model, image)),
        "images": images,
    }


def weights_packages(model: str) -> dict[str, str]:
    """Return the packages and versions that made a model's weights, unless torchvision's own."""
    _, metadata = read_tensors(WEIGHTS / f"{model}.safetensors", only=())
    return metadata.get("packages", {})


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, computed once for as long as its size and time are the same."""
    if not path.exists():
        return sha256(path)  # which says what to do
    state = path.stat()
    return _sha256(path, state.st_ino, state.st_size, state.st_mtime_ns)


@functools.cache
def _sha256(path: Path, *_state: int) -> str:
    return sha256(path)


def code_digest(package: Path = Path(__file__).parents[1]) -> str:
    """Return a digest of the `syntax_tree` of ``train`` and ``images``, the code that computes."""
    paths = sorted(path for name in ("images", "train") for path in (package / name).rglob("*.py"))
    codes = {path.relative_to(package).as_posix(): path.read_text("utf-8") for path in paths}
    return digest([(name, syntax_tree(code)) for name, code in codes.items()])


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
        return re.findall(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())[0]
    except (OSError, IndexError):
        return platform.processor() or "unknown"


def _git(*arguments: str) -> str | None:
    """Return the output of a Git command, None outside a checkout or without Git."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
