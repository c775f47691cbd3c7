"""Export a trained network for use without headswap: as a program, as ONNX, with a model card."""

import contextlib
import shutil
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from headswap.errors import UserError
from headswap.images.index import read_index
from headswap.io import atomic_write, write_json, write_text
from headswap.markdown import fill_template
from headswap.paths import IMAGES
from headswap.predict import standalone
from headswap.predict.folders import interval, require
from headswap.predict.model import PROGRAM, Classifier, load_model
from headswap.runs.store import RECORD

CHECKED = 40
"""Validation images, at most, that an export is run on before it is given out."""
TOLERANCE = 0.02
"""How far a probability may be from headswap's: Pillow and torch round otherwise when they resize
(measured: 0.005); ONNX Runtime's own share is below 1e-5."""
WITH_HEADSWAP = "Use the model folder with headswap instead."
WITHOUT_ONNX = f"Leave out --onnx; {PROGRAM} does not depend on it."


def export(folder: Path, target: Path, onnx: bool = False) -> dict[str, Any]:
    """Write the run that a model folder keeps into a new or an empty folder, for others to use.

    Return its record, with the ``example``, how many images were ``checked``, and the largest
    ``difference`` of a probability.
    """
    if onnx:
        require("onnx", "onnxruntime", "onnxscript")
    images = _validation_images(folder)
    classifier = load_model(folder)
    logits = [classifier.network(classifier.preprocess(path)) for path in images]
    expected = torch.cat(logits).softmax(1)
    record = _record(folder, classifier.record) | {"example": f"example{images[0].suffix}"}
    with atomic_write(target) as temporary:
        temporary.mkdir()
        shutil.copyfile(images[0], temporary / record["example"])
        shutil.copyfile(standalone.__file__, temporary / "classify.py")
        write_json(temporary / RECORD, record)
        program = write_program(classifier, temporary / PROGRAM)
        difference = _difference(temporary, images, expected, WITH_HEADSWAP)
        if onnx:
            write_onnx(program, temporary / "model.onnx")
            difference = max(difference, _difference(temporary, images, expected, WITHOUT_ONNX))
        record |= {"checked": len(images), "difference": float(f"{difference:.2g}")}
        write_json(temporary / RECORD, record)
        probabilities = dict(zip(classifier.classes, expected[0].tolist(), strict=True))
        write_json(temporary / "expected.json", probabilities)
        run = next(run for run in record["runs"] if run["weights"])
        facts = record | {"run": run, "onnx": onnx}
        write_text(temporary / "README.md", fill_template("headswap.predict", "card.md", facts, {}))
    return record


def write_program(classifier: Classifier, path: Path) -> torch.export.ExportedProgram:
    """Write a network as a graph that needs no code of its own, for batches of any size."""
    side = classifier.record["preprocessing"]["size"]
    classifier.network.to(memory_format=torch.contiguous_format)  # the reader warns of others
    with _explain_failure("", WITH_HEADSWAP):
        program = torch.export.export(
            classifier.network,
            (torch.zeros(2, 3, side, side),),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    with open(path, "wb") as file:
        torch.export.save(program, file)
    return program


def write_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a program as ONNX: ``images`` of any number to ``logits``, in float32."""
    with _explain_failure(" to ONNX", WITHOUT_ONNX), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            program,
            f=path,
            input_names=["images"],
            output_names=["logits"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@contextlib.contextmanager
def _explain_failure(to: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # exporters fail in many ways with what they cannot trace or lack
        raise UserError(
            f"The network cannot be exported{to}: {type(error).__name__}: {error}\n{remedy}"
        ) from error


def _validation_images(folder: Path) -> list[Path]:
    """Return at most `CHECKED` images, from all classes."""
    images = folder.resolve().parent.parent / IMAGES
    if not images.exists():
        raise UserError(
            f"There are no validation images in {images}, to check the export on.\n"
            "In the folder of the project that it was trained in, bring them with: "
            "dvc repro verify"
        )
    names = read_index(images).names["val"]
    return [images / name for name in names[:: -(-len(names) // CHECKED)]]


def _record(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of an exported folder: of a model folder with one run."""
    kept = record["kept"]
    runs = [
        run | {"weights": PROGRAM if run["seed"] == kept["seed"] else None}
        for run in record["runs"]
    ]
    return {
        **record,
        "needs": None,
        "runs": runs,
        "kept": kept | {"weights": PROGRAM},
        "interval": interval(folder, record),
        "torch": version("torch").partition("+")[0],
    }


def _difference(folder: Path, images: list[Path], expected: torch.Tensor, remedy: str) -> float:
    """Return how far the probabilities that an exported folder's own code gives are from others."""
    classify = standalone.load(folder)
    found = torch.tensor([list(classify(path).values()) for path in images])
    difference = (found - expected).abs().max().item()
    if not difference <= TOLERANCE:
        raise UserError(
            f"Nothing is written, because of {len(images)} validation images one gets a "
            f"probability that differs by {difference:.2g} (allowed: {TOLERANCE}) from what it "
            f"has here.\n{remedy}"
        )
    return difference
