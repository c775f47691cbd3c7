"""The record of a cell in ``models/<cell>/model.json``: all that using it needs."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from headswap.images.index import Index
from headswap.images.preprocessing import preprocessing
from headswap.io import read_tensors
from headswap.params import Cell, Image, Params
from headswap.paths import WEIGHTS
from headswap.runs.store import read_features

RECORD = "model.json"
TRAINED = "trained.safetensors"
"""In the folder of a run, its trained tensors at the last epoch."""


def describe_inputs(model: str, image: Image, images: str, weights: str) -> dict[str, Any]:
    """Return what a network is made from, from two digests, and what it expects to see."""
    path = WEIGHTS / f"{model}.safetensors"
    _, metadata = read_tensors(path, only=())
    return {
        "backbone": {
            "name": model,
            **{key: metadata.get(key) for key in ("factory", "code", "source", "head")},
            "file": path.name,
            "sha256": weights,
        },
        "preprocessing": asdict(preprocessing(model, image)),
        "images": images,
    }


def cell_record(cell: Cell, params: Params, index: Index, run: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the record of a cell says, JSON-like, besides its runs; `run` is one of them."""
    if cell.mode == "probe":
        inputs = read_features(cell.model)[2]["inputs"]
    else:
        digests = run["inputs"]
        inputs = describe_inputs(cell.model, params.image, digests["images"], digests["weights"])
    needs = None
    if cell.mode != "finetune":
        file = inputs["backbone"]["file"]
        needs = f"the backbone's {file}, in this folder or in the project's {WEIGHTS.as_posix()}"
    folds = params.dataset.folds
    counts = {split: len(index.rows if folds else names) for split, names in index.names.items()}
    return {
        "cell": cell.name,
        "mode": cell.mode,
        **inputs,
        "needs": needs,
        "classes": index.classes,
        "counts": counts,
        **({"folds": folds} if folds else {}),
        **{key: run[key] for key in ("recipe", "precision", "versions")},
    }
