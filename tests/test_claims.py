"""Verdicts follow from intervals, and a claim that cannot be tested says why."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_cells import load_params, write_cell, write_images
from ruamel.yaml import YAML

from headswap.compare.claims import CLAIMS, evaluate_claim, read_claims
from headswap.compare.report import render
from headswap.compare.results import read_results
from headswap.errors import UserError
from headswap.io import read_json, write_json
from headswap.params import Cell

IMAGES = 153
IDS = [
    "frozen-beats-finetune-alexnet",
    "frozen-beats-finetune-resnet18",
    "alexnet-gains-more",
    "resnet18-beats-alexnet",
    "resnet18-slower",
    "parameters-predict-time",
    "depth-predicts-time",
    "frozen-faster",
]


NINTH = {
    "id": "probe-is-enough",
    "says": "A probe is as fast as it gets.",
    "quantity": "seconds",
    "compare": [{"alexnet-probe": 1, "alexnet-frozen": -1}],
    "direction": "below",
    "published": {"alexnet-probe": 1, "alexnet-frozen": 2},
}


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """Return parameters of the six cells."""
    monkeypatch.chdir(tmp_path)
    return load_params(["alexnet", "resnet18"])


@pytest.fixture
def chosen(loaded):
    """Return parameters of the six cells, all equally good."""
    write_images(0)
    for cell in loaded.cells():
        write_correct(cell.name, 130)
    return loaded


def write_correct(cell, right, **others):
    """Write a cell whose replicates classify about the first `right` images correctly."""
    correct = np.tile(np.arange(IMAGES) < right, (5, 1))
    correct[np.arange(5), np.arange(5) * 20] ^= True
    write_cell(Cell(*cell.split("-")), correct, **others)


def verdicts(chosen):
    results = read_results(chosen)
    return {claim.id: evaluate_claim(claim, results) for claim in read_claims()}


def test_the_claims_are_the_write_ups_and_their_figures_the_published_ones(loaded):
    entries = read_claims()
    assert [claim.id for claim in entries] == IDS
    summary = pd.read_csv("data/published/summary.csv").set_index("cell")
    column = {"accuracy": "best_val_accuracy", "seconds": "train_seconds"}
    for claim in entries:
        assert sorted(claim.published) == claim.cells
        for cell, figure in claim.published.items():
            assert figure == summary.loc[cell, column[claim.quantity]]


@pytest.mark.parametrize(
    ("right", "verdict"), [(150, "supported"), (131, "inconclusive"), (110, "contradicted")]
)
def test_a_verdict_follows_from_the_interval(chosen, right, verdict):
    write_correct("alexnet-frozen", right)
    found = verdicts(chosen)["frozen-beats-finetune-alexnet"]
    (effect,) = found["effects"]
    assert found["verdict"] == verdict and found["unit"] == "points"
    assert effect["effect"] == pytest.approx(100 * (right - 130) / IMAGES, abs=1e-3)
    assert effect["low"] < effect["effect"] < effect["high"]
    assert effect["published"] == pytest.approx(4.5751, abs=1e-4)
    assert (effect["images_needed"] or 0) > IMAGES or verdict != "inconclusive"
    assert effect["images_needed"] is None or verdict == "inconclusive"


def test_a_difference_of_differences_is_one_claim(chosen):
    write_correct("alexnet-frozen", 150)
    write_correct("resnet18-finetune", 120)
    (effect,) = verdicts(chosen)["alexnet-gains-more"]["effects"]
    assert effect["effect"] == pytest.approx(100 * (20 - 10) / IMAGES, abs=1e-3)


def test_times_are_ratios_with_their_spread(chosen):
    write_correct("resnet18-finetune", 130, seconds=[200, 202, 198, 201, 199])
    found = verdicts(chosen)
    (slower,) = found["resnet18-slower"]["effects"]
    assert found["resnet18-slower"]["verdict"] == "supported"
    assert slower["effect"] == pytest.approx((200 + 40.8) / (81.6 + 40.8), rel=1e-3)
    assert slower["low"] > 1 and slower["published"] == pytest.approx(1805 / 1529, abs=1e-3)
    assert found["parameters-predict-time"]["verdict"] == "contradicted"
    assert found["depth-predicts-time"]["verdict"] == "supported"
    faster = found["frozen-faster"]
    assert faster["verdict"] == "supported" and len(faster["effects"]) == 2


def test_a_claim_of_both_networks_fails_with_one(chosen):
    write_correct("resnet18-frozen", 130, seconds=[100, 102, 98, 101, 99])
    assert verdicts(chosen)["frozen-faster"]["verdict"] == "contradicted"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"models": ["alexnet"]}, "not in the matrix"),
        ({"weights": "random"}, "about ImageNet weights"),
        ({"factories": {"resnet18": "mine:resnet18"}}, "resnet18 has a factory of its own"),
    ],
)
def test_what_cannot_be_tested_says_why(chosen, changes, why):
    found = verdicts(chosen.model_copy(update=changes))["resnet18-beats-alexnet"]
    assert found["verdict"] == "not tested" and why in found["why"] and found["effects"] == []


def test_other_images_and_too_few_runs_say_why(chosen):
    write_images(0, counts={"images": 4, "train": 2, "val": 2})
    assert "other images" in verdicts(chosen)["resnet18-beats-alexnet"]["why"]
    write_cell(Cell("alexnet", "frozen"), np.ones((1, IMAGES)))
    assert "add seeds" in verdicts(chosen)["frozen-faster"]["why"]
    write_cell(Cell("alexnet", "frozen"), np.ones((4, IMAGES)), diverged=1)
    assert "diverged" in verdicts(chosen)["frozen-faster"]["why"]


@pytest.mark.parametrize("key", ["processor", "cores", "device", "workers"])
def test_times_under_different_conditions_are_not_compared(chosen, key):
    path = Path("metrics/timing/alexnet-frozen.json")
    timing = read_json(path)
    for other in ("another", [timing[key], "another"]):
        write_json(path, {**timing, key: other})
        found = verdicts(chosen)
        assert "conditions of timing differed" in found["frozen-faster"]["why"]
        assert found["frozen-beats-finetune-alexnet"]["verdict"] != "not tested"


def test_times_of_cells_that_mix_the_same_conditions_are_not_compared(chosen):
    for cell in chosen.cells():
        path = Path(f"metrics/timing/{cell.name}.json")
        write_json(path, {**read_json(path), "processor": ["a processor", "another"]})
    assert "conditions of timing differed" in verdicts(chosen)["frozen-faster"]["why"]


def test_a_ninth_claim_is_one_entry(chosen):
    path = Path(CLAIMS)
    entries = YAML(typ="safe").load(path)
    YAML().dump([*entries, NINTH], path)
    assert verdicts(chosen)["probe-is-enough"]["verdict"] == "supported"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"published": {"alexnet-frozen": 1}}, "a figure of each of alexnet-frozen, alexnet-probe"),
        ({"compare": []}, "entry 1: compare: List should have at least 1 item"),
        ({"compare": [{}]}, "published must give"),
        ({"compare": [{"alexnet-frozen": 1, "alexnet-probe": 1}]}, "one below"),
        ({"compare": [{"alexnet-frozen": 2, "alexnet-probe": -1}]}, "are 1 and -1"),
        ({"published": {"alexnet-frozen": 0, "alexnet-probe": 1}}, "should be greater than 0"),
        ({"quantity": "accuracy", "per": "depth"}, "per goes with seconds"),
        ({"direction": "up"}, "entry 1: direction: Input should be 'above' or 'below'"),
        ({"another": 1}, "entry 1: another: Extra inputs are not permitted"),
    ],
)
def test_a_mistake_in_a_claim_is_named(loaded, change, message):
    YAML().dump([NINTH], Path(CLAIMS))
    assert len(read_claims()) == 1
    YAML().dump([{**NINTH, **change}], Path(CLAIMS))
    with pytest.raises(UserError, match=message):
        read_claims()
    YAML().dump([NINTH, NINTH], Path(CLAIMS))
    with pytest.raises(UserError, match="more than one is called probe-is-enough"):
        read_claims()


@pytest.mark.parametrize("text", ["", "- half", "a: [", "\0", None])
def test_a_file_that_holds_no_claims_is_refused(loaded, text):
    Path(CLAIMS).unlink()
    if text is not None:
        Path(CLAIMS).write_text(text)
    with pytest.raises(UserError, match=r"claims\.yaml cannot be read(.|\n)*: git checkout data$"):
        read_claims()


def test_where_replicates_disagree_more_images_would_not_decide(chosen):
    random = np.random.default_rng(4)
    probabilities = np.array([0.6, 0.95, 0.7, 0.9, 0.85])[:, None]
    write_cell(Cell("alexnet", "frozen"), random.random((5, IMAGES)) < probabilities)
    found = verdicts(chosen)["frozen-beats-finetune-alexnet"]
    assert found["verdict"] == "inconclusive" and found["effects"][0]["images_needed"] is None
    text = render("claims.md", {"claims": [found]})
    assert "| inconclusive; more images alone would not decide |" in text
