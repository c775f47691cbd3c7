"""Intervals for accuracies, differences and ratios, over other images and other replicates.

Replicates share their validation images: the images, the seeds and their interaction each have a
variance, which is counted once (B. D. Gallas et al., Communications in Statistics 38, 2009); the
usual bootstrap over both counts the interaction three times (A. B. Owen, Annals of Applied
Statistics 1, 2007; `benchmarks/COVERAGE.md` compares both). With a prior from other cells (see
`variance`), a few replicates usually give a narrower interval.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from headswap.compare import variance
from headswap.compare.variance import LEVEL, SPLIT, Design, Prior, components, error_distribution

MARGIN = 0.01  # a cell at most so much less accurate than the best is good enough
SURE = 0.9  # the probability from which a cell is said to be good enough


class Estimate(NamedTuple):
    """An estimate and its 95 % interval, NaN where it is not known."""

    value: float
    low: float = math.nan
    high: float = math.nan
    images_needed: int | None = None  # for an interval without zero, if the estimate stays the same
    p_value: float = math.nan  # the probability of one as far from zero if the truth is zero

    @property
    def sign(self) -> int:
        """1 or -1 if the interval lies above or below zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def estimate_accuracy(correct: ArrayLike, prior: Prior = None, design: Design = SPLIT) -> Estimate:
    """Estimate a cell's accuracy from correct predictions of shape (replicates, images).

    The interval is Wilson's (JASA 22, 1927) for the number of independent images that would give
    the same variance, as E. L. Korn and B. I. Graubard have it (Survey Methodology 24, 1998).
    """
    values = np.asarray(correct, dtype=float)
    return _wilson(float(values.mean()), _ratio(values, components(values, design), prior))


def estimate_winner(
    cells: Sequence[ArrayLike], priors: Sequence[Prior], design: Design = SPLIT
) -> Estimate:
    """Estimate the accuracy of the best of some cells, corrected for its having been chosen.

    In each bootstrap of the images the best is chosen, and evaluated on those that were not drawn:
    I. Tsamardinos, E. Greasidou and G. Borboudakis, Machine Learning 107 (2018). The interval is
    Wilson's with the mean ratio of all cells, since the best one's is small by choice, too.
    """
    values = [np.asarray(correct, dtype=float) for correct in cells]
    means = np.array([correct.mean(axis=0) for correct in values])
    units = design.units(means.shape[1])
    groups = np.arange(units) if design.groups is None else design.groups
    random, found = np.random.default_rng(0), []
    for _ in range(1000):
        times = np.bincount(random.integers(units, size=units), minlength=units)[groups]
        if (times == 0).any():
            found.append(means[(means @ times).argmax(), times == 0].mean())
    each = zip(values, priors, strict=True)
    ratios = [_ratio(values, components(values, design), prior) for values, prior in each]
    value = np.mean(found) if len(cells) > 1 else means.mean()  # one was not chosen
    return _wilson(float(value), float(np.mean(ratios)))


def _ratio(values: variance.Array, parts: variance.Components, prior: Prior) -> float:
    """Return the squared half width of an accuracy's interval, divided by its p (1 - p)."""
    error, mean = error_distribution(parts, prior), float(values.mean())
    if not (half := error.half_width):
        return error.quantile**2 / parts.units
    return max(half**2 / (mean * (1 - mean)), error.quantile**2 / values.size)


def _wilson(mean: float, ratio: float) -> Estimate:
    middle = (mean + ratio / 2) / (1 + ratio)
    half = math.sqrt(ratio * mean * (1 - mean) + ratio**2 / 4) / (1 + ratio)
    return Estimate(mean, max(0.0, middle - half), min(1.0, middle + half))


def estimate_balanced_accuracy(
    correct: ArrayLike, labels: ArrayLike, prior: Prior = None, design: Design = SPLIT
) -> Estimate:
    """Estimate a cell's balanced accuracy, the mean of its recalls of the classes.

    The interval combines those of the recalls, each for other images of its class, as independent
    ones (G. Y. Zou and A. Donner, Statistics in Medicine 27, 2008, equation 3), and adds the
    replicates' part of the squared half width; not known where a class has one image, or group.
    """
    values = np.asarray(correct, dtype=float)
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    number, of_class = len(counts), [classes == place for place in range(len(counts))]
    recalls = [values[:, images] for images in of_class]
    designs = [design.only(images) for images in of_class]
    mean = float(np.mean([recall.mean(axis=1) for recall in recalls], axis=0).mean())
    if min(of.units(count) for of, count in zip(designs, counts, strict=True)) < 2:
        return Estimate(mean)
    parts = [components(*both) for both in zip(recalls, designs, strict=True)]
    images = of_images = sum(part.of_images for part in parts) / number**2
    balanced = components(values / (number * counts[classes] / len(classes)), design)
    if len(values) > 1:  # as in other cells' prior, what a replicate adds to a class is interaction
        interaction = sum(part.interaction for part in parts) / number**2
        images = max(0.0, of_images - interaction) + balanced.interaction
    error = error_distribution(replace(balanced, of_images=images), prior)
    below = above = max(0.0, error.half_width**2 - error.quantile**2 * of_images)
    for recall, part in zip(recalls, parts, strict=True):
        alone = replace(part, replicates=1)  # for other images only
        wilson = _wilson(float(recall.mean()), _ratio(recall, alone, None))
        below += ((wilson.value - wilson.low) / number) ** 2
        above += ((wilson.high - wilson.value) / number) ** 2
    return Estimate(mean, max(0.0, mean - math.sqrt(below)), min(1.0, mean + math.sqrt(above)))


