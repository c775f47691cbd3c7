"""The commands of docs/which-network.md, in a project with tiny networks."""

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, edit, encode, sh, write_folder

from headswap import params
from headswap.data.synthetic import draw_insect

COMMANDS = re.findall(
    r"^    (headswap .*|dvc .*)$", (ROOT / "docs/which-network.md").read_text(), re.M
)


@pytest.mark.slow
def test_the_commands_of_the_page_lead_from_photographs_to_a_network(workspace):
    random = np.random.default_rng(0)
    photographs = {
        f"{label}/{n}.png": encode(draw_insect(label, random), "png")
        for label in ("ants", "bees")
        for n in range(12)
    }
    write_folder(photographs, "photos")
    names = ["one", "two", "three"]
    edit(models=names, factories=dict.fromkeys(names, "my_networks:tiny"), modes=[], seeds=[0, 1])
    edit(train={"epochs": 1})
    sh("dvc", "config", "--local", "core.no_scm", "true")
    assert len(COMMANDS) == 6
    outputs = [sh(*command.split()) for command in COMMANDS]
    assert "params.yaml names photos and data/photos.csv" in outputs[0]
    assert "to train the three most accurate networks: `headswap choose 3`" in outputs[3].lower()
    chosen = params.load()
    assert (len(chosen.models), chosen.modes) == (2, ["finetune", "frozen"])
    report = Path("metrics/comparison.md").read_text()
    assert "than the probe of" in report or "Modes of one network that differ" in report
    assert all(Path("models", cell.name, "model.json").exists() for cell in chosen.cells())
