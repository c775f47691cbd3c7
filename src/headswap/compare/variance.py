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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Self

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
class Design:
    """How the images were sampled, and which runs predicted them.

    ``groups`` has the number of each image's group, where images are not independent; with
    ``folds`` each replicate is a cross-validation of its own.
    """

    groups: NDArray[np.intp] | None = None
    folds: int = 0

    def only(self, images: NDArray[np.bool_]) -> Self:
        """Return the design of some of the images."""
        if self.groups is None:
            return self
        return replace(self, groups=np.unique(self.groups[images], return_inverse=True)[1])

    def units(self, images: int) -> int:
        """Return the number of independent units that so many images are."""
        return images if self.groups is None else int(self.groups.max()) + 1


SPLIT = Design()


@dataclass(frozen=True)
class Components:
    """The variance of a mean over images and replicates, by its sources; NaN if not known."""

    of_images: float  # the images', including the interaction of images and replicates
    interaction: float  # that of the interaction alone
    of_replicates: float  # the replicates', including the interaction
    replicates: int
    units: int  # independent ones: images, or groups
    freedom: float  # degrees of freedom of the images' variance


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

    def above(self, distance: float, images: float = 1.0) -> float:
        """Return the probability of an error above a distance, with so many times the images."""
        scale = np.sqrt(self.of_images / images + self.of_replicates)
        infinite = np.full(len(scale), np.copysign(np.inf, distance))
        standardized = np.divide(distance, scale, out=infinite, where=scale > 0)
        return float(self.weights @ special.stdtr(self.freedom, -standardized))

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        largest = self.quantile * float(np.sqrt(self.of_images + self.of_replicates.max()))
        if len(self.weights) == 1 or largest == 0:
            return largest
        return float(optimize.brentq(lambda half: 2 * self.above(half) + LEVEL - 1, 0, largest))


def components(values: ArrayLike, design: Design = SPLIT, pseudo_square: float = 0.0) -> Components:
    """Estimate the variance of the mean of values of shape (replicates, images) by its sources.

    `pseudo_square`, the square of a pseudo-observation, is added to the sum of squares over images;
    with groups, that of one more group of the mean size, as correlated as the others.
    Groups are the units in place of images: their scores, of the ratio estimator with the leverage
    correction CR2 (R. M. Bell and D. F. McCaffrey, Survey Methodology 28, 2002), are crossed with
    the replicates. With folds the variance over images is that of one cross-validation, since the
    interaction of all its models and images stays one.
    """
    values = np.asarray(values, dtype=float)
    freedom, correction = values.shape[1] - 1.0, 1.0
    if design.groups is not None:
        sizes = np.bincount(design.groups)
        correlation = _correlation(values.mean(axis=0), design.groups, sizes)
        # Satterthwaite: groups of equal size that would tell the variance as well.
        shares = sizes * (1 + (sizes - 1) * correlation)
        freedom = max(1.0, float(shares.sum() ** 2 / (shares**2).sum()) - 1)
        pseudo_square *= (1 + (sizes.mean() - 1) * correlation) / sizes.mean()
        sums = np.array([np.bincount(design.groups, of_replicate) for of_replicate in values])
        scale = len(sizes) / len(design.groups) / np.sqrt(1 - sizes / len(design.groups))
        # The mean of these scores varies as that of the values.
        values = np.asarray((sums - sizes * values.mean()) * scale)
        correction = 1 - 1 / len(sizes)
    replicates, units = values.shape
    by_unit, by_replicate = values.mean(axis=0), values.mean(axis=1)
    of_images = correction * float(by_unit.var() * units + pseudo_square) / (units - 1) / units
    if replicates == 1:
        more = design.folds / (design.folds - 1) if design.folds else 1.0
        return Components(more * of_images, np.nan, np.nan, 1, units, freedom)
    residuals = values - by_unit - by_replicate[:, None] + values.mean()
    interaction = float((residuals**2).sum()) / ((replicates - 1) * (units - 1)) / values.size
    interaction *= correction
    of_replicates = float(by_replicate.var(ddof=1)) / replicates
    if design.folds:
        of_images += (replicates - 1) * interaction
    return Components(of_images, interaction, of_replicates, replicates, units, freedom)


def _correlation(by_image: Array, groups: NDArray[np.intp], sizes: NDArray[np.intp]) -> float:
    """Return the intraclass correlation of the analysis of variance, 1 if nothing varies."""
    images, count = len(groups), len(sizes)
    means = np.bincount(groups, by_image) / sizes
    between = float((sizes * (means - by_image.mean()) ** 2).sum()) / (count - 1)
    within = float(((by_image - means[groups]) ** 2).sum()) / max(1, images - count)
    more = (images - float((sizes**2).sum()) / images) / (count - 1) - 1
    total = between + more * within
    return min(1.0, max(0.0, (between - within) / total)) if total > 0 else 1.0


def replicate_prior(experiments: Iterable[ArrayLike], design: Design = SPLIT) -> Array | None:
    """Return the probability of each of `RATIOS`, as the cells show it; None if they do not.

    Each cell's values have shape (replicates, images).
    """
    return _prior(_log_evidence(values, design) for values in experiments)


def priors_without(
    experiments: Mapping[str, ArrayLike], design: Design = SPLIT
) -> dict[str, Array | None]:
    """Return for each cell the prior that follows from all others (see `replicate_prior`)."""
    evidence = {cell: _log_evidence(values, design) for cell, values in experiments.items()}
    return {cell: _prior(of for name, of in evidence.items() if name != cell) for cell in evidence}


def _log_evidence(values: ArrayLike, design: Design) -> Array | None:
    """Return what a cell says of each of the log-normal priors; None if nothing."""
    parts = components(values, design) if len(np.asarray(values)) > 1 else None
    if parts is None or not parts.interaction > 0:
        return None
    likely = _log_normal_weights() @ _likelihood(parts)
    return np.asarray(np.log(np.maximum(likely, np.finfo(float).tiny)))


def _prior(evidence: Iterable[Array | None]) -> Array | None:
    said = [of_cell for of_cell in evidence if of_cell is not None]
    if not said:
        return None
    total = np.sum(said, axis=0)
    weights = np.exp(total - total.max())
    of_others = np.tensordot(weights / weights.sum(), _log_normal_weights(), axes=2)
    prior = ((1 - VAGUE) * of_others + VAGUE / len(RATIOS)) * (1 + RATIOS) ** CAUTION
    return np.asarray(prior / prior.sum())


def error_distribution(parts: Components, prior: Array | None = None) -> ErrorDistribution:
    """Return the distribution of a mean's error.

    Without a prior (from `replicate_prior`), or if the ratio of mean squares is beyond all
    `RATIOS`, it is Student's, with degrees of freedom by F. E. Satterthwaite (Biometrics Bulletin
    2, 1946) from the replicates' variance before the interaction is subtracted: otherwise a few
    replicates that agree by chance would count as many.
    """
    freedom, one = parts.freedom, np.ones(1)
    if parts.replicates == 1:
        return ErrorDistribution(parts.of_images, 0 * one, one, freedom)
    if prior is not None and parts.of_replicates < RATIOS[-1] * parts.interaction:
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
