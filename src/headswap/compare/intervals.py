"""Intervals for accuracies, differences and ratios, over other images and other replicates.

All replicates are evaluated on the same validation images, so an estimate has three sources of
variance: the sample of images, the sample of seeds, and their interaction. Each variance component
is estimated, and counted once [1]_. The usual bootstrap over images and replicates counts the
interaction three times [2]_, and five replicates stay five; `benchmarks/COVERAGE.md` compares both.

References
----------
.. [1] B. D. Gallas et al., "A framework for random-effects ROC analysis: biases with the bootstrap
   and other variance estimators", Communications in Statistics 38 (2009).
.. [2] A. B. Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1 (2007).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """An estimate and its interval, which covers the true value in 95 of 100 experiments.

    Attributes
    ----------
    value, low, high
        The estimate and its interval; NaN where it is not known.
    images_needed
        With how many images the interval would exclude zero if the estimate stayed the same. None
        if no number would suffice, because the replicates vary too much or the estimate is zero.
    """

    value: float
    low: float
    high: float
    images_needed: int | None = None

    @property
    def sign(self) -> int:
        """1 or -1 if the interval lies above or below zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def accuracy(correct: ArrayLike) -> Estimate:
    """Estimate a cell's accuracy.

    Parameters
    ----------
    correct
        Shape (replicates, images): whether a replicate classified an image correctly.

    Returns
    -------
    Estimate
        With Wilson's interval [1]_ for the effective number of images: as many independent images
        as would give the same variance. It stays within 0 and 1, and has a width even where every
        prediction is correct.

    References
    ----------
    .. [1] E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
       JASA 22 (1927); with an effective number of images as in E. L. Korn and B. I. Graubard,
       Survey Methodology 24 (1998).

    Examples
    --------
    >>> round(accuracy([[True] * 153] * 5).low, 3)
    0.975
    """
    values = np.asarray(correct, dtype=float)
    mean = float(values.mean())
    of_images, of_replicates, quantile = variance_components(values)
    variance, binomial = of_images + of_replicates, mean * (1 - mean)
    effective = min(binomial / variance, values.size) if variance > 0 else values.shape[1]
    ratio = quantile**2 / effective
    middle = (mean + ratio / 2) / (1 + ratio)
    half = math.sqrt(ratio * binomial + ratio**2 / 4) / (1 + ratio)
    return Estimate(mean, max(0.0, middle - half), min(1.0, middle + half))


def balanced_accuracy(correct: ArrayLike, labels: ArrayLike) -> Estimate:
    """Estimate a cell's balanced accuracy, the mean of its recalls of the classes.

    Parameters
    ----------
    correct
        Shape (replicates, images): whether a replicate classified an image correctly.
    labels
        Shape (images,): the images' classes, by which they are stratified.

    Returns
    -------
    Estimate
        Its interval combines those of the recalls (see `accuracy`), each for other images of its
        class and other replicates, as independent ones [1]_; what the recalls of a replicate have
        in common is added. It is not known where a class has a single image.

    References
    ----------
    .. [1] G. Y. Zou and A. Donner, "Construction of confidence limits about effect measures",
       Statistics in Medicine 27 (2008), equation 3.

    Examples
    --------
    >>> balanced_accuracy([[True, True, True, False, False]], ["a", "a", "a", "b", "b"]).value
    0.5
    """
    values, classes = np.asarray(correct, dtype=float), np.asarray(labels)
    parts = [values[:, classes == label] for label in np.unique(classes)]
    by_replicate = np.array([part.mean(axis=1) for part in parts])
    mean, replicates = float(by_replicate.mean()), len(values)
    if min(part.shape[1] for part in parts) < 2:
        return Estimate(mean, math.nan, math.nan)
    recalls, shared = [accuracy(part) for part in parts], 0.0
    if replicates > 1:
        covariance = np.atleast_2d(np.cov(by_replicate))
        quantile = stats.t.ppf((1 + LEVEL) / 2, replicates - 1)
        shared = max(0.0, quantile**2 * float(covariance.sum() - covariance.trace()) / replicates)
    below = sum((recall.value - recall.low) ** 2 for recall in recalls) + shared
    above = sum((recall.high - recall.value) ** 2 for recall in recalls) + shared
    low, high = mean - math.sqrt(below) / len(parts), mean + math.sqrt(above) / len(parts)
    return Estimate(mean, max(0.0, low), min(1.0, high))


