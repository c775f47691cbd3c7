"""Real learning: real photographs, real ImageNet weights, through the whole pipeline."""

import os
from pathlib import Path

import pandas as pd
import pytest
from conftest import edit, project

from headswap import load_model, params
from headswap.compare.results import find_near_duplicates
from headswap.data.manifest import count_images
from headswap.data.verify import fetch_archive, verify_images
from headswap.images.index import read_index
from headswap.io import read_json
from headswap.paths import WEIGHTS
from headswap.predict.export import export
from headswap.predict.predict import predict
from headswap.runs.cells import train_cell
from headswap.runs.features import write_features
from headswap.train.weights import write_weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "HEADSWAP_MIRROR" not in os.environ,
        reason="set HEADSWAP_MIRROR to a folder with hymenoptera_data.zip",
    ),
]
NAME = "efficientnet_lite0"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Return a project with the real images and EfficientNet-Lite0's weights in it."""
    folder = project(tmp_path_factory.mktemp("real") / "project")
    before = Path.cwd()
    os.chdir(folder)
    edit(
        dataset={"url": "https://download.pytorch.org/tutorial/hymenoptera_data.zip"},
        models=[NAME],
        factories={NAME: f"my_networks:{NAME}"},
        weights="imagenet",
        train={"epochs": 2, "batch_size": 4, "lr": 0.001},
        image={"size": 224, "resize": 256},
    )
    chosen = params.load()
    fetch_archive(chosen.dataset)
    counts = count_images(verify_images(chosen.dataset))
    assert counts == read_json("data/published/dataset.json")
    write_weights(NAME, chosen, WEIGHTS / f"{NAME}.safetensors")
    yield chosen
    os.chdir(before)


def best_accuracy(mode, chosen):
    train_cell(params.Cell(NAME, mode), chosen, lambda *_: None)
    predictions = pd.read_csv(f"plots/predictions/{NAME}-{mode}.csv").query("which == 'best'")
    return (predictions["label"] == predictions["predicted"]).mean()


def test_a_linear_probe_reaches_92_percent(photographs):
    write_features(NAME, photographs)
    assert best_accuracy("probe", photographs) >= 0.92


def test_no_two_of_these_photographs_are_taken_for_near_duplicates(photographs):
    assert find_near_duplicates(read_index(), 0).empty


def test_two_epochs_of_finetune_reach_88_percent(photographs):
    one_run = photographs.model_copy(update={"seeds": [0]})
    assert best_accuracy("finetune", one_run) >= 0.88


def test_the_probe_predicts_and_exports_what_was_recorded_for_all_153(photographs, tmp_path):
    record = export(Path(f"models/{NAME}-probe"), tmp_path / "exported", onnx=True)
    assert record["checked"] == 39 and record["difference"] < 0.01
    network = load_model(f"models/{NAME}-probe")
    kept = network.record["kept"]
    recorded = pd.read_csv(f"plots/predictions/{NAME}-probe.csv").query("which == 'last'")
    recorded = recorded[recorded["seed"] == kept["seed"]].set_index("image")
    paths = [Path("data/images/val", image) for image in recorded.index]
    unreadable = []
    found = {}
    for batch in predict([network], paths, unreadable.append):
        found |= batch
    classes = [network.classes[of_image.argmax()] for of_image in found.values()]
    assert not unreadable and classes == list(recorded["predicted"])
    (run,) = (run for run in network.record["runs"] if run["seed"] == kept["seed"])
    accuracy = (recorded["label"] == classes).mean()
    assert accuracy == pytest.approx(run["last"]["accuracy"])
