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
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from headswap.compare.variance import (
    LEVEL,
    Array,
    ErrorDistribution,
    components,
    error_distribution,
)

BINS = 10
"""Of confidence, between 0 and 1 (see `reliability`)."""


@dataclass(frozen=True)
class Estimate:
    """An estimate and its 95 % interval, NaN where it is not known.

    `images_needed` would make the interval exclude zero if the estimate stayed the same; None if no
    number would, because the replicates vary too much or the estimate is zero. `p_value` is the
    probability of an estimate at least as far from zero if the true value is zero.
    """

    value: float
    low: float
    high: float
    images_needed: int | None = None
    p_value: float = math.nan

    @property
    def sign(self) -> int:
        """1 or -1 if the interval lies above or below zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def estimate_accuracy(correct: ArrayLike, prior: Array | None = None) -> Estimate:
    """Estimate a cell's accuracy from correct predictions of shape (replicates, images).

    Its interval is Wilson's [1]_ for the effective number of images: as many independent images as
    would give the same variance. It stays within 0 and 1, and has a width even where every
    prediction is correct.

    References
    ----------
    .. [1] E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
       JASA 22 (1927); with an effective number of images as in E. L. Korn and B. I. Graubard,
       Survey Methodology 24 (1998).

    Examples
    --------
    >>> round(estimate_accuracy([[True] * 153] * 5).low, 3)
    0.975
    """
    values = np.asarray(correct, dtype=float)
    return _wilson(
        float(values.mean()), error_distribution(components(values), prior), values.shape
    )


def _wilson(mean: float, error: ErrorDistribution, shape: tuple[int, ...]) -> Estimate:
    replicates, images = shape
    binomial, square = mean * (1 - mean), error.quantile**2
    ratio = square / images
    if error.half_width > 0:
        ratio = max(error.half_width**2 / binomial, square / (replicates * images))
    middle = (mean + ratio / 2) / (1 + ratio)
    half = math.sqrt(ratio * binomial + ratio**2 / 4) / (1 + ratio)
    return Estimate(mean, max(0.0, middle - half), min(1.0, middle + half))


def estimate_balanced_accuracy(
    correct: ArrayLike, labels: ArrayLike, prior: Array | None = None
) -> Estimate:
    """Estimate a cell's balanced accuracy, the mean of its recalls of the classes.

    Correct predictions have shape (replicates, images), labels (images,). The interval combines
    those of the recalls (see `estimate_accuracy`), each for other images of its class, as
    independent ones [1]_; the replicates' part of the squared half width is added. It is not known
    where a class has a single image.

    References
    ----------
    .. [1] G. Y. Zou and A. Donner, "Construction of confidence limits about effect measures",
       Statistics in Medicine 27 (2008), equation 3.

    Examples
    --------
    >>> correct = [[True, True, True, False, False]]
    >>> estimate_balanced_accuracy(correct, ["a", "a", "a", "b", "b"]).value
    0.5
    """
    values = np.asarray(correct, dtype=float)
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    recalls = [values[:, classes == number] for number in range(len(counts))]
    by_replicate = np.mean([recall.mean(axis=1) for recall in recalls], axis=0)
    mean, replicates = float(by_replicate.mean()), len(values)
    if min(recall.shape[1] for recall in recalls) < 2:
        return Estimate(mean, math.nan, math.nan)
    parts = [components(recall) for recall in recalls]
    of_images, interaction = (
        sum(getattr(part, source) for part in parts) / len(parts) ** 2
        for source in ("of_images", "interaction")
    )
    shares = counts[classes] / len(classes)
    balanced = components(values / (len(parts) * shares))
    # As in other cells' prior, what a replicate adds to one class alone is part of the interaction.
    error = error_distribution(
        replace(balanced, of_images=max(0.0, of_images - interaction) + balanced.interaction)
        if replicates > 1
        else replace(balanced, of_images=of_images),
        prior,
    )
    for_images = [
        _wilson(
            float(recall.mean()),
            ErrorDistribution(part.of_images, np.zeros(1), np.ones(1), part.images - 1),
            recall.shape,
        )
        for recall, part in zip(recalls, parts, strict=True)
    ]
    of_replicates = max(0.0, error.half_width**2 - error.quantile**2 * of_images)
    below = sum((recall.value - recall.low) ** 2 for recall in for_images) / len(parts) ** 2
    above = sum((recall.high - recall.value) ** 2 for recall in for_images) / len(parts) ** 2
    low, high = mean - math.sqrt(below + of_replicates), mean + math.sqrt(above + of_replicates)
    return Estimate(mean, max(0.0, low), min(1.0, high))


def estimate_difference(
    values: ArrayLike, prior: Array | None = None, *, largest: float = 1.0
) -> Estimate:
    """Estimate the mean of differences, paired by image and seed, of shape (replicates, images).

    Its interval is limited to ± `largest`, the largest possible difference on one image. A
    pseudo-observation enters its width: one more image, with a difference of half of `largest`. So
    cells that never differed, or only a few times and always in the same direction, keep an
    interval of some width [1]_.

    References
    ----------
    .. [1] After A. Agresti and Y. Min, "Simple improved confidence intervals for comparing matched
       proportions", Statistics in Medicine 24 (2005), who add four times as much.

    Examples
    --------
    >>> estimate_difference([[1, 0, 0, 0], [1, 0, 0, 0]]).sign
    0
    """
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    error = error_distribution(components(values, (largest / 2) ** 2), prior)
    return Estimate(
        mean,
        max(-largest, mean - error.half_width),
        min(largest, mean + error.half_width),
        _images_needed(abs(mean), error, values.shape[1]),
        error.exceeds(abs(mean)),
    )


def _images_needed(distance: float, error: ErrorDistribution, images: int) -> int | None:
    def excess(log_times: float) -> float:
        return error.exceeds(distance, math.exp(log_times)) + LEVEL - 1

    most = 40.0
    if excess(most) >= 0:
        return None
    return math.ceil(images * math.exp(optimize.brentq(excess, -most, most)))


def estimate_mean_of_replicates(values: ArrayLike, prior: Array | None = None) -> Estimate:
    """Estimate the mean of values of shape (replicates, images) over other replicates, same images.

    Its interval is not known from a single replicate.

    Examples
    --------
    >>> estimate = estimate_mean_of_replicates([[0.0, 2.0], [1.0, 3.0], [3.0, 3.0]])
    >>> round(estimate.low, 2), round(estimate.high, 2)
    (-0.48, 4.48)
    """
    values = np.asarray(values, dtype=float)
    mean, half = float(values.mean()), math.nan
    if len(values) > 1:
        parts = components(values)
        error = error_distribution(replace(parts, of_images=parts.interaction), prior)
        half = error.half_width
    return Estimate(mean, mean - half, mean + half)


def estimate_log_ratio(
    numerator: Sequence[ArrayLike], denominator: Sequence[ArrayLike]
) -> Estimate:
    """Estimate the logarithm of a ratio of times, each a sum of the means of some cells.

    Numerator and denominator have for each cell the seconds of its replicates, two or more. The
    interval is Student's by the delta method, with degrees of freedom as in `error_distribution`.

    Examples
    --------
    >>> estimate_log_ratio([[20, 21], [9, 10]], [[10, 11]]).sign
    1
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
    between the first two [1]_.

    References
    ----------
    .. [1] C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.

    Examples
    --------
    >>> rows, error = reliability([0.9, 0.9, 0.6, 0.6], [True, True, True, False])
    >>> round(error, 3)
    0.1
    """
    confidence, correct = np.asarray(confidence), np.asarray(correct, dtype=float)
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    rows = []
    for number in np.unique(place):
        here = place == number
        rows.append((float(confidence[here].mean()), float(correct[here].mean()), int(here.sum())))
    error = sum(count * abs(mean - accurate) for mean, accurate, count in rows) / len(correct)
    return rows, error
