"""The error of a mean over images and replicates, with what all cells say about the replicates.

A few replicates say little about how much others would vary: with two, Student's quantile is 12.7.
But cells are alike. The mean square of a cell's replicates, divided by that of the interaction of
images and replicates, does not depend on how accurate the cell is; its distribution over the cells
is estimated, and is the prior of each cell's own: an empirical-Bayes, moderated variance [1]_.

Two constants make it cautious where a cell differs from the others, `VAGUE` and `CAUTION`; both
were chosen on the experiments of `benchmarks/COVERAGE.md`.

References
----------
.. [1] After G. K. Smyth, "Linear models and empirical Bayes methods for assessing differential
   expression in microarray experiments", Statistical Applications in Genetics 3 (2004); but with a
   log-normal prior, integrated over its parameters.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

LEVEL = 0.95
VAGUE = 0.2
"""The share of the prior that the other cells say nothing about: uniform over `RATIOS`."""
CAUTION = 0.25
"""The power of the ratio of mean squares by which larger ones are given more weight."""
RATIOS = np.array([0.0, *np.geomspace(0.03, 300, 45)])
"""Ratios of the replicates' variance to that of the interaction, for which a prior has weights."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Components:
    """The variance of a mean over images and replicates, by its sources; NaN if not known."""

    of_images: float  # the images', including the interaction of images and replicates
    interaction: float  # that of the interaction alone
    of_replicates: float  # the replicates', including the interaction
    replicates: int
    images: int


@dataclass(frozen=True)
class ErrorDistribution:
    """The distribution of a mean's error: a mixture of Student's distributions."""

    of_images: float
    of_replicates: Array  # possible variances due to the replicates, without the interaction
    weights: Array  # how probable each of these is
    freedom: float  # degrees of freedom

    @property
    def quantile(self) -> float:
        """Student's quantile for `LEVEL` and the degrees of freedom."""
        return float(stats.t.ppf((1 + LEVEL) / 2, self.freedom))

    def exceeds(self, distance: float, images: float = 1.0) -> float:
        """Return the probability that the error is larger, with so many times as many images."""
        scale = np.sqrt(self.of_images / images + self.of_replicates)
        standardized = np.divide(distance, scale, out=np.full(len(scale), np.inf), where=scale > 0)
        return float(2 * self.weights @ special.stdtr(self.freedom, -standardized))

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        largest = self.quantile * float(np.sqrt(self.of_images + self.of_replicates.max()))
        if len(self.weights) == 1 or largest == 0:
            return largest
        return float(optimize.brentq(lambda half: self.exceeds(half) + LEVEL - 1, 0, largest))


def components(values: ArrayLike, pseudo_square: float = 0.0) -> Components:
    """Estimate the variance of the mean of values of shape (replicates, images) by its sources.

    `pseudo_square`, the square of a pseudo-observation, is added to the sum of squares over images.
    """
    values = np.asarray(values, dtype=float)
    replicates, images = values.shape
    by_image, by_replicate = values.mean(axis=0), values.mean(axis=1)
    of_images = float(by_image.var() * images + pseudo_square) / (images - 1) / images
    if replicates == 1:
        return Components(of_images, np.nan, np.nan, 1, images)
    residuals = values - by_image - by_replicate[:, None] + values.mean()
    interaction = float((residuals**2).sum()) / ((replicates - 1) * (images - 1)) / values.size
    of_replicates = float(by_replicate.var(ddof=1)) / replicates
    return Components(of_images, interaction, of_replicates, replicates, images)


def replicate_prior(experiments: Iterable[ArrayLike]) -> Array | None:
    """Estimate how the replicates' variance is distributed over cells.

    Return the probability of each of `RATIOS`. Each cell's values have shape (replicates, images);
    those with a single replicate or without an interaction say nothing. None if no cell does.
    """
    table = _log_normal_weights()
    log_evidence = np.zeros(table.shape[:-1])
    all_parts = [parts for parts in map(components, experiments) if parts.interaction > 0]
    if not all_parts:
        return None
    for parts in all_parts:
        log_evidence += np.log(np.maximum(table @ _likelihood(parts), np.finfo(float).tiny))
    evidence = np.exp(log_evidence - log_evidence.max())
    of_others = np.tensordot(evidence / evidence.sum(), table, axes=2)
    prior = ((1 - VAGUE) * of_others + VAGUE / len(RATIOS)) * (1 + RATIOS) ** CAUTION
    return np.asarray(prior / prior.sum())


def error_distribution(parts: Components, prior: Array | None = None) -> ErrorDistribution:
    """Return the distribution of a mean's error.

    Without a prior (from `replicate_prior`), or if the ratio of mean squares is beyond all
    `RATIOS`, the values stand alone: Student's distribution, with Satterthwaite's degrees of
    freedom [1]_. They follow from the replicates' variance before the interaction is subtracted;
    otherwise a few replicates that agree by chance would count as many.

    References
    ----------
    .. [1] F. E. Satterthwaite, "An approximate distribution of estimates of variance components",
       Biometrics Bulletin 2 (1946).
    """
    freedom, one = parts.images - 1.0, np.ones(1)
    if parts.replicates == 1:
        return ErrorDistribution(parts.of_images, 0 * one, one, freedom)
    in_range = parts.of_replicates < RATIOS[-1] * parts.interaction
    if prior is not None and in_range:
        weights = prior * _likelihood(parts)
        of_replicates = RATIOS * parts.interaction
        return ErrorDistribution(parts.of_images, of_replicates, weights / weights.sum(), freedom)
    total = max(parts.of_replicates, parts.interaction)
    variance = parts.of_images + total - parts.interaction
    if variance > 0:
        by_both = parts.of_images**2 / freedom + total**2 / (parts.replicates - 1)
        freedom = max(variance**2 / by_both, parts.replicates - 1)
    return ErrorDistribution(parts.of_images, one * (total - parts.interaction), one, freedom)


def _likelihood(parts: Components) -> Array:
    """Return the density of the replicates' mean square for each of `RATIOS`, up to a factor."""
    expected, freedom = 1 + RATIOS, parts.replicates - 1
    ratio = parts.of_replicates / parts.interaction
    # The factor keeps the largest at 1, however large the ratio of mean squares is.
    log_density = -freedom / 2 * (np.log(expected) + ratio / expected)
    return np.asarray(np.exp(log_density - log_density.max()))


@functools.cache
def _log_normal_weights() -> Array:
    """Return the weights of `RATIOS`, shape (medians, widths, ratios), of log-normal priors."""
    medians, widths = np.geomspace(0.03, 100, 22), np.array([0.2, 0.5, 1, 1.5, 2.2, 3, 4.5])
    edges = np.sqrt(RATIOS[1:-1] * RATIOS[2:])
    edges = np.log([RATIOS[1] ** 2 / edges[0], *edges])
    below = special.ndtr((edges - np.log(medians)[:, None, None]) / widths[:, None])
    ends = np.zeros((*below.shape[:2], 1))
    return np.diff(np.concatenate([ends, below, ends + 1], axis=-1), axis=-1)
