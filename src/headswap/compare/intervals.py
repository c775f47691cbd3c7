"""Intervals for accuracies, differences and ratios, over other images and other replicates.

All replicates are evaluated on the same validation images, so an estimate has three sources of
variance: the sample of images, the sample of seeds, and their interaction. Each variance component
is estimated, and counted once [1]_. The usual bootstrap over images and replicates counts the
interaction three times [2]_, and five replicates stay five; `benchmarks/COVERAGE.md` compares both.
With a prior from other cells (see `variance`), a few replicates usually give a narrower interval.

References
----------
.. [1] B. D. Gallas et al., "A framework for random-effects ROC analysis: biases with the bootstrap
   and other variance estimators", Communications in Statistics 38 (2009).
.. [2] A. B. Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1 (2007).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from headswap.compare.variance import (
    LEVEL,
    SPLIT,
    Array,
    Design,
    ErrorDistribution,
    components,
    error_distribution,
)

BINS = 10
"""Of confidence, between 0 and 1 (see `reliability`)."""
BOOTSTRAPS = 1000
MARGIN = 0.01
"""A cell at most so much less accurate than the best is good enough."""
SURE = 0.9
"""The probability from which a cell is said to be good enough."""


@dataclass(frozen=True)
class Estimate:
    """An estimate and its 95 % interval, NaN where it is not known.

    `images_needed` would make the interval exclude zero if the estimate stayed the same; None if no
    number would. `p_value` is the probability of an estimate as far from zero if the truth is zero.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    images_needed: int | None = None
    p_value: float = math.nan

    @property
    def sign(self) -> int:
        """1 or -1 if the interval lies above or below zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def estimate_accuracy(
    correct: ArrayLike, prior: Array | None = None, design: Design = SPLIT
) -> Estimate:
    """Estimate a cell's accuracy from correct predictions of shape (replicates, images).

    The interval is Wilson's (JASA 22, 1927) for the number of independent images that would give
    the same variance, as E. L. Korn and B. I. Graubard have it (Survey Methodology 24, 1998).
    """
    values = np.asarray(correct, dtype=float)
    return _wilson(float(values.mean()), _accuracy_ratio(values, prior, design))


def estimate_winner(
    cells: Sequence[ArrayLike], priors: Sequence[Array | None], design: Design = SPLIT
) -> Estimate:
    """Estimate the accuracy of the best of some cells, corrected for its having been chosen.

    The correct predictions of each have shape (replicates, images). In each bootstrap of the images
    the best cell is chosen, and evaluated on the images that were not drawn: I. Tsamardinos,
    E. Greasidou and G. Borboudakis, Machine Learning 107 (2018). The interval is Wilson's with the
    mean ratio of all cells, since the best one's is small by choice, too.
    """
    values = [np.asarray(of_cell, dtype=float) for of_cell in cells]
    means = np.array([of_cell.mean(axis=0) for of_cell in values])
    units = design.units(means.shape[1])
    groups = np.arange(units) if design.groups is None else design.groups
    random, found = np.random.default_rng(0), []
    for _ in range(BOOTSTRAPS):
        times = np.bincount(random.integers(units, size=units), minlength=units)[groups]
        if (times == 0).any():
            found.append(means[(means @ times).argmax(), times == 0].mean())
    ratios = [_accuracy_ratio(*both, design) for both in zip(values, priors, strict=True)]
    return _wilson(float(np.mean(found)), float(np.mean(ratios)))


def _accuracy_ratio(values: Array, prior: Array | None, design: Design) -> float:
    """Return the squared half width of an accuracy's interval, divided by its p (1 - p)."""
    parts = components(values, design)
    return _ratio(values, error_distribution(parts, prior), parts.units)


def _ratio(values: Array, error: ErrorDistribution, units: int) -> float:
    square, half, mean = error.quantile**2, error.half_width, float(values.mean())
    return max(half**2 / (mean * (1 - mean)), square / values.size) if half else square / units


def _wilson(mean: float, ratio: float) -> Estimate:
    middle = (mean + ratio / 2) / (1 + ratio)
    half = math.sqrt(ratio * mean * (1 - mean) + ratio**2 / 4) / (1 + ratio)
    return Estimate(mean, max(0.0, middle - half), min(1.0, middle + half))


def estimate_balanced_accuracy(
    correct: ArrayLike, labels: ArrayLike, prior: Array | None = None, design: Design = SPLIT
) -> Estimate:
    """Estimate a cell's balanced accuracy, the mean of its recalls of the classes.

    Correct predictions have shape (replicates, images), labels (images,). The interval combines
    those of the recalls, each for other images of its class, as independent ones (G. Y. Zou and
    A. Donner, Statistics in Medicine 27, 2008, equation 3); the replicates' part of the squared
    half width is added. It is not known where a class has a single image, or group.
    """
    values = np.asarray(correct, dtype=float)
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    of_class = [classes == number for number in range(len(counts))]
    recalls = [values[:, images] for images in of_class]
    designs = [design.only(images) for images in of_class]
    mean = float(np.mean([recall.mean(axis=1) for recall in recalls], axis=0).mean())
    if min(of.units(count) for of, count in zip(designs, counts, strict=True)) < 2:
        return Estimate(mean)
    parts = [components(*both) for both in zip(recalls, designs, strict=True)]
    of_images, interaction = (
        sum(getattr(part, source) for part in parts) / len(parts) ** 2
        for source in ("of_images", "interaction")
    )
    balanced = components(values / (len(parts) * counts[classes] / len(classes)), design)
    if len(values) > 1:
        # As in other cells' prior, what a replicate adds to one class alone is interaction.
        images = max(0.0, of_images - interaction) + balanced.interaction
    else:
        images = of_images
    error = error_distribution(replace(balanced, of_images=images), prior)
    below, above = max(0.0, error.half_width**2 - error.quantile**2 * of_images) * np.ones(2)
    for values, part in zip(recalls, parts, strict=True):
        for_images = ErrorDistribution(part.of_images, np.zeros(1), np.ones(1), part.freedom)
        recall = _wilson(float(values.mean()), _ratio(values, for_images, part.units))
        below += ((recall.value - recall.low) / len(parts)) ** 2
        above += ((recall.high - recall.value) / len(parts)) ** 2
    return Estimate(mean, max(0.0, mean - math.sqrt(below)), min(1.0, mean + math.sqrt(above)))


