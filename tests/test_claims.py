"""Verdicts follow from intervals; a claim that cannot be tested has a reason."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_cells import write_cell, write_images
from ruamel.yaml import YAML

from headswap import params
from headswap.compare import report
from headswap.compare.claims import CLAIMS, evaluate_claim, read_claims
from headswap.compare.results import read_results
from headswap.errors import UserError
from headswap.io import read_json, write_json

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
def chosen(workspace):
    """Return parameters of the six cells, all equally good."""
    write_images(0)
    chosen = params.load().model_copy(
        update={"models": ["alexnet", "resnet18"], "factories": {}, "weights": "imagenet"}
    )
    for cell in [cell.name for cell in chosen.cells()]:
        write_replicates(cell, 130)
    return chosen


def write_replicates(cell, count, **others):
    """Write a cell whose replicates classify about the first `count` images correctly."""
    correct = np.tile(np.arange(IMAGES) < count, (5, 1))
    correct[np.arange(5), np.arange(5) * 20] ^= True
    write_cell(cell, correct, **others)


def verdicts(chosen):
    results = read_results(chosen)
    return {claim.id: evaluate_claim(claim, results) for claim in read_claims()}


def test_the_claims_are_the_write_ups_and_their_figures_the_published_ones():
    entries = read_claims()
    assert [claim.id for claim in entries] == IDS
    summary = pd.read_csv("data/published/summary.csv").set_index("cell")
    column = {"accuracy": "best_val_accuracy", "seconds": "train_seconds"}
    for claim in entries:
        assert sorted(claim.published) == claim.cells
        for cell, figure in claim.published.items():
            assert figure == summary.loc[cell, column[claim.quantity]]


@pytest.mark.parametrize(
    ("count", "verdict"), [(150, "supported"), (131, "inconclusive"), (110, "contradicted")]
)
def test_a_verdict_follows_from_the_interval(chosen, count, verdict):
    write_replicates("alexnet-frozen", count)
    claim = verdicts(chosen)["frozen-beats-finetune-alexnet"]
    (effect,) = claim["effects"]
    assert claim["verdict"] == verdict and claim["unit"] == "points"
    assert effect["effect"] == pytest.approx(100 * (count - 130) / IMAGES, abs=1e-3)
    assert effect["low"] < effect["effect"] < effect["high"]
    assert effect["published"] == pytest.approx(4.5751, abs=1e-4)
    if verdict == "inconclusive":
        assert effect["images_needed"] > IMAGES
    else:
        assert effect["images_needed"] is None


def test_a_difference_of_differences_is_one_claim(chosen):
    write_replicates("alexnet-frozen", 150)
    write_replicates("resnet18-finetune", 120)
    (effect,) = verdicts(chosen)["alexnet-gains-more"]["effects"]
    assert effect["effect"] == pytest.approx(100 * (20 - 10) / IMAGES, abs=1e-3)


def test_times_are_ratios_with_their_spread(chosen):
    write_replicates("resnet18-finetune", 130, seconds=[200, 202, 198, 201, 199])
    tested = verdicts(chosen)
    (slower,) = tested["resnet18-slower"]["effects"]
    assert tested["resnet18-slower"]["verdict"] == "supported"
    assert slower["effect"] == pytest.approx((200 + 40.8) / (81.6 + 40.8), rel=1e-3)
    assert slower["low"] > 1 and slower["published"] == pytest.approx(1805 / 1529, abs=1e-3)
    assert tested["parameters-predict-time"]["verdict"] == "contradicted"
    assert tested["depth-predicts-time"]["verdict"] == "supported"
    faster = tested["frozen-faster"]
    assert faster["verdict"] == "supported" and len(faster["effects"]) == 2


def test_a_claim_of_both_networks_fails_with_one(chosen):
    write_replicates("resnet18-frozen", 130, seconds=[100, 102, 98, 101, 99])
    assert verdicts(chosen)["frozen-faster"]["verdict"] == "contradicted"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"models": ["alexnet"]}, "about cells that are not in the matrix"),
        ({"weights": "random"}, "about ImageNet weights"),
        ({"factories": {"resnet18": "mine:resnet18"}}, "resnet18 has a factory of its own"),
    ],
)
def test_a_claim_that_cannot_be_tested_has_a_reason(chosen, changes, why):
    tested = verdicts(chosen.model_copy(update=changes))["resnet18-beats-alexnet"]
    assert tested["verdict"] == "not tested" and why in tested["why"] and tested["effects"] == []


def test_other_images_and_too_few_runs_are_reasons(chosen):
    write_images(0, counts={"images": 4, "train": 2, "val": 2, "in_both_splits": 0})
    assert "other images" in verdicts(chosen)["resnet18-beats-alexnet"]["why"]
    write_cell("alexnet-frozen", np.ones((1, IMAGES)))
    assert "add seeds" in verdicts(chosen)["frozen-faster"]["why"]
    write_cell("alexnet-frozen", np.ones((4, IMAGES)), diverged=1)
    assert "diverged" in verdicts(chosen)["frozen-faster"]["why"]


@pytest.mark.parametrize("key", ["processor", "cores", "device", "workers"])
def test_times_under_different_conditions_are_not_compared(chosen, key):
    path = Path("metrics/timing/alexnet-frozen.json")
    timing = read_json(path)
    for other in ("another", [timing[key], "another"]):
        write_json(path, {**timing, key: other})
        tested = verdicts(chosen)
        assert "conditions of timing differed" in tested["frozen-faster"]["why"]
        assert tested["frozen-beats-finetune-alexnet"]["verdict"] != "not tested"


def test_times_of_cells_with_runs_under_different_conditions_are_not_compared(chosen):
    for cell in chosen.cells():
        path = Path(f"metrics/timing/{cell.name}.json")
        write_json(path, {**read_json(path), "processor": ["a processor", "another"]})
    assert "conditions of timing differed" in verdicts(chosen)["frozen-faster"]["why"]


def test_a_ninth_claim_is_one_entry(chosen):
    path = CLAIMS
    entries = YAML(typ="safe").load(path)
    YAML().dump([*entries, NINTH], path)
    assert verdicts(chosen)["probe-is-enough"]["verdict"] == "supported"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"published": {"alexnet-frozen": 1}}, "a figure of each of alexnet-frozen, alexnet-probe"),
        ({"compare": []}, "entry 1.compare: List should have at least 1 item"),
        ({"compare": [{}]}, "published must give"),
        ({"compare": [{"alexnet-frozen": 1, "alexnet-probe": 1}]}, "one below"),
        ({"compare": [{"alexnet-frozen": 2, "alexnet-probe": -1}]}, "are 1 and -1"),
        ({"published": {"alexnet-frozen": 0, "alexnet-probe": 1}}, "above zero"),
        ({"quantity": "accuracy", "per": "depth"}, "per goes with seconds"),
        ({"direction": "up"}, "entry 1.direction: Input should be 'above' or 'below'"),
        ({"another": 1}, "entry 1.another: Extra inputs are not permitted"),
    ],
)
def test_a_mistake_in_a_claim_is_named(chosen, change, message):
    YAML().dump([NINTH], CLAIMS)
    assert len(read_claims()) == 1
    YAML().dump([{**NINTH, **change}], CLAIMS)
    with pytest.raises(UserError, match=message):
        read_claims()
    YAML().dump([NINTH, NINTH], CLAIMS)
    with pytest.raises(UserError, match="more than one is called probe-is-enough"):
        read_claims()


@pytest.mark.parametrize("text", ["", "- half", "a: [", "\0", None])
def test_a_file_that_holds_no_claims_is_refused(chosen, text):
    CLAIMS.unlink()
    if text is not None:
        CLAIMS.write_text(text)
    with pytest.raises(UserError, match=r"claims\.yaml is not a list of claims"):
        read_claims()


def test_replicates_that_vary_too_much_need_seeds_not_images(chosen):
    random = np.random.default_rng(4)
    probabilities = np.array([0.6, 0.95, 0.7, 0.9, 0.85])[:, None]
    write_cell("alexnet-frozen", random.random((5, IMAGES)) < probabilities)
    verdict = verdicts(chosen)["frozen-beats-finetune-alexnet"]
    assert verdict["verdict"] == "inconclusive" and verdict["effects"][0]["images_needed"] is None
    (line,) = report.claims([verdict])["tested"].itertuples()
    assert line.verdict == "inconclusive; more images alone would not decide"


def test_the_report_counts_verdicts_and_lists_the_tested_claims(chosen):
    facts = report.claims(list(verdicts(chosen.model_copy(update={"weights": "random"})).values()))
    reason = "not tested (about ImageNet weights, and these are random)"
    assert facts["total"] == 8 and facts["verdicts"][reason] == 4
    assert sum(facts["verdicts"].values()) == 8 and len(facts["tested"]) == 4
    assert "77" in facts["tested"]["write-up"].iloc[-1]  # 666 / 863


def test_claims_about_networks_that_are_not_in_the_matrix_take_one_line(chosen):
    without_frozen = chosen.model_copy(update={"modes": ["finetune"]})
    facts = report.claims(list(verdicts(without_frozen).values()))
    assert facts["verdicts"] == {"not tested (about cells that are not in the matrix)": 8}
    text = report.render("claims.md", {"claims": facts})
    assert text.count("\n") == 1 and "8 not tested" in text


def test_without_claims_the_report_has_no_section_on_them(chosen):
    assert report.render("claims.md", {"claims": report.claims([])}) == ""
