"""Each network sees images as it was made for, unless params.yaml gives the sides."""

import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import fake_cells
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, edit, headswap, train_all
from PIL import Image, ImageDraw

from headswap import params
from headswap.compare.comparison import compare
from headswap.compare.report import collect_facts
from headswap.compare.results import read_results
from headswap.errors import UserError
from headswap.images.preprocessing import Preprocessing, preprocessing, preprocessing_from_network
from headswap.io import read_json, read_tensors, write_json
from headswap.paths import WEIGHTS
from headswap.runs.provenance import cache_key
from headswap.train.complexity import measure_complexity
from headswap.train.dataset import ImageDataset
from headswap.train.networks import DEFAULT
from headswap.train.weights import load_pretrained, torchvision_preprocessing, write_weights

IMAGENET = Preprocessing(224, 256, "bilinear", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
OWN = {"size": 40, "resize": 50, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
USED = {**OWN, "fit": "crop"}
AUTO = params.Image(size="auto", resize="auto", shrink=True)


@pytest.mark.parametrize("name", ["alexnet", "resnet18"])
def test_the_networks_of_the_experiment_see_what_they_always_saw(name):
    assert torchvision_preprocessing(name, DEFAULT) == IMAGENET == Preprocessing()


@pytest.mark.parametrize(
    ("name", "size", "resize", "interpolation"),
    [
        ("inception_v3", 299, 342, "bilinear"),
        ("efficientnet_b3", 300, 320, "bicubic"),
        ("vit_h_14", 224, 256, "bilinear"),  # it has no IMAGENET1K_V1 weights
    ],
)
def test_torchvisions_networks_see_images_as_their_weights_say(name, size, resize, interpolation):
    found = torchvision_preprocessing(name, DEFAULT)
    assert (found.size, found.resize, found.interpolation) == (size, resize, interpolation)


def test_inputs_from_minus_1_to_1_are_torchvisions_too():
    found = torchvision_preprocessing("efficientnet_v2_l", DEFAULT)
    assert found.mean == found.std == [0.5] * 3


CFG = {
    "input_size": (3, 299, 299),
    "crop_pct": 0.95,
    "interpolation": "bicubic",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.4, 0.4, 0.4),
    "num_classes": 1000,
}
FROM_CFG = Preprocessing(299, 314, "bicubic", [0.5] * 3, [0.4] * 3)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, IMAGENET),
        ({"preprocessing": OWN}, Preprocessing(**OWN)),
        ({"preprocessing": {"mean": (0.5, 0.5, 0.5)}}, Preprocessing(mean=[0.5] * 3)),
        ({"pretrained_cfg": CFG}, FROM_CFG),
        ({"pretrained_cfg": SimpleNamespace(**CFG)}, FROM_CFG),
        ({"default_cfg": CFG}, FROM_CFG),
        ({"preprocessing": OWN, "pretrained_cfg": CFG}, Preprocessing(**OWN)),
        ({"preprocessing": torch.nn.Identity()}, IMAGENET),
        ({"default_cfg": {"input_size": (3, 224, 224)}}, Preprocessing(interpolation="bicubic")),
    ],
)
def test_a_factorys_network_says_how_it_sees_images(attributes, expected):
    assert preprocessing_from_network(SimpleNamespace(**attributes), "mine") == expected


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"preprocessing": {"crop": 3}}, "'crop' is none of size, resize"),
        ({"preprocessing": {"size": 299}}, r"size \(299\) and resize \(256\) must be"),
        ({"preprocessing": {"size": "224"}}, "preprocessing cannot be used"),
        ({"preprocessing": {"interpolation": "lanczos"}}, "'lanczos' is none of nearest"),
        ({"preprocessing": {"std": [1, 1, 0]}}, "those of std above 0"),
        ({"pretrained_cfg": {"input_size": (3, 224, 192)}}, "224 x 192 pixels is not square"),
        ({"pretrained_cfg": {**CFG, "crop_mode": "squash"}}, "crop_mode 'squash' is not 'center'"),
        ({"pretrained_cfg": {"input_size": (1, 2)}}, "pretrained_cfg cannot be used"),
    ],
)
def test_what_a_network_says_of_its_images_is_checked(attributes, message):
    with pytest.raises(UserError, match=message) as error:
        preprocessing_from_network(SimpleNamespace(**attributes), "mine")
    remedy = str(error.value).partition("network.preprocessing = ")[2]
    corrected = SimpleNamespace(preprocessing=eval(remedy))
    assert preprocessing_from_network(corrected, "mine") == IMAGENET


@pytest.fixture
def mine(workspace):
    """Return the parameters of a project with a network that says how it sees images."""
    Path("networks/networks_of_mine.py").write_text(
        "from my_networks import tiny\n\n\ndef mine():\n    network = tiny()\n"
        f"    network.preprocessing = {OWN}\n    return network\n"
    )
    sys.modules.pop("networks_of_mine", None)
    edit(models=["mine"], factories={"mine": "networks_of_mine:mine"})
    edit(image={"size": "auto", "resize": "auto"}, train={"epochs": 1})
    return params.load()


def test_weights_record_what_their_network_sees_and_numbers_override_its_sides(mine):
    write_weights("mine", mine, WEIGHTS / "mine.safetensors")
    assert read_tensors(WEIGHTS / "mine.safetensors", only=())[1]["preprocessing"] == USED
    assert preprocessing("mine", mine.image) == Preprocessing(**OWN)
    sides = {"size": 64, "resize": 72}
    assert preprocessing("mine", params.Image(**sides, shrink=True)) == Preprocessing(
        **{**OWN, **sides}
    )


