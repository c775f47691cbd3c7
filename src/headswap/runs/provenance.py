"""What a result depends on: the cache key of a run, versions, the machine, the revision."""

import functools
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from contextlib import suppress
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


def cache_key(cell: Cell, params: Params) -> dict[str, Any]:
    """Return all that the results of a cell's runs depend on, except seed and fold: JSON-like."""
    key: dict[str, Any] = {"cell": cell.name, **params.model_dump(include={"precision", "device"})}
    file, folds = f"{cell.model}.safetensors", params.dataset.folds
    if cell.mode == "probe":
        inputs, packages = {"embeddings": file_digest(EMBEDDINGS / file)}, ["numpy", "scipy"]
    else:
        index, recipe = read_index(), params.recipe(cell)
        starts_from_probe = recipe.head == "probe"
        image = asdict(preprocessing(cell.model, params.image))
        key |= {"recipe": recipe.model_dump(), "image": image}
        inputs = {"images": index.digest, "weights": file_digest(WEIGHTS / file)}
        packages = [*weights_packages(cell.model), *["numpy", "scipy"] * starts_from_probe]
        if folds or cell.held_out is not None or starts_from_probe:
            inputs["groups"] = digest([row.group for row in index.rows])
    if folds:
        key["folds"] = folds
    return {**key, "inputs": {**inputs, "code": code_digest()}, "versions": versions(packages)}


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
    return read_tensors(WEIGHTS / f"{model}.safetensors", only=())[1].get("packages", {})


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, computed once for as long as its size and time are the same."""
    state = path.stat() if path.exists() else None
    return _sha256(path, state and (state.st_ino, state.st_size, state.st_mtime_ns))


@functools.cache
def _sha256(path: Path, _state: tuple[int, ...] | None) -> str:
    return sha256(path)  # which says what to do if there is no file


def code_digest(package: Path = Path(__file__).parents[1]) -> str:
    """Return a digest of the `syntax_tree` of ``train`` and ``images``, the code that computes."""
    paths = sorted(path for name in ("images", "train") for path in (package / name).rglob("*.py"))
    codes = {path.relative_to(package).as_posix(): path.read_text("utf-8") for path in paths}
    return digest([(name, syntax_tree(code)) for name, code in codes.items()])


def versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Return the versions of what computes, and of other packages, which may not be installed."""
    found = {"python": platform.python_version()}
    for name in ("headswap", "torch", "torchvision", "pillow", *packages):
        found[name] = "not installed"
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def machine(device: str = "cpu") -> dict[str, str | int | bool | None]:
    """Return what a measured time depends on besides the code, and the state of the checkout."""
    processor = platform.processor() or "unknown"
    with suppress(OSError, IndexError):
        processor = re.findall(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())[0]
    # By these torch and its libraries choose other instructions, which round differently.
    arithmetic = ["ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "MKL_CBWR"]
    arithmetic += ["MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA"]
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "device": device,
        "workers": worker_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "arithmetic": " ".join(f"{v}={os.environ[v]}" for v in arithmetic if v in os.environ),
        "revision": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no", "--", "src")),
    }


def _git(*arguments: str) -> str | None:
    """Return the output of a Git command, None outside a checkout or without Git."""
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()
    return None
