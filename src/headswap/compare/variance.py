"""The error of a mean over images and replicates, with what all cells say about the replicates.

A few replicates say little about others: with two, Student's quantile is 12.7. But the ratio of two
mean squares, of a cell's replicates and of the interaction of images and replicates, is independent
of its accuracy; those of all cells are the prior of each one's: a moderated variance, after G. K.
Smyth (Statistical Applications in Genetics 3, 2004), but with a log-normal prior, integrated over
its parameters. `VAGUE` and `CAUTION` were chosen on the experiments of `benchmarks/COVERAGE.md`.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

LEVEL = 0.95
VAGUE = 0.2  # share of the prior that other cells say nothing about: uniform over `RATIOS`
CAUTION = 0.25  # power of the ratio of mean squares by which larger ones have more weight
RATIOS = np.array([0.0, *np.geomspace(0.03, 300, 45)])
"""Ratios of the replicates' variance to that of the interaction, for which a prior has weights."""

Array = NDArray[np.float64]
Prior = Array | None  # the probability of each of `RATIOS`


@dataclass(frozen=True)
class Design:
    """How the images were sampled, and which runs predicted them."""

    groups: NDArray[np.intp] | None = None  # the number of each image's, if not independent
    folds: int = 0  # if any, each replicate is a cross-validation of its own

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
    freedom: float

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

    `pseudo_square`, of a pseudo-observation (or group), is added to the sum of squares over images.
    Groups are the units in place of images: their scores, of the ratio estimator with the leverage
    correction CR2 (R. M. Bell and D. F. McCaffrey, Survey Methodology 28, 2002), are crossed with
    the replicates. With folds the variance over images is that of one cross-validation, since the
    interaction of all its models and images stays one.
    """
    values = np.asarray(values, dtype=float)
    freedom, correction = values.shape[1] - 1.0, 1.0
    if (groups := design.groups) is not None:
        sizes = np.bincount(groups)
        correlation = _correlation(values.mean(axis=0), groups, sizes)
        # Satterthwaite: groups of equal size that would tell the variance as well.
        shares = sizes * (1 + (sizes - 1) * correlation)
        freedom = max(1.0, float(shares.sum() ** 2 / (shares**2).sum()) - 1)
        pseudo_square *= (1 + (sizes.mean() - 1) * correlation) / sizes.mean()
        sums = np.array([np.bincount(groups, of_replicate) for of_replicate in values])
        scale = len(sizes) / len(groups) / np.sqrt(1 - sizes / len(groups))
        # The mean of these scores varies as that of the values.
        values = np.asarray((sums - sizes * values.mean()) * scale)
        correction = 1 - 1 / len(sizes)
    (replicates, units), more = values.shape, design.folds / max(1, design.folds - 1) or 1
    by_unit, by_replicate = values.mean(axis=0), values.mean(axis=1)
    of_images = correction * float(by_unit.var() * units + pseudo_square) / (units - 1) / units
    if replicates == 1:
        return Components(more * of_images, np.nan, np.nan, 1, units, freedom)
    residuals = values - by_unit - by_replicate[:, None] + values.mean()
    square = float((residuals**2).sum()) / ((replicates - 1) * (units - 1))
    interaction = square / values.size * correction
    of_images += (replicates - 1) * interaction if design.folds else 0.0
    of_replicates = float(by_replicate.var(ddof=1)) / replicates
    return Components(of_images, interaction, of_replicates, replicates, units, freedom)


def _correlation(by_image: Array, groups: NDArray[np.intp], sizes: NDArray[np.intp]) -> float:
    """Return the intraclass correlation of the analysis of variance, 1 if nothing varies."""
    images, others = len(groups), len(sizes) - 1
    means = np.bincount(groups, by_image) / sizes
    between = float((sizes * (means - by_image.mean()) ** 2).sum()) / others
    within = float(((by_image - means[groups]) ** 2).sum()) / max(1, images - len(sizes))
    total = between + ((images - float((sizes**2).sum()) / images) / others - 1) * within
    return min(1.0, max(0.0, (between - within) / total)) if total > 0 else 1.0


def replicate_prior(cells: Iterable[ArrayLike], design: Design = SPLIT) -> Prior:
    """Return what cells with values of shape (replicates, images) say; None if nothing."""
    return _prior(_log_evidence(values, design) for values in cells)


def priors_without(cells: Mapping[str, ArrayLike], design: Design = SPLIT) -> dict[str, Prior]:
    """Return for each cell the prior that follows from all others."""
    evidence = {cell: _log_evidence(values, design) for cell, values in cells.items()}
    return {cell: _prior(of for name, of in evidence.items() if name != cell) for cell in evidence}


def _log_evidence(values: ArrayLike, design: Design) -> Array | None:
    """Return what a cell says of each of the log-normal priors; None if nothing."""
    if len(np.asarray(values)) < 2 or not (parts := components(values, design)).interaction:
        return None
    likely = _log_normal_weights() @ _likelihood(parts)
    return np.asarray(np.log(np.maximum(likely, np.finfo(float).tiny)))


def _prior(evidence: Iterable[Array | None]) -> Prior:
    if not (said := [of_cell for of_cell in evidence if of_cell is not None]):
        return None
    total = np.sum(said, axis=0)
    weights = np.exp(total - total.max())
    of_others = np.tensordot(weights / weights.sum(), _log_normal_weights(), axes=2)
    prior = ((1 - VAGUE) * of_others + VAGUE / len(RATIOS)) * (1 + RATIOS) ** CAUTION
    return np.asarray(prior / prior.sum())


def error_distribution(parts: Components, prior: Prior = None) -> ErrorDistribution:
    """Return the distribution of a mean's error.

    Without a prior, or if the ratio of mean squares is beyond all `RATIOS`, it is Student's, with
    degrees of freedom by F. E. Satterthwaite (Biometrics Bulletin 2, 1946) from the replicates'
    variance before the interaction is subtracted: else a few that agree by chance count as many.
    """
    freedom, one = parts.freedom, np.ones(1)
    if parts.replicates == 1:
        return ErrorDistribution(parts.of_images, 0 * one, one, freedom)
    if prior is not None and parts.of_replicates < RATIOS[-1] * parts.interaction:
        weights = prior * _likelihood(parts)
        of_replicates = RATIOS * parts.interaction
        return ErrorDistribution(parts.of_images, of_replicates, weights / weights.sum(), freedom)
    total = max(parts.of_replicates, parts.interaction)
    if (variance := parts.of_images + total - parts.interaction) > 0:
        by_both = parts.of_images**2 / freedom + total**2 / (parts.replicates - 1)
        freedom = max(variance**2 / by_both, parts.replicates - 1)
    return ErrorDistribution(parts.of_images, one * (total - parts.interaction), one, freedom)


def _likelihood(parts: Components) -> Array:
    """Return the density of the replicates' mean square for each of `RATIOS`, up to a factor."""
    ratio, expected = parts.of_replicates / parts.interaction, 1 + RATIOS
    log_density = -(parts.replicates - 1) / 2 * (np.log(expected) + ratio / expected)
    return np.asarray(np.exp(log_density - log_density.max()))  # no overflow of a large ratio


@functools.cache
def _log_normal_weights() -> Array:
    """Return the weights of `RATIOS`, shape (medians, widths, ratios), of log-normal priors."""
    medians, widths = np.geomspace(0.03, 100, 22), np.array([0.2, 0.5, 1, 1.5, 2.2, 3, 4.5])
    edges = np.sqrt(RATIOS[1:-1] * RATIOS[2:])
    edges = np.log([RATIOS[1] ** 2 / edges[0], *edges])
    below = special.ndtr((edges - np.log(medians)[:, None, None]) / widths[:, None])
    return np.diff(below, axis=-1, prepend=0, append=1)
