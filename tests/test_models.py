"""A model folder is complete in itself, and a network that is loaded from it is the trained one."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import CELLS, ROOT, edit

import headswap
from headswap import params
from headswap.errors import UserError
from headswap.images.index import read_index
from headswap.io import read_json, read_tensors, sha256, write_json
from headswap.runs.cells import train_cell

pytestmark = pytest.mark.usefixtures("trained")
NAMES = ("best", "last")


def recorded(cell, seed, which="last"):
    """Return the predictions of a run, a row per validation image."""
    return pd.read_csv(f"plots/predictions/{cell}.csv").query("seed == @seed and which == @which")


@pytest.mark.parametrize("cell", CELLS)
def test_a_record_says_all_that_is_needed_to_use_a_cell(cell):
    record = read_json(f"models/{cell}/model.json")
    model, mode = cell.split("-")
    file = Path(f"data/weights/{model}.safetensors")
    assert (record["cell"], record["mode"]) == (cell, mode)
    assert record["backbone"] == {
        "name": model,
        "factory": "my_networks:tiny" if model == "tiny" else None,
        "code": read_tensors(file, only=())[1].get("code"),
        "source": "random",
        "head": read_tensors(file, only=())[1]["head"],
        "file": file.name,
        "sha256": sha256(file),
    }
    needs = f"the backbone's {file.name}, in this folder or in the project's data/weights"
    assert record["needs"] == (None if mode == "finetune" else needs)
    assert record["images"] == read_index().digest
    assert record["classes"] == ["ants", "bees"]
    assert record["counts"]["val"] == len(recorded(cell, 0))
    sides = {"size": 64, "resize": 72, "interpolation": "bilinear"}
    assert record["preprocessing"].items() >= sides.items()
    assert [round(mean, 3) for mean in record["preprocessing"]["mean"]] == [0.485, 0.456, 0.406]
    assert record["precision"] == "float32"
    assert {"torch", "torchvision", "python"} < record["versions"].keys()
    if mode == "probe":
        assert record["recipe"].keys() >= {"C", "tried"}
    else:
        assert record["recipe"] == params.load().train.model_dump()


@pytest.mark.parametrize("cell", CELLS)
def test_a_record_says_how_accurate_each_run_is_and_which_is_kept(cell):
    record = read_json(f"models/{cell}/model.json")
    for run in record["runs"]:
        for which in NAMES:
            rows = recorded(cell, run["seed"], which)
            assert run[which]["accuracy"] == pytest.approx((rows.label == rows.predicted).mean())
            assert run[which]["epoch"] == rows.epoch.iloc[0]
        if run["weights"]:
            assert Path("models", cell, run["weights"]).exists()
    kept = record["kept"]
    assert (kept["seed"], kept["epoch"]) == (0, record["runs"][0]["last"]["epoch"])
    with_weights = [run["seed"] for run in record["runs"] if run["weights"]]
    assert with_weights == ([0, 1] if "frozen" in cell else [0])


@pytest.mark.parametrize("cell", CELLS)
def test_a_loaded_network_gives_the_recorded_probabilities_of_its_run(cell):
    network = headswap.load_model(f"models/{cell}")
    expected = recorded(cell, network.record["kept"]["seed"])
    batch = network.preprocess(*("data/images/val/" + expected.image))
    found = (network(batch) * network.record["temperature"]).softmax(1).numpy()
    classes = np.array(network.classes)[found.argmax(1)]
    assert (classes == expected.predicted).all()
    probabilities = expected[[f"p_{name}" for name in network.classes]]
    np.testing.assert_allclose(found, probabilities, rtol=1e-4, atol=1e-5)


def test_another_run_can_be_loaded_by_its_seed():
    for seed in (0, 1):
        network = headswap.load_model("models/tiny-frozen", seed=seed)
        expected = recorded("tiny-frozen", seed)
        batch = network.preprocess(*("data/images/val/" + expected.image))
        found = (network(batch) * network.record["temperature"]).softmax(1)[:, 1]
        np.testing.assert_allclose(found, expected.p_bees, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match=r"not have the weights of seed 7, but of: \[0, 1\]"):
        headswap.load_model("models/tiny-frozen", seed=7)


def test_the_readmes_lines_classify_a_photograph(own_trained, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line]) == 3
    expected = recorded(
        "resnet18-finetune", read_json("models/resnet18-finetune/model.json")["kept"]["seed"]
    ).iloc[0]
    shutil.copy(f"data/images/val/{expected.image}", "photo.jpg")
    exec(code, {})
    printed = capsys.readouterr().out
    assert printed.startswith("['ants', 'bees'] tensor([[")
    found = [float(text) for text in re.findall(r"\d\.\d+(?:e-\d+)?", printed)]
    record = read_json("models/resnet18-finetune/model.json")
    odds = np.array([expected.p_ants, expected.p_bees]) ** (1 / record["temperature"])
    assert found == pytest.approx(odds / odds.sum(), abs=1e-3)


def test_bfloat16_is_used_where_a_cell_was_validated_with_it(tmp_path):
    folder = shutil.copytree("models/resnet18-finetune", tmp_path / "model")
    network = headswap.load_model(folder)
    batch = network.preprocess("data/images/val/" + recorded("resnet18-finetune", 0).image.iloc[0])
    exact = network(batch)
    write_json(folder / "model.json", {**network.record, "precision": "bfloat16"})
    rounded = headswap.load_model(folder)(batch)
    assert not rounded.equal(exact) and rounded.allclose(exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("values", "is_same"),
    [({}, True), ({"interpolation": "bicubic"}, False), ({"size": 48}, False)],
)
def test_photographs_are_preprocessed_as_the_record_says(tmp_path, values, is_same):
    folder = shutil.copytree("models/tiny-finetune", tmp_path / "model")
    original = headswap.load_model(folder)
    preprocessing = {**original.record["preprocessing"], **values}
    write_json(folder / "model.json", {**original.record, "preprocessing": preprocessing})
    photograph = "data/images/val/" + recorded("tiny-finetune", 0).image.iloc[0]
    found = headswap.load_model(folder).preprocess(photograph)
    assert found.shape == (1, 3, preprocessing["size"], preprocessing["size"])
    expected = original.preprocess(photograph)
    assert (found.shape == expected.shape and found.equal(expected)) == is_same


@pytest.mark.parametrize("mode", ["finetune", "frozen", "probe"])
def test_a_moved_folder_works_with_its_backbone_beside_it_and_says_if_that_is_missing(
    tmp_path, mode
):
    folder = shutil.copytree(f"models/resnet18-{mode}", tmp_path / "elsewhere/model")
    if mode != "finetune":
        with pytest.raises(UserError, match="needs the backbone's resnet18.safetensors") as error:
            headswap.load_model(folder)
        assert f"Copy it into {folder}" in str(error.value)
        shutil.copy("data/weights/tiny.safetensors", folder / "resnet18.safetensors")
        with pytest.raises(UserError, match="neither there nor in"):
            headswap.load_model(folder)
        shutil.copy("data/weights/resnet18.safetensors", folder)
    original = headswap.load_model(f"models/resnet18-{mode}")
    batch = original.preprocess(f"data/images/val/{recorded('resnet18-frozen', 0).image.iloc[0]}")
    assert headswap.load_model(folder)(batch).equal(original(batch))


def test_missing_and_damaged_files_of_a_folder_are_named(tmp_path):
    folder = shutil.copytree("models/tiny-finetune", tmp_path / "model")
    (folder / "run-0.safetensors").unlink()
    with pytest.raises(UserError, match=r"no .*run-0.safetensors yet.\n.*dvc repro"):
        headswap.load_model(folder)
    shutil.copy("models/resnet18-finetune/run-0.safetensors", folder)
    with pytest.raises(UserError, match=r"run-0.safetensors cannot be read: (?s:.*)\ntiny may"):
        headswap.load_model(folder)
    (folder / "model.json").write_text("{")
    with pytest.raises(UserError, match="model.json cannot be read"):
        headswap.load_model(folder)
    (folder / "model.json").unlink()
    with pytest.raises(UserError, match="model.json cannot be read: (?s:.*)dvc checkout"):
        headswap.load_model(folder)


def test_a_cell_whose_runs_all_diverged_keeps_none(prepared):
    edit(train={"lr": 1e30})
    train_cell(params.Cell("tiny", "finetune"), params.load(), lambda *_: None)
    record = read_json("models/tiny-finetune/model.json")
    assert record["kept"] is None and {run["weights"] for run in record["runs"]} == {None}
    with pytest.raises(UserError, match="all runs of tiny-finetune diverged"):
        headswap.load_model("models/tiny-finetune")
