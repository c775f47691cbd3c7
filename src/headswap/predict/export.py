"""Export a trained network for use without headswap: weights, ONNX, and a model card."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headswap.errors import UserError
from headswap.images.index import read_index
from headswap.io import atomic_write, write_json, write_text
from headswap.markdown import fill_template
from headswap.paths import IMAGES
from headswap.predict.extras import require
from headswap.predict.folders import interval
from headswap.predict.model import Classifier, load_model
from headswap.train.dataset import EVALUATION_BATCH
from headswap.train.networks import OPTIONS
from headswap.train.weights import save_tensors

TOLERANCE = 1e-3
"""How far the probabilities of an ONNX file may be from the network's."""


def export(folder: Path, target: Path, onnx: bool = False) -> dict[str, Any] | None:
    """Write the run that a model folder keeps, so that others can use it without headswap.

    The new folder `target` gets ``model.safetensors``, all weights; ``config.json``; ``README.md``,
    the model card; and with `onnx` also ``model.onnx``. Returns how that compares with the network
    (see `compare_onnx`).
    """
    if target.exists():
        raise UserError(f"{target} exists already.\nName a new folder, or remove it first.")
    if onnx:
        require("onnx", "onnxruntime", "onnxscript")
        images = _validation_images(folder.resolve().parents[1] / IMAGES)
    network = load_model(folder)
    comparison = None
    with atomic_write(target) as temporary:
        temporary.mkdir()
        save_tensors(temporary / "model.safetensors", network.network.state_dict())
        if onnx:
            write_onnx(network, temporary / "model.onnx")
            comparison = compare_onnx(network, temporary / "model.onnx", images)
        facts = {**network.record, "interval": interval(folder, network.record), "onnx": comparison}
        write_json(temporary / "config.json", facts)
        write_text(temporary / "README.md", model_card(network, facts))
    return comparison


def write_onnx(network: Classifier, path: Path) -> None:
    """Write a network as ONNX: ``images`` of any number to ``logits``, in float32."""
    size = network.record["preprocessing"]["size"]
    name = network.record["backbone"]["name"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network.network,
                (torch.zeros(2, 3, size, size),),
                path,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter fails in many ways where it lacks an operation
        raise UserError(
            f"{name} cannot be exported to ONNX: {type(error).__name__}: {error}\n"
            "Leave out --onnx; the other files do not depend on it."
        ) from error


def compare_onnx(network: Classifier, path: Path, images: list[Path]) -> dict[str, Any]:
    """Compare an ONNX file, run by ONNX Runtime, with the network that it was made from.

    Returns the number of ``images`` that both classified, and the ``largest_difference`` of a
    probability. A UserError says that an image gets another class, or that a probability differs by
    more than `TOLERANCE`.
    """
    import onnxruntime  # only here: it is an extra

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pairs = []
    for first in range(0, len(images), EVALUATION_BATCH):
        batch = network.preprocess(*images[first : first + EVALUATION_BATCH]).contiguous()
        (logits,) = session.run(["logits"], {"images": batch.numpy()})
        outputs = torch.stack([network.network(batch), torch.from_numpy(np.array(logits))])
        pairs.append(outputs.softmax(-1))
    expected, found = torch.cat(pairs, dim=1)
    others = int((expected.argmax(1) != found.argmax(1)).sum())
    difference = (expected - found).abs().max().item()
    if others or not difference <= TOLERANCE:
        raise UserError(
            f"The ONNX file is not written, because it does not compute what the network does: of "
            f"{len(images)} validation images {others} get another class, and the largest "
            f"difference of a probability is {difference:.2g} (allowed: {TOLERANCE:g}).\n"
            "Leave out --onnx; the other files do not depend on it."
        )
    return {"images": len(images), "largest_difference": float(f"{difference:.3g}")}


def model_card(network: Classifier, facts: dict[str, Any]) -> str:
    """Return the model card in Markdown, with code that loads the weights."""
    backbone = facts["backbone"]
    seed = facts["kept"]["seed"]
    options = OPTIONS.get(backbone["name"], {})
    facts = facts | {
        "factory": backbone["factory"],
        "features": network.network.get_submodule(backbone["head"]).in_features,
        "options": "".join(f", {name}={value}" for name, value in options.items()),
        "run": next(run for run in facts["runs"] if run["seed"] == seed),
    }
    return fill_template("headswap.predict", "card.md", facts, {"python": _literal})


def _validation_images(folder: Path) -> list[Path]:
    if not folder.exists():
        raise UserError(
            f"There are no validation images in {folder} to compare the ONNX file on.\n"
            "Bring them with: dvc repro verify"
        )
    return [folder / name for name in read_index(folder).names["val"]]


def _literal(value: str | list[str] | list[float]) -> str:
    """Return a value in Python; JSON's form of texts, numbers and lists of them is Python's."""
    return json.dumps(value, ensure_ascii=False)
