"""Intervals: how far a figure could be off, for other images and other replicates."""

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95


def resampled_means(hits, resamples=RESAMPLES, seed=0):
    """Resample images and replicates with replacement, and take the mean of each resample.

    Both are resampled because both are samples: of the photographs one could have taken, and of
    the runs one could have made [1]_. The draw of images depends on their number alone, so that
    it is the same for every cell, and differences between cells are paired.

    Parameters
    ----------
    hits : array_like of bool, shape (replicates, images)
        Whether a replicate got an image right.
    resamples : int
        How many means to take.
    seed : int
        Where the random numbers start.

    Returns
    -------
    numpy.ndarray
        Shape (resamples,), between 0 and 1.

    References
    ----------
    .. [1] A. B. Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1 (2007).

    Examples
    --------
    >>> resampled_means([[True, True], [True, True]], resamples=3)
    array([1., 1., 1.])
    """
    hits = np.asarray(hits, dtype=float)
    replicates, images = hits.shape
    of_images = _weights(images, resamples, [seed, 0])
    of_replicates = _weights(replicates, resamples, [seed, 1])
    return np.einsum("br,rb->b", of_replicates, hits @ of_images.T)


def _weights(count, resamples, seed):
    """Return how often each of `count` things is drawn, as shares; shape (resamples, count)."""
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)
    return draws / count


def interval(means, level=LEVEL):
    """Return the percentile interval of resampled means, (low, high)."""
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
