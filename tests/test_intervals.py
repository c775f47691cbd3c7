"""Intervals cover the truth as often as they say, and pairing makes them narrower."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from headswap.compare import intervals
from headswap.compare.variance import components, mean_error, replicate_prior

SOURCES = (0.6, 0.3, 0.003)


@pytest.fixture(scope="module")
def simulate():
    """Return the large simulation's generator of experiments."""
    path = Path(__file__).parents[1] / "benchmarks/coverage.py"
    spec = importlib.util.spec_from_file_location("coverage", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.simulate


@pytest.mark.parametrize("accuracy", [0.9, 0.945])
def test_intervals_cover_the_truth_as_often_as_they_say(simulate, accuracy):
    random = np.random.default_rng(7)
    experiments = [simulate(accuracy, SOURCES, random) for _ in range(1500)]
    cells = [intervals.accuracy(first) for first, _ in experiments]
    differences = [intervals.contrast(second - first) for first, second in experiments]
    assert 0.93 <= np.mean([cell.low <= accuracy <= cell.high for cell in cells]) <= 0.97
    assert 0.03 <= np.mean([difference.sign != 0 for difference in differences]) <= 0.07


def test_a_real_difference_is_found(simulate):
    random = np.random.default_rng(8)
    better = [
        intervals.contrast(simulate(0.95, SOURCES, random)[0] - simulate(0.8, SOURCES, random)[0])
        for _ in range(100)
    ]
    assert np.mean([difference.sign == 1 for difference in better]) > 0.95


def test_the_variance_over_images_agrees_with_a_bootstrap_over_images(simulate):
    correct = simulate(0.9, (0.6, 0.3, 0), np.random.default_rng(3))[0][:1]
    resampled = stats.bootstrap(
        (correct[0],),
        np.mean,
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    estimate = intervals.contrast(correct)
    half = stats.t.ppf(0.975, correct.size - 1) * resampled.standard_error
    assert estimate.high - estimate.value == pytest.approx(half, rel=0.03)


def test_replicates_that_differ_make_the_interval_wider():
    correct = np.random.default_rng(4).random((5, 153)) < 0.9
    shifted = correct - 0.5 + np.array([-0.2, -0.1, 0, 0.1, 0.2])[:, None]
    narrow, wide = intervals.contrast(correct), intervals.contrast(shifted)
    t_test = stats.ttest_1samp(shifted.mean(axis=1), 0).confidence_interval()
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    assert wide.high - wide.low == pytest.approx(t_test.high - t_test.low, rel=0.1)


def test_pairing_by_image_makes_the_interval_of_a_difference_narrower(simulate):
    first, second = simulate(0.9, (0.9, 0.05, 0), np.random.default_rng(5))
    shuffled = np.random.default_rng(6).permutation(second, axis=1)
    paired, unpaired = (intervals.contrast(other - first) for other in (second, shuffled))
    assert paired.high - paired.low < 0.6 * (unpaired.high - unpaired.low)


def test_the_number_of_images_needed_is_enough_and_half_of_it_is_not():
    values = np.array([[1, 1, 1, -1, -1, 0, 0, 0, 0, 0]])
    estimate = intervals.contrast(values)
    assert estimate.sign == 0 and estimate.images_needed > 100
    copies = -(-estimate.images_needed // 10)
    assert intervals.contrast(np.tile(values, copies)).sign == 1
    assert intervals.contrast(np.tile(values, copies // 2)).sign == 0


def test_no_number_of_images_is_enough_if_the_replicates_vary_too_much():
    values = np.array([[0.5], [-0.45]]) + np.random.default_rng(0).normal(0, 0.01, (2, 50))
    assert intervals.contrast(values).images_needed is None


def test_the_interaction_of_images_and_replicates_is_counted_once():
    random = np.random.default_rng(9)
    errors = [mean_error(components(random.normal(size=(5, 100)))) for _ in range(200)]
    variances = [error.of_images + error.of_replicates for error in errors]
    assert 1 < np.mean(variances) / (1 / 500) < 1.5


def test_two_replicates_that_agree_by_chance_do_not_count_as_many(simulate):
    random = np.random.default_rng(11)
    experiments = [simulate(0.9, (0.5, 0.3, 0.03), random, replicates=2) for _ in range(800)]
    differ = [intervals.contrast(second - first).sign != 0 for first, second in experiments]
    assert np.mean(differ) < 0.06


def test_what_other_cells_say_makes_the_interval_of_two_replicates_narrower(simulate):
    random = np.random.default_rng(12)
    widths, covered = [], []
    for _ in range(300):
        cells = simulate(0.9, (0.5, 0.3, 0.03), random, replicates=2, cells=6)
        prior = replicate_prior(cells[1:])
        found = [intervals.accuracy(cells[0], chosen) for chosen in (prior, None)]
        covered.append(found[0].low <= 0.9 <= found[0].high)
        widths.append([estimate.high - estimate.low for estimate in found])
    moderated, alone = np.mean(widths, axis=0)
    assert moderated < 0.85 * alone
    assert np.mean(covered) >= 0.93


def test_a_cell_whose_replicates_vary_much_more_than_others_keeps_a_wide_interval(simulate):
    random = np.random.default_rng(13)
    spreads = [(0.5, 0.3, 0.03)] + 5 * [(0.5, 0.3, 0.0003)]
    covered = []
    for _ in range(300):
        cells = simulate(0.9, spreads, random, replicates=3, cells=6)
        estimate = intervals.accuracy(cells[0], replicate_prior(cells[1:]))
        covered.append(estimate.low <= 0.9 <= estimate.high)
    assert np.mean(covered) >= 0.92


def test_cells_that_say_nothing_are_no_prior():
    assert replicate_prior([]) is None
    assert replicate_prior([np.ones((3, 9)), np.ones((1, 9))]) is None


def test_replicates_far_apart_do_not_overflow_the_prior():
    correct = np.array([[True] * 100, [False] * 99 + [True]])
    estimate = intervals.accuracy(correct, replicate_prior([correct, correct]))
    assert estimate.high - estimate.low > 0.9


@pytest.mark.parametrize(("better", "sign"), [(0, 0), (4, 0), (6, 1)])
def test_the_difference_of_cells_that_hardly_differed_keeps_an_interval(better, sign):
    estimate = intervals.contrast([np.arange(153) < better] * 5)
    assert estimate.value == better / 153
    assert estimate.sign == sign
    assert estimate.high - estimate.value > 0.005


def test_a_ratio_of_times_has_the_interval_of_welchs_test_of_their_logarithms():
    random = np.random.default_rng(10)
    over, under = random.normal(50, 1, 5), random.normal(40, 2, 4)
    estimate = intervals.log_ratio([over], [under])
    welch = stats.ttest_ind(np.log(over), np.log(under), equal_var=False).confidence_interval()
    assert estimate.low == pytest.approx(welch.low, rel=0.05)
    assert estimate.high == pytest.approx(welch.high, rel=0.05)


@given(arrays.arrays(bool, st.tuples(st.integers(1, 4), st.integers(2, 9))))
def test_an_accuracy_is_within_its_interval_and_that_within_0_and_1(correct):
    estimate = intervals.accuracy(correct)
    assert 0 <= estimate.low <= estimate.value + 1e-9
    assert estimate.value - 1e-9 <= estimate.high <= 1
    assert estimate.high > estimate.low


@pytest.mark.parametrize("largest", [1, 2])
def test_the_interval_of_a_difference_stays_within_what_is_possible(largest):
    estimate = intervals.contrast(largest * np.array([[1.0, 1, 1], [-1, -1, 0]]), largest=largest)
    assert (estimate.low, estimate.high) == (-largest, largest)
    assert estimate.low < estimate.value < estimate.high
