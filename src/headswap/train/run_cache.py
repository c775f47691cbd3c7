"""The cache of runs in ``runs/``: each run is in a folder named after its cache key."""

from pathlib import Path
from typing import Any

from headswap.io import digest, read_json, sha256
from headswap.params import Cell, Params
from headswap.paths import EMBEDDINGS, RUNS, WEIGHTS
from headswap.train.devices import resolve_device
from headswap.train.provenance import code_digest, images_digest, versions


def cache_key(cell: Cell, params: Params) -> dict[str, Any]:
    """Return all that the results of a cell's runs depend on, except the seed.

    Returns
    -------
    dict
        JSON-like.

    Raises
    ------
    UserError
        If images, weights or features are missing.
    """
    inputs: dict[str, str]
    if cell.mode == "probe":
        parameters = {}
        inputs = {"embeddings": sha256(EMBEDDINGS / f"{cell.model}.safetensors")}
    else:
        parameters = {"image": params.image.model_dump()}
        inputs = {
            "images": images_digest(),
            "weights": sha256(WEIGHTS / f"{cell.model}.safetensors"),
        }
    return {
        "cell": cell.name,
        "recipe": params.recipe(cell).model_dump(),
        "precision": params.precision,
        "device": resolve_device(params.device),
        **parameters,
        "inputs": {**inputs, "code": code_digest()},
        "versions": versions(),
    }


def runs_folder(cell: Cell, key: dict[str, Any]) -> Path:
    """Return the folder of a cell's runs that have a cache key."""
    return RUNS / cell.name / digest(key)


def run_folder(cell: Cell, key: dict[str, Any], seed: int) -> Path:
    """Return the folder of one run."""
    return runs_folder(cell, key) / f"seed-{seed}"


def is_finished(folder: Path) -> bool:
    """Return whether a run was trained to its end: ``run.json`` is written last."""
    return (folder / "run.json").exists()


def delete_checkpoint(folder: Path) -> None:
    """Delete the checkpoint of a finished run."""
    for file in folder.glob("*.pt"):
        file.unlink()


def unused_folders(params: Params) -> list[Path]:
    """Return the folders under ``runs/`` that no cell of the parameters would take a run from.

    Parts of features that an interrupted `embed` left count as used while their model is listed.
    """
    used = {runs_folder(cell, cache_key(cell, params)) for cell in params.cells()}
    features = {f"{model}-embed" for model in params.models}
    return sorted(
        folder
        for folder in RUNS.glob("*/*/")
        if folder not in used and folder.parent.name not in features
    )


def changes_since_last_run(cell: Cell, key: dict[str, Any]) -> list[str]:
    """Return what differs between a cache key and that of the cell's latest finished run.

    Returns
    -------
    list of str
        Such as ``recipe.lr`` or ``versions.torch``; empty if there is no finished run.
    """
    finished = (RUNS / cell.name).glob("*/seed-*/run.json")
    latest = max(finished, key=lambda path: path.stat().st_mtime, default=None)
    if latest is None:
        return []
    old, new = _flat(read_json(latest)), _flat(key)
    return sorted(name for name in new if old.get(name) != new[name])


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dictionaries by their dotted names."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            leaves |= _flat(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = value
    return leaves
