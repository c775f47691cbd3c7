"""Intervals for images in groups and for cross-validation."""

from dataclasses import astuple

import numpy as np
import pytest
from scipy import linalg

from headswap.compare.intervals import estimate_accuracy, estimate_difference
from headswap.compare.variance import SPLIT, Design, components

SIZES = np.array([1, 2, 3, 10, 24])


def _correct(replicates=3, images=40, seed=0):
    return np.random.default_rng(seed).random((replicates, images)) < 0.8


def test_groups_of_one_image_are_images():
    own, as_images = (components(_correct(), of, 0.25) for of in (Design(np.arange(40)), SPLIT))
    assert astuple(own) == pytest.approx(astuple(as_images))


def test_groups_of_one_size_vary_as_their_means():
    correct = _correct()
    grouped = components(correct, Design(np.arange(40) // 8), tiny := 1e-30)
    means = components(correct.reshape(3, 5, 8).mean(axis=2), pseudo_square=tiny)
    assert astuple(grouped) == pytest.approx(astuple(means))


def test_the_replicates_vary_by_their_own_means_whatever_the_groups():
    unequal = Design(np.repeat(np.arange(5), SIZES))
    expected = _correct().mean(axis=1).var(ddof=1) / 3
    assert components(_correct(), unequal).of_replicates == pytest.approx(expected)


def test_few_groups_have_one_more():
    correct = np.repeat(np.random.default_rng(4).random((3, 5)) < 0.8, 8, axis=1)
    without, own = (components(correct, Design(np.arange(40) // 8), of) for of in (1e-30, 0))
    assert own.of_images - without.of_images == pytest.approx(correct.var() / 20)


@pytest.mark.parametrize("correlated", [True, False])
def test_degrees_of_freedom_are_those_of_a_variance_by_cr2(correlated):
    random, groups = np.random.default_rng(1), np.repeat(np.arange(5), SIZES)
    # Of groups that agree within themselves the correlation is one, of others about zero.
    values = random.random((1, 5))[:, groups] if correlated else np.resize([0.0, 1.0], (1, 40))
    of_sum = SIZES**2 if correlated else SIZES
    residual = np.eye(5) - np.outer(SIZES, np.ones(5)) / 40
    square = residual.T @ np.diag(1 / (1 - SIZES / 40)) @ residual @ np.diag(of_sum)
    eigenvalues = linalg.eigvals(square).real
    expected = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    assert components(values, Design(groups)).freedom == pytest.approx(max(1, expected))


@pytest.mark.parametrize("sizes", [np.full(20, 5), np.repeat([1, 2, 4, 18], 8)])
def test_intervals_of_images_in_groups_cover_the_truth(sizes):
    random, groups = np.random.default_rng(2), np.repeat(np.arange(len(sizes)), sizes)
    cells, differences = [], []
    for _ in range(400):
        ease = random.standard_normal((2, len(sizes)))[:, None, groups]
        correct = ease + random.standard_normal((2, 2, len(groups))) < 1
        truth = 0.7602499  # Φ(1 / √2)
        cell = estimate_accuracy(correct[0], design=Design(groups))
        difference = estimate_difference(correct[0] * 1.0 - correct[1], design=Design(groups))
        cells.append(cell.low <= truth <= cell.high)
        differences.append(difference.sign == 0)
    assert 0.93 <= np.mean(cells) <= 0.98
    assert 0.93 <= np.mean(differences) <= 0.99


@pytest.mark.parametrize("replicates", [1, 3])
def test_models_that_share_images_make_the_variance_over_images_larger(replicates):
    correct = _correct(replicates)
    split, folds = (components(correct, of) for of in (SPLIT, Design(folds=5)))
    assert folds.of_images == pytest.approx(25 / 16 * split.of_images)
    of_difference = [components(correct, of, 0.25).of_images for of in (SPLIT, Design(folds=5))]
    assert of_difference[1] == pytest.approx(5 / 4 * of_difference[0])
    assert folds.of_replicates == pytest.approx(split.of_replicates, nan_ok=True)
