"""Export a trained network for use without headswap: as a program, as ONNX, with a model card."""

import contextlib
import shutil
import warnings
from collections.abc import Iterator
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

# How far a probability may be from headswap's: Pillow and torch round otherwise when they resize
# (measured: 0.005); ONNX Runtime's own share is below 1e-5.
TOLERANCE = 0.02


def export(folder: Path, target: Path, onnx: bool = False) -> dict[str, Any]:
    """Write the run that a model folder keeps into a new or an empty folder, for others to use.

    Return its record, with the ``example``, how many images were ``checked``, and the largest
    ``difference`` of a probability.
    """
    if onnx:
        require("onnx", "onnxruntime", "onnxscript")
    index = read_index(folder.resolve().parent.parent / IMAGES)
    names = index.names["val"]
    images = [index.folder / name for name in names[:: -(-len(names) // 40)]]  # of all classes
    classifier = load_model(folder)
    logits = [classifier.network(classifier.preprocess(path)) for path in images]
    expected = torch.cat(logits).softmax(1)
    kept = classifier.record["kept"] | {"weights": PROGRAM}
    files = {kept["seed"]: PROGRAM}
    runs = [run | {"weights": files.get(run["seed"])} for run in classifier.record["runs"]]
    record = classifier.record | {"needs": None, "runs": runs, "kept": kept}
    record |= {
        "interval": interval(folder, classifier.record),
        "torch": version("torch").partition("+")[0],
        "example": f"example{images[0].suffix}",
    }
    with atomic_write(target) as temporary:
        temporary.mkdir()
        shutil.copyfile(images[0], temporary / record["example"])
        shutil.copyfile(standalone.__file__, temporary / "classify.py")
        write_json(temporary / RECORD, record)
        with _explain_failure("Use the model folder with headswap instead."):
            program = write_program(classifier, temporary / PROGRAM)
            difference = _difference(temporary, images, expected)
        if onnx:
            with _explain_failure(f"Leave out --onnx; {PROGRAM} does not depend on it."):
                write_onnx(program, temporary / "model.onnx")
                difference = max(difference, _difference(temporary, images, expected))
        record |= {"checked": len(images), "difference": float(f"{difference:.2g}")}
        write_json(temporary / RECORD, record)
        probabilities = dict(zip(classifier.classes, expected[0].tolist(), strict=True))
        write_json(temporary / "expected.json", probabilities)
        card = fill_template("headswap.predict", "card.md", record | {"onnx": onnx}, {})
        write_text(temporary / "README.md", card)
    return record


@contextlib.contextmanager
def _explain_failure(remedy: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # exporters fail in many ways with what they cannot trace or lack
        why = f"{type(error).__name__}: {error}"
        raise UserError(f"The network cannot be exported: {why}\n{remedy}") from error


def write_program(classifier: Classifier, path: Path) -> torch.export.ExportedProgram:
    """Write a network as a graph that needs no code of its own, for batches of any size."""
    network, side = classifier.network, classifier.record["preprocessing"]["size"]
    network.to(memory_format=torch.contiguous_format)  # the reader warns of others
    images, shapes = (torch.zeros(2, 3, side, side),), ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network, images, dynamic_shapes=shapes)
    with open(path, "wb") as file:
        torch.export.save(program, file)
    return program


def write_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a program as ONNX: ``images`` of any number to ``logits``, in float32."""
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            program,
            f=path,
            input_names=["images"],
            output_names=["logits"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _difference(folder: Path, images: list[Path], expected: torch.Tensor) -> float:
    """Return how far the probabilities that an exported folder's own code gives are from others."""
    classify = standalone.load(folder)
    found = torch.tensor([list(classify(path).values()) for path in images])
    difference = (found - expected).abs().max().item()
    if not difference <= TOLERANCE:  # NaN, too
        differs = f"differs by {difference:.2g} (allowed: {TOLERANCE}) from what it has here"
        raise ValueError(f"of {len(images)} validation images a probability {differs}")
    return difference
