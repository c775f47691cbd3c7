"""Where classes are unequal, what always answering the largest would reach is said."""

import numpy as np
import pytest
from fake_cells import write_alexnet, write_cell
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import norm

from headswap.compare import report
from headswap.compare.comparison import compare
from headswap.compare.intervals import accuracy, balanced_accuracy
from headswap.compare.results import read_results

RECALLS = {"ants": (0.97, 130), "bees": (0.8, 23)}
CLASSES = ["ants"] * 9 + ["bees"]


def simulate(random, of_replicate, replicates=5):
    """Simulate the predictions of replicates that vary in the same direction in both classes."""
    shift = of_replicate**0.5 * random.standard_normal((replicates, 1))
    parts = []
    for recall, images in RECALLS.values():
        ease = 0.6**0.5 * random.standard_normal(images) + shift
        ease = ease + (0.4 - of_replicate) ** 0.5 * random.standard_normal((replicates, images))
        parts.append(ease > norm.ppf(1 - recall))
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("of_replicate", [0, 0.03])
def test_the_interval_of_balanced_accuracy_covers_the_truth_as_often_as_it_says(of_replicate):
    random = np.random.default_rng(5)
    labels = np.repeat(list(RECALLS), [images for _, images in RECALLS.values()])
    found = [balanced_accuracy(simulate(random, of_replicate), labels) for _ in range(1000)]
    truth = np.mean([recall for recall, _ in RECALLS.values()])
    assert np.mean([estimate.value for estimate in found]) == pytest.approx(truth, abs=0.005)
    assert 0.93 <= np.mean([found.low <= truth <= found.high for found in found]) <= 0.985


def test_each_class_counts_the_same():
    correct = [[True] * 90 + [False] * 10]
    estimate = balanced_accuracy(correct, ["ants"] * 90 + ["bees"] * 10)
    assert estimate.value == 0.5
    assert accuracy(correct).low > 0.8 > estimate.high


def test_a_class_of_one_image_has_no_interval():
    estimate = balanced_accuracy([[True, True, False]], ["ants", "ants", "bees"])
    assert estimate.value == 0.5 and np.isnan([estimate.low, estimate.high]).all()


def test_balanced_accuracy_of_few_images_has_a_variance_that_is_not_negative():
    correct = np.ones((5, 6))
    correct[2, 0] = correct[4, 3] = 0
    estimate = balanced_accuracy(correct, [0, 1, 2, 0, 1, 2])
    assert estimate.low < estimate.value - 0.05


@given(arrays.arrays(bool, st.tuples(st.integers(1, 4), st.integers(4, 9))))
def test_balanced_accuracy_is_within_its_interval_and_that_within_0_and_1(correct):
    labels = ["ants", "bees", "ants", "bees", *["ants"] * (correct.shape[1] - 4)]
    estimate = balanced_accuracy(correct, labels)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert estimate.high > estimate.low


@pytest.mark.parametrize(("bees", "is_better"), [(False, False), (True, True)])
def test_the_report_says_what_always_answering_the_largest_class_would_reach(
    workspace, bees, is_better
):
    chosen = write_alexnet(100)
    is_ant = np.array([CLASSES[number % 10] == "ants" for number in range(100)])
    for cell in chosen.cells():  # which are named by their places, as in `fake_cells`
        write_cell(cell, [is_ant | bees] * 3, classes=CLASSES)
    results = read_results(chosen.model_copy(update={"weights": "random"}))
    facts = report.facts(results, compare(results))
    row = facts["accuracy"]["table"].set_index("cell").loc["(always ants)"]
    assert row["best epoch, %"] == row["last epoch, %"] == "90.0"
    assert row["balanced, % (95 %)"] == "50.0"
    summary = report.render("summary.md", facts)
    assert "Always answering ants, the largest class, would reach 90.0 %" in summary
    assert ("which that accuracy is not distinguishable" in summary) != is_better
