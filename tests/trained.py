"""A project with trained cells: a factory's network and one of torchvision's, three modes each."""

import os
import sys
from pathlib import Path

import pytest
from conftest import TESTS, edit, project

from headswap import params
from headswap.data.fetch import fetch_archive
from headswap.data.manifest import write_counts
from headswap.data.verify import verify_images
from headswap.paths import WEIGHTS
from headswap.train.cell import train_cell
from headswap.train.features import write_features
from headswap.train.pretrained import write_weights

CELLS = [
    f"{model}-{mode}" for model in ("tiny", "resnet18") for mode in ("finetune", "frozen", "probe")
]


def train_all():
    """Write images, weights, features and all cells of params.yaml into the working folder."""
    chosen = params.load()
    fetch_archive(chosen.dataset)
    write_counts(verify_images(chosen.dataset))
    for model in chosen.models:
        write_weights(model, chosen, WEIGHTS / f"{model}.safetensors")
        write_features(model, chosen, lambda name, message: None)
    for cell in chosen.cells():
        train_cell(cell, chosen, lambda name, message: None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a project in which all cells are trained; it is the working folder."""
    folder = project(tmp_path_factory.mktemp("trained") / "project")
    before = Path.cwd()
    os.chdir(folder)
    sys.path.insert(0, str(TESTS))
    edit(models=["tiny", "resnet18"], train={"epochs": 2}, probe={"epochs": 4})
    train_all()
    yield folder
    os.chdir(before)
    sys.path.remove(str(TESTS))