def test_what_a_network_sees_is_its_own_from_training_to_the_report_and_the_predictions(mine):
    import headswap

    train_all()
    cell = mine.cells()[0]
    dataset = ImageDataset(preprocessing("mine", mine.image))
    inputs, _ = next(iter(dataset.val_batches()))
    assert inputs.shape[2:] == (40, 40)
    expected = headswap.load_model(f"models/{cell.name}").preprocess(
        *(f"data/images/{name}" for name in dataset.names["val"][: len(inputs)])
    )
    assert inputs.equal(expected)
    assert not inputs.equal(next(iter(ImageDataset(Preprocessing(40, 50)).val_batches()))[0])
    bilinear = ImageDataset(Preprocessing(**{**OWN, "interpolation": "bilinear"}))
    views, others = (next(iter(data.train_batches(0, 0, 8)))[0] for data in (dataset, bilinear))
    assert views.shape == others.shape == (8, 3, 40, 40) and not views.equal(others)
    assert -1 <= views.min() < -0.5 and 0.5 < views.max() <= 1
    assert cache_key(cell, mine)["image"] == USED
    gmacs = measure_complexity(load_pretrained("mine", mine)[0], 40)["gmacs"]
    for trained in mine.cells():
        metrics = read_json(f"metrics/cells/{trained.name}.json")
        record = read_json(f"models/{trained.name}/model.json")
        assert metrics["preprocessing"] == record["preprocessing"] == USED
        assert metrics["gmacs"] == pytest.approx(gmacs, abs=2e-6)


def test_weights_that_do_not_say_what_they_see_are_to_be_written_again(workspace):
    from headswap.train.weights import save_tensors

    save_tensors(WEIGHTS / "tiny.safetensors", {}, source="random", head="6")
    with pytest.raises(UserError, match="dvc repro --force --single-item weights@tiny"):
        preprocessing("tiny", AUTO)


def test_the_report_says_what_each_network_sees(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/published").symlink_to(ROOT / "data/published")
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    chosen = fake_cells.write_alexnet(20)
    path = "metrics/cells/alexnet-frozen.json"
    other_order = dict(reversed(fake_cells.PREPROCESSING.items()))
    write_json(path, {**read_json(path), "preprocessing": other_order})

    def reported():
        results = read_results(chosen)
        return collect_facts(results, compare(results))["preprocessing"]

    assert [models for models, _ in reported()] == [["alexnet"]]
    for cell in chosen.cells():
        path = f"metrics/cells/{cell.name}.json"
        write_json(path, {**read_json(path), "preprocessing": USED})
    assert reported() == [(["alexnet"], USED)]


def draw_arrow(label, random):
    """Draw an arrow to the left or to the right."""
    image = Image.new("RGB", (96, 96), (90, 120, 90))
    shift = random.integers(-8, 9, 2)
    arrow = np.array([(16, 40), (48, 40), (48, 20), (80, 48), (48, 76), (48, 56), (16, 56)])
    if label == "left":
        arrow[:, 0] = 96 - arrow[:, 0]
    ImageDraw.Draw(image).polygon((arrow + shift).flatten().tolist(), fill=(240, 220, 90))
    return image


def draw_long(label, random):
    """Draw a red or a blue disc at an end of a long image."""
    image = Image.new("RGB", (640, 120), (110, 110, 110))
    left = random.choice([10, 550])
    colour = {"left": (230, 60, 60), "right": (60, 60, 230)}[label]
    ImageDraw.Draw(image).ellipse((left, 20, left + 80, 100), fill=colour)
    return image


def accuracy_on(draw, **changes):
    """Return the accuracy of a network that is trained on 40 drawn images, on 40 others."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(40):
            label = ("left", "right")[number % 2]
            path = Path("photos", split, label, f"{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(label, random).save(path)
    headswap("manifest", "photos", "--use")
    edit(seeds=[0], modes=["finetune"], **changes)
    for command in (["fetch"], ["verify"], ["weights", "tiny"], ["train", "tiny", "finetune"]):
        headswap(*command)
    record = read_json("models/tiny-finetune/model.json")
    photographs = sorted(Path("photos/val").glob("*/*"))
    headswap("predict", "tiny-finetune", "photos/val", "--csv", "found.csv")
    found = pd.read_csv("found.csv")
    again = (found["class"] == [path.parent.name for path in photographs]).mean()
    assert again == pytest.approx(record["runs"][0]["last"]["accuracy"])
    return again


@pytest.mark.parametrize(
    ("draw", "section", "key", "good", "bad"),
    [
        (draw_arrow, "train", "flip", False, True),
        (draw_long, "image", "fit", "pad", "crop"),
        pytest.param(draw_long, "image", "fit", "squash", "crop", marks=pytest.mark.slow),
    ],
)
def test_neither_a_flip_nor_a_crop_need_lose_the_class(workspace, draw, section, key, good, bad):
    changes = {
        "train": {"epochs": 30, "lr": 0.05, "lr_step": 25},
        "image": {"size": 48, "resize": 54},
    }
    accuracies = {}
    for value in (good, bad):
        changes[section][key] = value
        accuracies[value] = accuracy_on(draw, **changes)
    assert accuracies[good] >= 0.875 and accuracies[bad] <= 0.7


def test_manifest_warns_of_long_photographs(empty):
    for number in range(8):
        for split, label in itertools.product(("train", "val"), ("a", "b")):
            path = Path("photos", split, label, f"{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            size = (62, 40) if number == 0 else (60, 40)
            Image.new("RGB", size, (number * 9, 90, 90)).save(path)
    warning = "Of 4 of 32 images the centre crop discards more than a third"
    assert warning in headswap("manifest", "photos")[0]
    Image.new("RGB", (60, 40), (200, 90, 90)).save("photos/val/a/0.png")
    assert "crop" not in headswap("manifest", "photos")[0]
