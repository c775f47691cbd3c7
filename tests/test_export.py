"""An export is complete: its own code classifies as headswap does, with the packages it lists."""

import io
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import headswap
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from headswap import load_model, params
from headswap.compare.outputs import write_comparison
from headswap.errors import UserError
from headswap.images.preprocessing import Preprocessing
from headswap.io import read_json
from headswap.predict import standalone
from headswap.predict.export import TOLERANCE, export, write_onnx, write_program
from headswap.train.dataset import decode, evaluation_transform, normalize

VAL = Path("data/images/val")
pytestmark = pytest.mark.usefixtures("trained")


@pytest.fixture
def exported(tmp_path):
    """Return an exported cell of a factory's network."""
    export(Path("models/tiny-frozen"), tmp_path / "exported")
    return tmp_path / "exported"


def run_code(card, *packages):
    """Run a card's blocks of code, with nothing but some packages and what these need."""
    environment, todo, known = card.parent.parent / "environment", set(packages), {"python"}
    (environment / "bin").mkdir(parents=True)
    (environment / "bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    (environment / "bin/python").chmod(0o755)
    while todo - known:
        name = (todo - known).pop()
        known.add(name)
        for top in {path.parts[0] for path in distribution(name).files} - {"..", "__pycache__"}:
            if not (environment / top).exists():
                (environment / top).symlink_to(distribution(name).locate_file(top))
        needed = map(Requirement, distribution(name).requires or [])
        todo |= {
            canonicalize_name(other.name)
            for other in needed
            if not other.marker or other.marker.evaluate({"extra": ""})
        }
    assert (environment / "torch").exists() == ("torch" in packages)
    outputs = []
    for kind, code in re.findall(r"```(\w+)\n(.*?)```", card.read_text(), re.DOTALL):
        if not code.startswith("pip"):
            done = subprocess.run(
                [kind, "-c", code],
                env={"PATH": f"{environment / 'bin'}:/usr/bin:/bin", "PYTHONPATH": environment},
                cwd=card.parent,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            outputs.append(done.stdout)
    return outputs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "onnx", "packages"),
    [("tiny-finetune", [], {"torch"}), ("resnet18-probe", ["--onnx"], {"onnxruntime"})],
)
def test_the_cards_code_runs_with_the_packages_that_it_lists_alone(cell, onnx, packages, tmp_path):
    output, _ = headswap("export", cell, tmp_path / "exported", *onnx)
    assert "expected.json" in output and "40 validation images" in output
    card = tmp_path / "exported/README.md"
    listed = re.search("pip install (.*)", card.read_text())[1].split()
    assert {name.partition("==")[0] for name in listed} == {"numpy", "pillow", *packages}
    line, probabilities = run_code(card, "numpy", "pillow", *packages)
    expected = read_json(tmp_path / "exported/expected.json")
    assert eval(probabilities) == pytest.approx(expected, abs=TOLERANCE)
    best = max(expected, key=expected.get)
    assert re.fullmatch(rf"example.png: {best} \d+\.\d%\n", line)
    network = load_model(f"models/{cell}")
    probabilities = network(network.preprocess(min(VAL.glob("*/*")))).softmax(1)[0]
    assert expected == pytest.approx(
        dict(zip(["ants", "bees"], probabilities.tolist(), strict=True))
    )


