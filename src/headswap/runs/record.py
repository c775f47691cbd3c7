"""The record of a cell in ``models/<cell>/model.json``: all that is needed to use what was trained.

This module does not import torch.
"""

from dataclasses import asdict
from typing import Any

from headswap.images.preprocessing import preprocessing
from headswap.io import read_tensors
from headswap.params import Cell, Image
from headswap.paths import EMBEDDINGS, WEIGHTS

RECORD = "model.json"


def describe_inputs(model: str, image: Image, images: str, weights: str) -> dict[str, Any]:
    """Return what a trained network is made from, and what it expects to see.

    Parameters
    ----------
    model
        A model of ``params.yaml``.
    image
        Its sides, where ``params.yaml`` gives them.
    images, weights
        The digests of the images and of the file of the backbone's weights.

    Returns
    -------
    dict
        JSON-like: ``backbone``, with torchvision's ``name`` or the one of a ``factory``, the
        ``source`` of its weights, the name of its ``head``, and the ``file`` in ``data/weights``
        with its ``sha256``; ``preprocessing``; and ``images``, the digest.
    """
    path = WEIGHTS / f"{model}.safetensors"
    _, metadata = read_tensors(path, only=())
    return {
        "backbone": {
            "name": model,
            "factory": metadata.get("factory"),
            "source": metadata["source"],
            "head": metadata["head"],
            "file": path.name,
            "sha256": weights,
        },
        "preprocessing": asdict(preprocessing(model, image)),
        "images": images,
    }


def cell_record(
    cell: Cell, image: Image, classes: list[str], counts: dict[str, int], runs: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the record of a cell.

    Parameters
    ----------
    cell
        What was trained.
    image
        Its sides, where ``params.yaml`` gives them; in `probe` those of the features count.
    classes
        In the order of the network's outputs.
    counts
        The number of images in each split.
    runs
        The content of each run's ``run.json``.

    Returns
    -------
    dict
        JSON-like: the cell, `describe_inputs`, what the folder ``needs`` besides itself, classes,
        recipe, precision and versions; for each of ``runs`` its accuracies and the file of its
        weights at the best epoch, None where it is not kept; and ``kept``, the run to use, None if
        all diverged.
    """
    if cell.mode == "probe":
        _, features = read_tensors(EMBEDDINGS / f"{cell.model}.safetensors", only=())
        inputs = features["inputs"]
    else:
        digests = runs[0]["inputs"]
        inputs = describe_inputs(cell.model, image, digests["images"], digests["weights"])
    best = best_run(runs)
    return {
        "cell": cell.name,
        "mode": cell.mode,
        **inputs,
        "needs": None
        if cell.mode == "finetune"
        else f"the backbone's {inputs['backbone']['file']}, in this folder or in the project's "
        f"{WEIGHTS.as_posix()}",
        "classes": classes,
        "counts": counts,
        **{key: runs[0][key] for key in ("recipe", "precision", "versions")},
        "runs": [_accuracies(cell, run, kept=run is best) for run in runs],
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
    """Return the run with the most accurate best epoch, of equals the first; None if all diverged.

    Parameters
    ----------
    runs
        The content of each run's ``run.json``.
    """
    finished = [run for run in runs if run["diverged"] is None]
    return max(finished, key=lambda run: run["best"]["accuracy"], default=None)


def weights_file(cell: Cell, run: dict[str, Any], which: str = "best") -> str:
    """Return the name of the file of a run's trained tensors in the cell's folder."""
    return (
        f"{which}.safetensors"
        if cell.mode == "finetune"
        else (f"run-{run['seed']}-{which}.safetensors")
    )


def _accuracies(cell: Cell, run: dict[str, Any], kept: bool) -> dict[str, Any]:
    has_weights = run["diverged"] is None and (kept or cell.mode != "finetune")
    return {
        "seed": run["seed"],
        "diverged": run["diverged"],
        **{which: run[which] for which in ("best", "last")},
        "weights": weights_file(cell, run) if has_weights else None,
    }
