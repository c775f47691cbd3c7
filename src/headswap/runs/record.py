"""The record of a cell in ``models/<cell>/model.json``: all that using it needs."""

from dataclasses import asdict
from typing import Any

from headswap.images.preprocessing import preprocessing
from headswap.io import read_tensors
from headswap.params import Cell, Image
from headswap.paths import EMBEDDINGS, WEIGHTS

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


def cell_record(
    cell: Cell, image: Image, classes: list[str], counts: dict[str, int], runs: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the record of a cell, JSON-like; ``kept`` is the run to use, None if all diverged."""
    if cell.mode == "probe":
        _, features = read_tensors(EMBEDDINGS / f"{cell.model}.safetensors", only=())
        inputs = features["inputs"]
    else:
        digests = runs[0]["inputs"]
        inputs = describe_inputs(cell.model, image, digests["images"], digests["weights"])
    kept = runs_with_weights(cell, runs)
    needs = None
    if cell.mode != "finetune":
        file = inputs["backbone"]["file"]
        needs = f"the backbone's {file}, in this folder or in the project's {WEIGHTS.as_posix()}"
    return {
        "cell": cell.name,
        "mode": cell.mode,
        **inputs,
        "needs": needs,
        "classes": classes,
        "counts": counts,
        **{key: runs[0][key] for key in ("recipe", "precision", "versions")},
        "runs": [
            {
                **{key: run[key] for key in ("seed", "diverged", "best", "last")},
                "weights": weights_file(run) if run in kept else None,
            }
            for run in runs
        ],
        "kept": {
            "seed": kept[0]["seed"],
            "epoch": kept[0]["last"]["epoch"],
            "weights": weights_file(kept[0]),
            "why": "the one with the lowest seed, at its last epoch",
        }
        if kept
        else None,
    }


def runs_with_weights(cell: Cell, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the runs whose trained tensors a cell's folder has: all finished, or the first."""
    finished = [run for run in runs if run["diverged"] is None]
    return finished[:1] if cell.mode == "finetune" else finished


def weights_file(run: dict[str, Any]) -> str:
    """Return the name of the file of a run's trained tensors in the cell's folder."""
    return f"run-{run['seed']}.safetensors"
