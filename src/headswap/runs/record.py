"""The record of a cell in ``models/<cell>/model.json``: all that using it needs."""

from dataclasses import asdict
from typing import Any

from headswap.images.preprocessing import preprocessing
from headswap.io import read_tensors
from headswap.params import Cell, Image
from headswap.paths import EMBEDDINGS, WEIGHTS

RECORD = "model.json"


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
    best = best_run(runs)
    with_weights = [best] if cell.mode == "finetune" else _finished(runs)
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
                "weights": weights_file(cell, run) if run in with_weights else None,
            }
            for run in runs
        ],
        "kept": best
        and {
            "seed": best["seed"],
            "epoch": best["best"]["epoch"],
            "weights": weights_file(cell, best),
            "why": "the most accurate on the validation images at its best epoch, "
            "of equals the one with the lowest seed",
        },
    }


def best_run(runs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the run that is best at its best epoch, of equals the first; None if all diverged."""
    return max(_finished(runs), key=lambda run: run["best"]["accuracy"], default=None)


def _finished(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [run for run in runs if run["diverged"] is None]


def weights_file(cell: Cell, run: dict[str, Any], which: str = "best") -> str:
    """Return the name of the file of a run's trained tensors in the cell's folder."""
    if cell.mode == "finetune":
        return f"{which}.safetensors"
    return f"run-{run['seed']}-{which}.safetensors"