def test_headswap_uses_an_exported_folder_as_a_model_folder(exported, tmp_path, monkeypatch):
    image = min(VAL.glob("bees/*")).absolute()
    arguments = (image, "--top", 2)
    expected = headswap("predict", "tiny-frozen", *arguments)
    network = load_model("models/tiny-frozen")
    batch = network.preprocess(*sorted(VAL.glob("*/*"))[:5])
    shutil.move(exported, tmp_path / "elsewhere/mine")
    monkeypatch.chdir(tmp_path / "elsewhere")  # where there is no data/weights
    monkeypatch.setitem(sys.modules, "my_networks", None)
    assert headswap("predict", "mine", *arguments) == expected
    loaded = load_model("mine").eval()
    assert loaded.classes == ["ants", "bees"]
    for images in (batch, batch[:1]):
        assert loaded(images).allclose(network(images), atol=1e-6)
    assert loaded.preprocess(image).equal(network.preprocess(image))
    _, refused = headswap("predict", "mine", image, "--seeds", "all", code=1)
    assert "does not have the weights of seed 1" in refused or "of seed 0" in refused
    content = Path("mine/model.pt2").read_bytes()
    Path("mine/model.pt2").write_bytes(content[: len(content) // 2])
    _, refused = headswap("predict", "mine", image, code=1)
    assert "mine/model.pt2 cannot be read" in refused
    assert f"pip install torch=={torch.__version__.partition('+')[0]}" in refused


def bytes_of(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def photographs():
    """Return the contents of files of many kinds, each of an image with edges and colours."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    image = Image.fromarray(noise).resize((133, 91), Image.Resampling.BICUBIC)
    turned = Image.Exif()
    turned[0x0112] = 6
    layer = image.copy()
    layer.putalpha(image.convert("L"))
    return {
        "jpeg": bytes_of(image, "jpeg"),
        "cmyk": bytes_of(image.convert("CMYK"), "jpeg"),
        "turned": bytes_of(image, "jpeg", exif=turned),
        "turned tiff": bytes_of(image.quantize(32), "tiff", exif=turned),
        "transparent": bytes_of(layer, "png", exif=turned),
        "transparent gray": bytes_of(layer.convert("LA"), "png"),
        "transparent colour": bytes_of(image.quantize(32), "png", transparency=3),
        "small": bytes_of(image.resize((33, 21)), "webp", lossless=True),
    }


@pytest.mark.parametrize("kind", photographs())
@pytest.mark.parametrize(
    ("interpolation", "fit"),
    [("bilinear", "crop"), ("bicubic", "crop"), ("bilinear", "squash"), ("bilinear", "pad")],
)
def test_photographs_are_read_as_in_training(kind, interpolation, fit, tmp_path):
    (tmp_path / "photo").write_bytes(photographs()[kind])
    values = Preprocessing(64, 73, interpolation, fit=fit)
    (expected,) = normalize([evaluation_transform(values)(decode(tmp_path / "photo"))], values)
    found = standalone.preprocess(tmp_path / "photo", asdict(values))
    steps = (
        (torch.from_numpy(found) - expected).abs() * 255 * torch.tensor(values.std)[:, None, None]
    )
    rounded = 0.02 if fit == "crop" else 0.2  # both sides are resized by other factors
    assert steps.max() < 2.1 and (steps > 0.1).float().mean() < rounded  # of 255


def test_an_image_of_16_bits_is_refused_by_the_exported_code(tmp_path):
    Image.fromarray(np.full((30, 30), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="deep.png: 16 or 32 bits a pixel; save it with 8 bits"):
        standalone.preprocess(tmp_path / "deep.png", asdict(Preprocessing()))


def test_an_export_that_differs_is_refused_and_nothing_is_written(tmp_path, monkeypatch):
    other = load_model("models/tiny-probe")
    torch.nn.init.normal_(other.network[6].weight, std=2)
    program = write_program(other, tmp_path / "other.pt2")
    with monkeypatch.context() as patch:
        patch.setattr(
            "headswap.predict.export.write_onnx", lambda _, path: write_onnx(program, path)
        )
        with pytest.raises(UserError, match=r"of 40 validation images .*\nLeave out --onnx"):
            export(Path("models/tiny-probe"), tmp_path / "exported", onnx=True)
    monkeypatch.setattr(standalone, "preprocess", lambda *_: np.ones((3, 64, 64), "f4"))
    with pytest.raises(UserError, match="Use the model folder with headswap instead"):
        export(Path("models/tiny-probe"), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_a_network_that_cannot_be_traced_is_refused(tmp_path, monkeypatch):
    classifier = load_model("models/tiny-probe")
    classifier.network.register_forward_pre_hook(
        lambda _, inputs: inputs if inputs[0].mean() > 0 else None
    )
    monkeypatch.setattr("headswap.predict.export.load_model", lambda _: classifier)
    with pytest.raises(UserError, match="The network cannot be exported: (?s:.*)\nUse the model"):
        export(Path("models/tiny-probe"), tmp_path / "exported")


def test_the_card_tells_accuracy_interval_and_origin(own_trained, tmp_path):
    write_comparison(params.load())
    export(Path("models/resnet18-frozen"), tmp_path / "exported")
    record = read_json("models/resnet18-frozen/model.json")
    card = (tmp_path / "exported/README.md").read_text()
    row = pd.read_csv("metrics/comparison.csv").set_index("cell").loc["resnet18-frozen"]
    low, high = (100 * row[f"last_val_accuracy_ci_{end}"] for end in ("low", "high"))
    assert f"interval of {low:.1f} to {high:.1f} %" in card
    assert record["backbone"]["sha256"] in card and record["images"] in card
    assert "48 photographs" in card and "onnx" not in card
    assert "shorter side has 72 pixels (bilinear, antialiased)" in card and "64 × 64" in card
    exported = read_json(tmp_path / "exported/model.json")
    assert exported["classes"] == ["ants", "bees"] and exported["interval"]["low"] == low / 100
    for key in ("best", "last"):
        assert [run[key] for run in exported["runs"]] == [run[key] for run in record["runs"]]
    _, said = headswap("predict", tmp_path / "exported", tmp_path / "exported/example.png")
    assert f"95% interval of {low:.1f}% to {high:.1f}%" in said
    Path("metrics/comparison.csv").unlink()
    export(Path("models/resnet18-frozen"), tmp_path / "again")
    assert "No interval is given" in (tmp_path / "again/README.md").read_text()


def test_only_a_new_or_an_empty_folder_is_written(tmp_path):
    full, link, empty = tmp_path / "full", tmp_path / "link", tmp_path / "empty"
    full.mkdir()
    empty.mkdir()
    link.symlink_to(empty)
    (full / "mine.txt").write_text("mine")
    for target in (full, full / "mine.txt", Path("models/new"), Path("data/images")):
        _, refused = headswap("export", "tiny-probe", target, code=1)
        assert any(why in refused for why in ("not empty", "not overwritten", "overlaps", "a file"))
    assert [path.name for path in full.iterdir()] == ["mine.txt"]
    assert (full / "mine.txt").read_text() == "mine" and not Path("models/new").exists()
    headswap("export", "tiny-probe", link)
    assert link.is_symlink() and sorted(path.name for path in empty.iterdir()) == [
        *("README.md", "classify.py", "example.png", "expected.json", "model.json", "model.pt2")
    ]


def test_a_missing_extra_and_missing_images_are_reported(tmp_path, monkeypatch):
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(UserError, match="pip install onnxruntime"):
            export(Path("models/tiny-probe"), tmp_path / "exported", onnx=True)
        export(Path("models/tiny-probe"), tmp_path / "exported")
    moved = shutil.copytree("models/tiny-finetune", tmp_path / "elsewhere/models/tiny-finetune")
    with pytest.raises(UserError, match="There is no .*data/images yet.\n.*dvc repro"):
        export(moved, tmp_path / "moved")
