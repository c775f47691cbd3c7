"""How sure one can be of an accuracy, and of a difference, for other images and other runs.

Every replicate sees the same validation images, so a figure's uncertainty has three sources: which
images were photographed, which seeds were drawn, and what is left of each pair of the two. Each is
estimated and counted once [1]_. The usual bootstrap over both counts the third three times [2]_ and
knows no more of five replicates than five numbers tell; `benchmarks/COVERAGE.md` compares them.

References
----------
.. [1] B. D. Gallas et al., "A framework for random-effects ROC analysis: biases with the bootstrap
   and other variance estimators", Communications in Statistics 38 (2009).
.. [2] A. B. Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1 (2007).
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure and the interval that covers its true value in 95 of 100 experiments.

    Attributes
    ----------
    value, low, high : float
    images_needed : int or None
        With how many images the interval would leave out zero, were the figure what it is: None
        if no number would do, because the replicates alone differ too much, or it is zero.
    """

    value: float
    low: float
    high: float
    images_needed: int | None = None

    @property
    def sign(self):
        """1 or -1 if the whole interval lies above or below zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def accuracy(correct):
    """Estimate a cell's accuracy.

    Parameters
    ----------
    hits : array_like of bool, shape (replicates, images)
        Whether a replicate got an image right.

    Returns
    -------
    Estimate
        With Wilson's interval [1]_ for as many independent images as would be worth as much, which
        stays within 0 and 1 and tells something even of a cell without an error.

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
    correct = np.asarray(correct, dtype=float)
    mean = float(correct.mean())
    of_images, of_replicates, quantile = variance_components(correct)
    variance, binomial = of_images + of_replicates, mean * (1 - mean)
    worth = min(binomial / variance, correct.size) if variance > 0 else correct.shape[1]
    share = quantile**2 / worth
    middle = (mean + share / 2) / (1 + share)
    half = math.sqrt(share * binomial + share**2 / 4) / (1 + share)
    return Estimate(mean, max(0.0, middle - half), min(1.0, middle + half))


def contrast(values, most=1.0):
    """Estimate the mean of a difference, which is paired: image by image, seed by seed.

    Parameters
    ----------
    values : array_like, shape (replicates, images)
        For instance one cell's hits minus another's.
    most : float
        What an image can count at the most: 1 for one cell against another.

    Returns
    -------
    Estimate
        With Student's interval, its degrees of freedom by Satterthwaite's rule [1]_, as far as it
        lies within `most`. Its width is that of one image more, on which they differed by half of
        `most`: so cells that never differed, or a few times and always one way, are not taken for
        known without doubt [2]_.

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
    of_images, of_replicates, quantile = variance_components(values, unseen=(most / 2) ** 2)
    half = quantile * math.sqrt(of_images + of_replicates)
    room = mean**2 - quantile**2 * of_replicates  # what the images' share may be at the most
    needed = values.shape[1] * quantile**2 * of_images / room if room > 0 else math.inf
    needed = math.ceil(needed) if math.isfinite(needed) else None
    return Estimate(mean, max(-most, mean - half), min(most, mean + half), needed)


def log_ratio(over, under):
    """Estimate the logarithm of a ratio of times, each a sum of cells' means.

    Parameters
    ----------
    over, under : list of array_like, shape (replicates,)
        Of each cell above and below the line the seconds of its replicates, two or more.

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
    for side, cells in ((1, over), (-1, under)):
        total = sum(np.mean(cell) for cell in cells)
        value += side * math.log(total)
        sources += [(stats.sem(cell) / total, len(cell) - 1) for cell in cells]
    variance = sum(error**2 for error, _ in sources)
    spread = sum(error**4 / freedom for error, freedom in sources)
    quantile = stats.t.ppf((1 + LEVEL) / 2, variance**2 / spread) if spread > 0 else 0.0
    half = float(quantile * math.sqrt(variance))
    return Estimate(value, value - half, value + half)


def reliability(confidence, correct, bins=10):
    """Compare how sure predictions were with how often they were right.

    Parameters
    ----------
    confidence : array_like, shape (predictions,)
        The probability given to the predicted class.
    hits : array_like of bool, shape (predictions,)
        Whether it was the right one.
    bins : int
        Of equal width between 0 and 1; empty ones are left out.

    Returns
    -------
    rows : list of tuple of (float, float, int)
        Of each bin the mean confidence, the share of hits, and the number of predictions.
    error : float
        The expected calibration error [1]_: the bins' mean distance between the first two.

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
    error = sum(count * abs(sure - right) for sure, right, count in rows) / len(correct)
    return rows, error


def variance_components(values, unseen=0.0):
    """Return the variance of a mean due to images and to replicates, and Student's quantile.

    What is left of each pair of image and replicate is in the first, and so is taken out of the
    second; but the degrees of freedom are those of what the replicates showed before, or a few
    replicates that happen to agree would be believed as if they were many. `unseen` is added to
    the sum of squares over images.
    """
    replicates, images = values.shape
    by_image, by_replicate = values.mean(axis=0), values.mean(axis=1)
    of_images = (by_image.var() * images + unseen) / (images - 1) / images
    of_replicates, freedom = 0.0, images - 1
    if replicates > 1:
        left = values - by_image - by_replicate[:, None] + values.mean()
        of_pairs = (left**2).sum() / ((replicates - 1) * (images - 1)) / values.size
        shown = max(by_replicate.var(ddof=1) / replicates, of_pairs)
        of_replicates, variance = shown - of_pairs, of_images + shown - of_pairs
        if variance > 0:
            by_both = of_images**2 / (images - 1) + shown**2 / (replicates - 1)
            freedom = max(variance**2 / by_both, replicates - 1)
    quantile = stats.t.ppf((1 + LEVEL) / 2, freedom)
    return float(of_images), float(of_replicates), float(quantile)