def estimate_difference(
    values: ArrayLike, prior: Prior = None, design: Design = SPLIT, *, largest: float = 1.0
) -> Estimate:
    """Estimate the mean of differences, paired by image and seed, of shape (replicates, images).

    The interval is within ± `largest`, the largest possible difference on one image. One more, with
    half of that, enters its width, so that cells that hardly differed keep an interval: after
    A. Agresti and Y. Min, Statistics in Medicine 24 (2005), who add four times as much.
    """
    values = np.asarray(values, dtype=float)
    mean, images = float(values.mean()), values.shape[1]
    error = error_distribution(components(values, design, (largest / 2) ** 2), prior)
    low, high = max(-largest, mean - error.half_width), min(largest, mean + error.half_width)
    needed = _images_needed(lambda times: 2 * error.above(abs(mean), times) + LEVEL - 1, images)
    return Estimate(mean, low, high, needed, 2 * error.above(abs(mean)))


def probability_good_enough(
    values: ArrayLike, prior: Prior = None, design: Design = SPLIT
) -> tuple[float, int | None]:
    """Return the probability that the best cell is better than another by at most `MARGIN`.

    The prior of the mean of their differences is flat. With it: how many images make it `SURE`.
    """
    values = np.asarray(values, dtype=float)
    error = error_distribution(components(values, design, 0.25), prior)
    margin, images = MARGIN - float(values.mean()), values.shape[1]
    needed = _images_needed(lambda times: error.above(margin, times) + SURE - 1, images)
    return 1 - error.above(margin), needed


def _images_needed(excess: Callable[[float], float], images: int) -> int | None:
    if excess(math.exp(40)) >= 0:
        return None
    times = optimize.brentq(lambda log_times: excess(math.exp(log_times)), -40, 40)
    return math.ceil(images * math.exp(times))


def estimate_mean_of_replicates(values: ArrayLike, prior: Prior = None) -> Estimate:
    """Estimate the mean of values of shape (replicates, images) over replicates on these images."""
    mean, parts = float(np.asarray(values, dtype=float).mean()), components(values)
    half = error_distribution(replace(parts, of_images=parts.interaction), prior).half_width
    return Estimate(mean, mean - half, mean + half)


def estimate_log_ratio(over: Sequence[ArrayLike], under: Sequence[ArrayLike]) -> Estimate:
    """Estimate the logarithm of a ratio of times, each a sum of the means of some cells.

    Each has two or more replicates. By the delta method, with Satterthwaite's degrees of freedom.
    """
    value, sources = 0.0, []
    for sign, cells in ((1, over), (-1, under)):
        seconds = [np.asarray(cell, dtype=float) for cell in cells]
        total = sum(float(cell.mean()) for cell in seconds)
        value += sign * math.log(total)
        for cell in seconds:
            error = float(cell.std(ddof=1)) / math.sqrt(len(cell))
            sources.append((error / total, len(cell) - 1))
    square = sum(error**2 for error, _ in sources)
    spread = sum(error**4 / freedom for error, freedom in sources)
    quantile = special.stdtrit(square**2 / spread, (1 + LEVEL) / 2) if spread > 0 else 0.0
    half = float(quantile * math.sqrt(square))
    return Estimate(value, value - half, value + half)


def reliability(
    confidence: ArrayLike, correct: ArrayLike
) -> tuple[list[tuple[float, float, int]], float]:
    """Compare the predicted class's probability with the accuracy, both of shape (predictions,).

    Return of each tenth that is not empty the mean confidence, the accuracy and the number; and the
    expected calibration error (C. Guo et al., ICML 2017, equation 3).
    """
    place = np.clip(np.ceil(np.asarray(confidence) * 10).astype(int) - 1, 0, 9)
    _, place, counts = np.unique(place, return_inverse=True, return_counts=True)
    both = (np.asarray(of, dtype=float) for of in (confidence, correct))
    sure, right = (np.bincount(place, of) / counts for of in both)
    error = float(counts @ np.abs(sure - right)) / len(place)
    return list(zip(sure, right, counts, strict=True)), error