def estimate_difference(
    values: ArrayLike, prior: Array | None = None, design: Design = SPLIT, *, largest: float = 1.0
) -> Estimate:
    """Estimate the mean of differences, paired by image and seed, of shape (replicates, images).

    Its interval is limited to ± `largest`, the largest possible difference on one image. One more
    image, with a difference of half of `largest`, enters its width, so that cells that hardly
    differed keep an interval: after A. Agresti and Y. Min, Statistics in Medicine 24 (2005), who
    add four times as much.
    """
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    error = error_distribution(components(values, design, (largest / 2) ** 2), prior)
    half = error.half_width
    return Estimate(
        mean,
        max(-largest, mean - half),
        min(largest, mean + half),
        _images_needed(lambda times: 2 * error.above(abs(mean), times) + LEVEL - 1, values),
        2 * error.above(abs(mean)),
    )


def probability_good_enough(
    values: ArrayLike, prior: Array | None = None, design: Design = SPLIT
) -> tuple[float, int | None]:
    """Return the probability that the best cell is better than another by at most `MARGIN`.

    The values are their differences, as in `estimate_difference`; the prior of their mean is flat.
    With it comes how many images would make it `SURE` if the difference stayed the same; None if
    no number would.

    >>> probability_good_enough([[0, 1, -1, 0, 1, -1, 0, 0]])  # doctest: +ELLIPSIS
    (0.513..., 12156)
    """
    values = np.asarray(values, dtype=float)
    error = error_distribution(components(values, design, 0.25), prior)
    margin = MARGIN - float(values.mean())
    needed = _images_needed(lambda times: error.above(margin, times) + SURE - 1, values)
    return 1 - error.above(margin), needed


def _images_needed(excess: Callable[[float], float], values: Array) -> int | None:
    """Return how many images it takes until a probability, at so many times as many, is low."""
    most = 40.0
    if excess(math.exp(most)) >= 0:
        return None
    times = optimize.brentq(lambda log_times: excess(math.exp(log_times)), -most, most)
    return math.ceil(values.shape[1] * math.exp(times))


def estimate_mean_of_replicates(values: ArrayLike, prior: Array | None = None) -> Estimate:
    """Estimate the mean of values of shape (replicates, images) over other replicates, same images.

    Its interval is not known from a single replicate.

    >>> estimate = estimate_mean_of_replicates([[0.0, 2.0], [1.0, 3.0], [3.0, 3.0]])
    >>> round(estimate.low, 2), round(estimate.high, 2)
    (-0.48, 4.48)
    """
    values = np.asarray(values, dtype=float)
    mean, parts = float(values.mean()), components(values)
    if len(values) == 1:
        return Estimate(mean)
    half = error_distribution(replace(parts, of_images=parts.interaction), prior).half_width
    return Estimate(mean, mean - half, mean + half)


def estimate_log_ratio(
    numerator: Sequence[ArrayLike], denominator: Sequence[ArrayLike]
) -> Estimate:
    """Estimate the logarithm of a ratio of times, each a sum of the means of some cells.

    Numerator and denominator have for each cell the seconds of its replicates, two or more. The
    interval is Student's by the delta method, with Satterthwaite's degrees of freedom.
    """
    value, sources = 0.0, []
    for sign, cells in ((1, numerator), (-1, denominator)):
        seconds = [np.asarray(cell, dtype=float) for cell in cells]
        total = sum(float(np.mean(cell)) for cell in seconds)
        value += sign * math.log(total)
        sources += [(float(stats.sem(cell)) / total, len(cell) - 1) for cell in seconds]
    variance = sum(error**2 for error, _ in sources)
    spread = sum(error**4 / freedom for error, freedom in sources)
    quantile = stats.t.ppf((1 + LEVEL) / 2, variance**2 / spread) if spread > 0 else 0.0
    half = float(quantile * math.sqrt(variance))
    return Estimate(value, value - half, value + half)


def reliability(
    confidence: ArrayLike, correct: ArrayLike
) -> tuple[list[tuple[float, float, int]], float]:
    """Compare the predicted class's probability with the accuracy, both of shape (predictions,).

    Return for each of `BINS` bins of equal width that is not empty the mean confidence, the
    accuracy and the number of predictions; and the expected calibration error, the mean distance
    between the first two: C. Guo et al., ICML 2017, equation 3.

    >>> rows, error = reliability([0.9, 0.9, 0.6, 0.6], [True, True, True, False])
    >>> round(error, 3)
    0.1
    """
    place = np.clip(np.ceil(np.asarray(confidence) * BINS).astype(int) - 1, 0, BINS - 1)
    _, place, counts = np.unique(place, return_inverse=True, return_counts=True)
    means = [
        np.bincount(place, np.asarray(of, dtype=float)) / counts for of in (confidence, correct)
    ]
    error = float(counts @ np.abs(means[0] - means[1])) / len(place)
    return list(zip(*means, counts, strict=True)), error
