"""Intervals cover the truth as often as they say, and pairing makes them narrower."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from headswap.compare.intervals import (
    estimate_accuracy,
    estimate_balanced_accuracy,
    estimate_difference,
    estimate_log_ratio,
    estimate_mean_of_replicates,
    estimate_winner,
    probability_good_enough,
    reliability,
)
from headswap.compare.variance import components, error_distribution, replicate_prior

SOURCES = (0.6, 0.3, 0.003)
RECALLS = {"ants": (0.97, 130), "bees": (0.8, 23)}


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
    experiments = [simulate(accuracy, SOURCES, random) for _ in range(1000)]
    cells = [estimate_accuracy(first) for first, _ in experiments]
    differences = [estimate_difference(second - first) for first, second in experiments]
    assert 0.93 <= np.mean([cell.low <= accuracy <= cell.high for cell in cells]) <= 0.97
    assert 0.03 <= np.mean([difference.sign != 0 for difference in differences]) <= 0.07


def test_a_real_difference_is_found(simulate):
    random = np.random.default_rng(8)
    better = [
        estimate_difference(simulate(0.95, SOURCES, random)[0] - simulate(0.8, SOURCES, random)[0])
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
    estimate = estimate_difference(correct)
    half = stats.t.ppf(0.975, correct.size - 1) * resampled.standard_error
    assert estimate.high - estimate.value == pytest.approx(half, rel=0.03)


def test_replicates_that_differ_make_the_interval_wider():
    correct = np.random.default_rng(4).random((5, 153)) < 0.9
    shifted = correct - 0.5 + np.array([-0.2, -0.1, 0, 0.1, 0.2])[:, None]
    narrow, wide = estimate_difference(correct), estimate_difference(shifted)
    t_test = stats.ttest_1samp(shifted.mean(axis=1), 0).confidence_interval()
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    assert wide.high - wide.low == pytest.approx(t_test.high - t_test.low, rel=0.1)


def test_pairing_by_image_makes_the_interval_of_a_difference_narrower(simulate):
    first, second = simulate(0.9, (0.9, 0.05, 0), np.random.default_rng(5))
    shuffled = np.random.default_rng(6).permutation(second, axis=1)
    paired, unpaired = (estimate_difference(other - first) for other in (second, shuffled))
    assert paired.high - paired.low < 0.6 * (unpaired.high - unpaired.low)


def test_the_number_of_images_needed_is_enough_and_half_of_it_is_not():
    values = np.array([[1, 1, 1, -1, -1, 0, 0, 0, 0, 0]])
    estimate = estimate_difference(values)
    assert estimate.sign == 0 and estimate.images_needed > 100
    copies = -(-estimate.images_needed // 10)
    assert estimate_difference(np.tile(values, copies)).sign == 1
    assert estimate_difference(np.tile(values, copies // 2)).sign == 0


def test_no_number_of_images_is_enough_if_the_replicates_vary_too_much():
    values = np.array([[0.5], [-0.45]]) + np.random.default_rng(0).normal(0, 0.01, (2, 50))
    assert estimate_difference(values).images_needed is None


def test_the_interaction_of_images_and_replicates_is_counted_once():
    random = np.random.default_rng(9)
    errors = [error_distribution(components(random.normal(size=(5, 100)))) for _ in range(200)]
    variances = [error.of_images + error.of_replicates for error in errors]
    assert 1 < np.mean(variances) / (1 / 500) < 1.5


def test_two_replicates_that_agree_by_chance_do_not_count_as_many(simulate):
    random = np.random.default_rng(11)
    experiments = [simulate(0.9, (0.5, 0.3, 0.03), random, replicates=2) for _ in range(800)]
    differ = [estimate_difference(second - first).sign != 0 for first, second in experiments]
    assert np.mean(differ) < 0.06


def test_what_other_cells_say_makes_the_interval_of_two_replicates_narrower(simulate):
    random = np.random.default_rng(12)
    widths, covered = [], []
    for _ in range(300):
        cells = simulate(0.9, (0.5, 0.3, 0.03), random, replicates=2, cells=6)
        prior = replicate_prior(cells[1:])
        found = [estimate_accuracy(cells[0], chosen) for chosen in (prior, None)]
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
        estimate = estimate_accuracy(cells[0], replicate_prior(cells[1:]))
        covered.append(estimate.low <= 0.9 <= estimate.high)
    assert np.mean(covered) >= 0.92


def test_cells_that_say_nothing_are_no_prior():
    assert replicate_prior([]) is None
    assert replicate_prior([np.ones((3, 9)), np.ones((1, 9))]) is None


def test_replicates_far_apart_do_not_overflow_the_prior():
    correct = np.array([[True] * 100, [False] * 99 + [True]])
    estimate = estimate_accuracy(correct, replicate_prior([correct, correct]))
    assert estimate.high - estimate.low > 0.9


@pytest.mark.parametrize(("better", "sign"), [(0, 0), (4, 0), (6, 1)])
def test_the_difference_of_cells_that_hardly_differed_keeps_an_interval(better, sign):
    estimate = estimate_difference([np.arange(153) < better] * 5)
    assert estimate.value == better / 153
    assert estimate.sign == sign
    assert estimate.high - estimate.value > 0.005


def test_a_ratio_of_times_has_the_interval_of_welchs_test_of_their_logarithms():
    random = np.random.default_rng(10)
    over, under = random.normal(50, 1, 5), random.normal(40, 2, 4)
    estimate = estimate_log_ratio([over], [under])
    welch = stats.ttest_ind(np.log(over), np.log(under), equal_var=False).confidence_interval()
    assert estimate.low == pytest.approx(welch.low, rel=0.05)
    assert estimate.high == pytest.approx(welch.high, rel=0.05)


@given(arrays.arrays(bool, st.tuples(st.integers(1, 4), st.integers(2, 9))))
def test_an_accuracy_is_within_its_interval_and_that_within_0_and_1(correct):
    estimate = estimate_accuracy(correct)
    assert 0 <= estimate.low <= estimate.value + 1e-9
    assert estimate.value - 1e-9 <= estimate.high <= 1
    assert estimate.high > estimate.low


@pytest.mark.parametrize("largest", [1, 2])
def test_the_interval_of_a_difference_stays_within_what_is_possible(largest):
    estimate = estimate_difference(largest * np.array([[1.0, 1, 1], [-1, -1, 0]]), largest=largest)
    assert (estimate.low, estimate.high) == (-largest, largest)
    assert estimate.low < estimate.value < estimate.high


def simulate_two_classes(random, of_replicate, replicates=5):
    """Simulate the predictions of replicates that vary in the same direction in both classes."""
    shift = of_replicate**0.5 * random.standard_normal((replicates, 1))
    parts = []
    for recall, images in RECALLS.values():
        ease = 0.6**0.5 * random.standard_normal(images) + shift
        ease = ease + (0.4 - of_replicate) ** 0.5 * random.standard_normal((replicates, images))
        parts.append(ease > stats.norm.ppf(1 - recall))
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("of_replicate", [0, 0.03])
def test_the_interval_of_balanced_accuracy_covers_the_truth_as_often_as_it_says(of_replicate):
    random = np.random.default_rng(5)
    labels = np.repeat(list(RECALLS), [images for _, images in RECALLS.values()])
    found = [
        estimate_balanced_accuracy(simulate_two_classes(random, of_replicate), labels)
        for _ in range(1000)
    ]
    truth = np.mean([recall for recall, _ in RECALLS.values()])
    assert np.mean([estimate.value for estimate in found]) == pytest.approx(truth, abs=0.005)
    assert 0.93 <= np.mean([found.low <= truth <= found.high for found in found]) <= 0.985


def test_each_class_counts_the_same():
    correct = [[True] * 90 + [False] * 10]
    estimate = estimate_balanced_accuracy(correct, ["ants"] * 90 + ["bees"] * 10)
    assert estimate.value == 0.5
    assert estimate_accuracy(correct).low > 0.8 > estimate.high


def test_a_class_of_one_image_has_no_interval():
    estimate = estimate_balanced_accuracy([[True, True, False]], ["ants", "ants", "bees"])
    assert estimate.value == 0.5 and np.isnan([estimate.low, estimate.high]).all()


def test_balanced_accuracy_of_few_images_has_a_variance_that_is_not_negative():
    correct = np.ones((5, 6))
    correct[2, 0] = correct[4, 3] = 0
    estimate = estimate_balanced_accuracy(correct, [0, 1, 2, 0, 1, 2])
    assert estimate.low < estimate.value - 0.05


@given(arrays.arrays(bool, st.tuples(st.integers(1, 4), st.integers(4, 9))))
def test_balanced_accuracy_is_within_its_interval_and_that_within_0_and_1(correct):
    labels = ["ants", "bees", "ants", "bees", *["ants"] * (correct.shape[1] - 4)]
    estimate = estimate_balanced_accuracy(correct, labels)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert estimate.high > estimate.low


def test_a_mean_over_replicates_on_the_same_images_has_students_interval():
    means = [1.0, 2.0, 3.0]
    estimate = estimate_mean_of_replicates([[0.0, 2.0], [1.0, 3.0], [3.0, 3.0]])
    expected = stats.ttest_1samp(means, 0).confidence_interval()
    assert (estimate.low, estimate.high) == pytest.approx(expected)


def test_a_cell_that_was_not_chosen_among_others_is_expected_to_be_as_it_is():
    correct = np.random.default_rng(12).random((3, 60)) < 0.9
    assert estimate_winner([correct], [None]).value == pytest.approx(correct.mean())


def test_more_images_make_sure_that_a_cell_is_good_enough():
    probability, images = probability_good_enough([[0, 1, -1, 0, 1, -1, 0, 0]])
    assert probability == pytest.approx(0.514, abs=5e-4) and images == 12156


def test_the_calibration_error_is_the_mean_distance_of_confidence_and_accuracy():
    rows, error = reliability([0.9, 0.9, 0.6, 0.6], [True, True, True, False])
    assert rows == [(0.6, 0.5, 2), (0.9, 1.0, 2)]
    assert error == pytest.approx(0.1)
