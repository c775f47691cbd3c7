"""Explanations: a known answer for three kinds of networks, and the pictures."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from headswap.errors import UserError
from headswap.io import read_json
from headswap.predict.explain import heat_map
from headswap.predict.model import Classifier
from headswap.predict.predict import classify

SIZE = 112
VAL = Path("data/images/val")


class CornerOnly(nn.Module):
    """A network to which all but the upper left quarter of an image is hidden."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        mask = torch.zeros_like(images)
        mask[..., : SIZE // 2, : SIZE // 2] = 1
        return self.network(images * mask)


NETWORKS = {
    "alexnet": lambda: torchvision.models.alexnet(num_classes=3),
    "resnet18": lambda: torchvision.models.resnet18(num_classes=3),
    "vision transformer": lambda: torchvision.models.VisionTransformer(
        image_size=SIZE, patch_size=16, num_layers=2, num_heads=4, hidden_dim=64, mlp_dim=128,
        num_classes=3,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS)
def test_the_map_of_a_network_that_sees_one_corner_lies_in_that_corner(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = NETWORKS[kind]()
        if kind == "vision transformer":
            nn.init.normal_(network.heads.head.weight)  # torchvision sets it to zero
        images = torch.randn(2, 3, SIZE, SIZE)
    values = {"size": SIZE, "resize": SIZE, "interpolation": "bilinear"}
    record = {
        "classes": ["a", "b", "c"],
        "precision": "float32",
        "preprocessing": {**values, "mean": [0.5] * 3, "std": [0.5] * 3},
    }
    classifier = Classifier(CornerOnly(network), record)
    for image in images.split(1):
        falls = heat_map([classifier], image, int(classifier(image).argmax()))
        assert falls.shape == (SIZE, SIZE) and falls.min() >= 0
        assert falls[: SIZE // 2, : SIZE // 2].sum() >= 0.8 * falls.sum() > 0


def test_the_map_shows_what_raises_the_class_and_not_what_lowers_it():
    class Halves(nn.Module):
        def forward(self, images):
            left, right = images.mean((1, 2)).split(SIZE // 2, dim=1)
            return torch.stack([left.sum(1), right.sum(1)], dim=1)

    values = {"size": SIZE, "resize": SIZE, "interpolation": "bilinear"}
    record = {
        "classes": ["left", "right"],
        "precision": "float32",
        "preprocessing": {**values, "mean": [0.5] * 3, "std": [0.5] * 3},
    }
    classifier = Classifier(Halves(), record)
    image = torch.ones(1, 3, SIZE, SIZE)
    for target, side in ((0, slice(0, SIZE // 2)), (1, slice(SIZE // 2, SIZE))):
        falls = heat_map([classifier], image, target)
        assert falls[:, side].sum() == pytest.approx(falls.sum()) and falls.sum() > 0


@pytest.mark.slow
def test_a_picture_is_written_for_each_photograph_beside_the_others(trained, tmp_path, capsys):
    paths = [VAL / "ants/003.png", VAL / "bees/003.png", VAL / "bees/004.png"]
    classify(Path("models/resnet18-probe"), paths, explain=tmp_path / "why")
    pictures = sorted(str(path.relative_to(tmp_path / "why")) for path in tmp_path.rglob("*.png"))
    assert pictures == ["ants/003.png", "bees/003.png", "bees/004.png"]
    assert f"Explanations in {tmp_path / 'why'}: 3." in capsys.readouterr().out
    contents = set()
    for name in pictures:
        with Image.open(tmp_path / "why" / name) as picture:
            assert picture.width > 1.5 * picture.height > 300
            assert len(picture.convert("L").getcolors()) > 50
            contents.add(picture.tobytes())
    assert len(contents) == 3


def test_a_class_name_of_formulas_and_all_seeds_are_drawn(trained, tmp_path):
    folder = shutil.copytree("models/tiny-probe", tmp_path / "model")
    shutil.copy("data/weights/tiny.safetensors", folder)
    record = (folder / "model.json").read_text()
    (folder / "model.json").write_text(record.replace('"ants"', '"$\\\\frac{$_ants"'))
    classify(folder, [VAL / "ants/003.png"], seeds="all", explain=tmp_path / "why")
    assert (tmp_path / "why/003.png").exists()
    assert read_json(folder / "model.json")["classes"][0] == "$\\frac{$_ants"


def test_without_captum_the_message_says_what_to_type(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(UserError, match="pip install captum"):
        classify(Path("models/tiny-probe"), [VAL / "ants/003.png"], explain=tmp_path / "why")
    classify(Path("models/tiny-probe"), [VAL / "ants/003.png"])
    assert "ants/003.png: " in capsys.readouterr().out
