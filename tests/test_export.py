"""An export is complete: others use it with torchvision and safetensors alone."""

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
import torchvision
from conftest import TESTS
from conftest import headswap as run
from safetensors.torch import load_file

import headswap
from headswap import params
from headswap.compare.outputs import write_comparison
from headswap.errors import UserError
from headswap.io import read_json, write_json
from headswap.predict.export import compare_onnx, export, write_onnx
from headswap.train.weights import save_tensors

VAL = Path("data/images/val")
pytestmark = pytest.mark.usefixtures("trained")


def run_without_headswap(folder, code, *modules):
    """Run code in an environment that has all packages but headswap; return its output."""
    environment = folder.parent / "environment"
    environment.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "headswap" not in path.name and path.suffix != ".pth":
            (environment / path.name).symlink_to(path)
    for module in modules:
        shutil.copy(module, environment)
    start = (
        f"import sys; sys.path.append({str(environment)!r}); from importlib.util import find_spec; "
        "assert find_spec('headswap') is None; exec(sys.stdin.read())"
    )
    command = [sys.executable, "-I", "-S", "-c", start]
    done = subprocess.run(command, input=code, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["resnet18-frozen", "resnet18-probe", "tiny-finetune"])
def test_the_cards_own_code_classifies_a_photograph_without_headswap(cell, tmp_path):
    target = tmp_path / "exported"
    export(Path("models", cell), target, onnx=True)
    assert {path.name for path in target.iterdir()} == {
        *("README.md", "config.json", "model.onnx", "model.safetensors")
    }
    snippets = re.findall(r"```python\n(.*?)```", (target / "README.md").read_text(), re.DOTALL)
    assert len(snippets) == 2
    shutil.copy(VAL / "bees/003.png", target / "photo.jpg")
    code = "".join(snippets) + "\nprint(*torch.from_numpy(logits).softmax(1)[0].tolist())\n"
    printed = run_without_headswap(target, code, TESTS / "my_networks.py")
    first, second = printed.splitlines()
    network = headswap.load_model(f"models/{cell}")
    expected = network(network.preprocess(VAL / "bees/003.png")).softmax(1)[0]
    name, probability = first.split()
    assert name == network.classes[expected.argmax()]
    assert float(probability) == pytest.approx(expected.max().item(), abs=1e-5)
    assert [*map(float, second.split())] == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.slow
def test_the_cards_code_loads_a_network_that_asks_for_the_versions_of_its_layers(tmp_path):
    folder = shutil.copytree("models/resnet18-finetune", tmp_path / "mnasnet")
    network = torchvision.models.mnasnet0_5(num_classes=2)
    save_tensors(folder / "best.safetensors", network.state_dict())
    record = read_json(folder / "model.json")
    record["backbone"] |= {"name": "mnasnet0_5", "head": "classifier.1"}
    write_json(folder / "model.json", record)
    export(folder, tmp_path / "exported")
    shutil.copy(VAL / "bees/003.png", tmp_path / "exported/photo.jpg")
    card = (tmp_path / "exported/README.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    printed = run_without_headswap(tmp_path / "exported", snippet)
    network = headswap.load_model(folder)
    expected = network(network.preprocess(VAL / "bees/003.png")).softmax(1).max().item()
    assert float(printed.split()[1]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_onnx_takes_batches_of_any_size_and_is_compared_on_all_validation_images(tmp_path):
    compared = export(Path("models/tiny-frozen"), tmp_path / "exported", onnx=True)
    assert compared["images"] == 40 and 0 <= compared["largest_difference"] < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "exported/model.onnx")
    for batch in (1, 5):
        (logits,) = session.run(None, {"images": np.zeros((batch, 3, 64, 64), np.float32)})
        assert logits.shape == (batch, 2)


@pytest.mark.slow
def test_an_onnx_file_that_differs_is_refused_and_nothing_is_written(tmp_path, monkeypatch):
    network = headswap.load_model("models/tiny-probe")
    paths = sorted(VAL.glob("*/*"))
    other = headswap.load_model("models/tiny-probe")
    torch.nn.init.normal_(other.network[6].weight, std=2)
    write_onnx(other, tmp_path / "other.onnx")
    with pytest.raises(UserError, match=r"of 40 validation images \d+ get another class"):
        compare_onnx(network, tmp_path / "other.onnx", paths)
    monkeypatch.setattr(
        "headswap.predict.export.write_onnx", lambda _, path: write_onnx(other, path)
    )
    with pytest.raises(UserError, match="Leave out --onnx"):
        export(Path("models/tiny-probe"), tmp_path / "exported", onnx=True)
    assert not (tmp_path / "exported").exists()


def test_the_weights_are_whole_and_the_card_tells_accuracy_interval_and_origin(
    own_trained, tmp_path
):
    write_comparison(params.load())
    export(Path("models/resnet18-frozen"), tmp_path / "exported")
    network = headswap.load_model("models/resnet18-frozen")
    tensors = load_file(tmp_path / "exported/model.safetensors")
    assert tensors.keys() == network.network.state_dict().keys()
    assert all(tensor.equal(network.network.state_dict()[k]) for k, tensor in tensors.items())
    card = (tmp_path / "exported/README.md").read_text()
    row = pd.read_csv("metrics/comparison.csv").set_index("cell").loc["resnet18-frozen"]
    low, high = (100 * row[f"best_val_accuracy_ci_{end}"] for end in ("low", "high"))
    assert f"interval of {low:.1f} to {high:.1f} %" in card
    assert network.record["backbone"]["sha256"] in card and network.record["images"] in card
    assert "48 photographs" in card and "model.onnx" not in card
    config = read_json(tmp_path / "exported/config.json")
    assert config["classes"] == ["ants", "bees"] and config["interval"]["low"] == low / 100
    assert config["runs"] == network.record["runs"]
    Path("metrics/comparison.csv").unlink()
    export(Path("models/resnet18-frozen"), tmp_path / "again")
    assert "No interval is given" in (tmp_path / "again/README.md").read_text()


def test_an_existing_folder_is_not_replaced(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already.\nName a new folder"):
        export(Path("models/tiny-probe"), tmp_path)
    assert (tmp_path / "mine.txt").exists()


def test_a_missing_extra_and_missing_images_are_reported(tmp_path, monkeypatch):
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(UserError, match="constraints.txt onnxruntime"):
            export(Path("models/tiny-probe"), tmp_path / "exported", onnx=True)
        export(Path("models/tiny-probe"), tmp_path / "exported")
    moved = shutil.copytree("models/tiny-finetune", tmp_path / "elsewhere/models/tiny-finetune")
    with pytest.raises(UserError, match="no validation images"):
        export(moved, tmp_path / "moved", onnx=True)


@pytest.mark.slow
def test_the_command_says_what_it_wrote_and_how_close_onnx_is(tmp_path):
    printed, _ = run("export", "tiny-probe", tmp_path / "out", "--onnx")
    assert "README.md says how to use it" in printed
    assert re.search(r"40 validation images the same classes; .* is \d\.\de-\d\d\.", printed)
    assert "did you mean tiny-probe?" in run("export", "tiny-prob", tmp_path / "x", code=1)[1]