def contrast(values: ArrayLike, largest: float = 1.0) -> Estimate:
    """Estimate the mean of a difference that is paired by image and seed.

    Parameters
    ----------
    values
        Shape (replicates, images): for instance one cell's correct predictions minus another's.
    largest
        The largest possible difference on one image: 1 for one cell minus another.

    Returns
    -------
    Estimate
        With Student's interval, limited to ± `largest`, and Satterthwaite's degrees of freedom
        [1]_. A pseudo-observation enters its width: one more image, with a difference of half of
        `largest`. So cells that never differed, or only a few times and always in the same
        direction, keep an interval of some width [2]_.

    References
    ----------
    .. [1] F. E. Satterthwaite, "An approximate distribution of estimates of variance components",
       Biometrics Bulletin 2 (1946).
    .. [2] After A. Agresti and Y. Min, "Simple improved confidence intervals for comparing matched
       proportions", Statistics in Medicine 24 (2005), who add four times as much.

    Examples
    --------
    >>> contrast([[1, 0, 0, 0], [1, 0, 0, 0]]).sign
    0
    """
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    of_images, of_replicates, quantile = variance_components(values, (largest / 2) ** 2)
    half = quantile * math.sqrt(of_images + of_replicates)
    allowed = mean**2 - quantile**2 * of_replicates  # what the images may add to half squared
    needed = values.shape[1] * quantile**2 * of_images / allowed if allowed > 0 else math.inf
    return Estimate(
        mean,
        max(-largest, mean - half),
        min(largest, mean + half),
        math.ceil(needed) if math.isfinite(needed) else None,
    )


def mean_of_replicates(values: ArrayLike) -> Estimate:
    """Estimate the mean of a figure over other replicates on the same images.

    Parameters
    ----------
    values
        Shape (replicates,).

    Returns
    -------
    Estimate
        With Student's interval, which is not known from a single replicate.

    Examples
    --------
    >>> estimate = mean_of_replicates([1.0, 2.0, 3.0])
    >>> round(estimate.low, 2), round(estimate.high, 2)
    (-0.48, 4.48)
    """
    values = np.asarray(values, dtype=float)
    mean, half = float(values.mean()), math.nan
    if len(values) > 1:
        half = float(stats.sem(values) * stats.t.ppf((1 + LEVEL) / 2, len(values) - 1))
    return Estimate(mean, mean - half, mean + half)


def log_ratio(numerator: Sequence[ArrayLike], denominator: Sequence[ArrayLike]) -> Estimate:
    """Estimate the logarithm of a ratio of times, each a sum of the means of some cells.

    Parameters
    ----------
    numerator, denominator
        For each cell the seconds of its replicates, two or more: shape (replicates,).

    Returns
    -------
    Estimate
        With Student's interval by the delta method; degrees of freedom as in `contrast`.

    Examples
    --------
    >>> log_ratio([[20, 21], [9, 10]], [[10, 11]]).sign
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
    confidence: ArrayLike, correct: ArrayLike, bins: int = 10
) -> tuple[list[tuple[float, float, int]], float]:
    """Compare the confidence of predictions with their accuracy.

    Parameters
    ----------
    confidence
        Shape (predictions,): the probability of the predicted class.
    correct
        Shape (predictions,): whether the prediction was correct.
    bins
        Of equal width between 0 and 1; empty ones are left out.

    Returns
    -------
    rows : list of tuple of (float, float, int)
        For each bin the mean confidence, the accuracy, and the number of predictions.
    error : float
        The expected calibration error [1]_: the mean distance between the first two.

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
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    rows = []
    for number in np.unique(place):
        here = place == number
        rows.append((float(confidence[here].mean()), float(correct[here].mean()), int(here.sum())))
    error = sum(count * abs(mean - accurate) for mean, accurate, count in rows) / len(correct)
    return rows, error


def variance_components(
    values: NDArray[np.float64], pseudo_square: float = 0.0
) -> tuple[float, float, float]:
    """Estimate the variance of a mean over images and replicates by its components.

    Parameters
    ----------
    values
        Shape (replicates, images).
    pseudo_square
        Added to the sum of squares over images: the square of a pseudo-observation.

    Returns
    -------
    of_images : float
        The variance due to the images, including the interaction of images and replicates.
    of_replicates : float
        The variance due to the replicates, without the interaction, which is counted already.
    quantile : float
        Student's. Its degrees of freedom follow from the replicates' variance before the
        interaction is subtracted; otherwise a few replicates that agree by chance would count as
        many.
    """
    replicates, images = values.shape
    by_image, by_replicate = values.mean(axis=0), values.mean(axis=1)
    of_images = (by_image.var() * images + pseudo_square) / (images - 1) / images
    of_replicates, freedom = 0.0, images - 1
    if replicates > 1:
        residuals = values - by_image - by_replicate[:, None] + values.mean()
        interaction = (residuals**2).sum() / ((replicates - 1) * (images - 1)) / values.size
        total = max(by_replicate.var(ddof=1) / replicates, interaction)
        of_replicates, variance = total - interaction, of_images + total - interaction
        if variance > 0:
            by_both = of_images**2 / (images - 1) + total**2 / (replicates - 1)
            freedom = max(variance**2 / by_both, replicates - 1)
    quantile = stats.t.ppf((1 + LEVEL) / 2, freedom)
    return float(of_images), float(of_replicates), float(quantile)
