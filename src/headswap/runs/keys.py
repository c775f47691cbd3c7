"""The cache key of a run: all that its result depends on, except seed and fold."""

import functools
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from headswap.images.index import read_index
from headswap.images.preprocessing import preprocessing
from headswap.io import digest, read_tensors, sha256, syntax_tree
from headswap.params import Cell, Params
from headswap.paths import EMBEDDINGS, WEIGHTS
from headswap.runs.provenance import versions


def cache_key(cell: Cell, params: Params) -> dict[str, Any]:
    """Return all that the results of a cell's runs depend on, except seed and fold: JSON-like.

    Raises a UserError if images, weights or features are missing.
    """
    file = f"{cell.model}.safetensors"
    parameters: dict[str, Any]
    packages: Iterable[str]
    if cell.mode == "probe":
        parameters, packages = {}, ("numpy", "scipy")
        inputs = {"embeddings": file_digest(EMBEDDINGS / file)}
    else:
        parameters = {
            "recipe": params.recipe(cell).model_dump(),
            "image": asdict(preprocessing(cell.model, params.image)),
        }
        inputs = {"images": read_index().digest, "weights": file_digest(WEIGHTS / file)}
        packages = weights_packages(cell.model)
        if params.recipe(cell).head == "probe":
            packages = [*packages, "numpy", "scipy"]
        if params.dataset.folds or cell.held_out is not None or params.recipe(cell).head == "probe":
            inputs["groups"] = digest([row.group for row in read_index().rows])
    if params.dataset.folds:
        parameters["folds"] = params.dataset.folds
    return {
        "cell": cell.name,
        "precision": params.precision,
        "device": params.device,
        **parameters,
        "inputs": {**inputs, "code": code_digest()},
        "versions": versions(packages),
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
