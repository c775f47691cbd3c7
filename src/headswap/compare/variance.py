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
from scipy import optimize, special

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
        return float(special.stdtrit(self.freedom, (1 + LEVEL) / 2))

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

    `pseudo_square`, of a pseudo-observation, is added to a difference's sum of squares. Groups are
    the units in place of images: their scores, of the ratio estimator with the leverage correction
    CR2 (R. M. Bell and D. F. McCaffrey, Survey Methodology 28, 2002), are crossed with the
    replicates, and have a pseudo-group of the values' variance if no other. With k folds, whose
    models share images, the variance over images is k² / (k - 1)² times as large, and k / (k - 1)
    times that of a difference, whose cells share some luck. No estimator is unbiased (Y. Bengio,
    Y. Grandvalet, JMLR 5, 2004); `benchmarks/COVERAGE.md` shows what this covers.
    """
    values = np.asarray(values, dtype=float)
    of_replicate, freedom = values.mean(axis=1), values.shape[1] - 1.0
    power = 1 if pseudo_square else 2
    if (groups := design.groups) is not None:
        sizes = np.bincount(groups)
        correlation = _correlation(values.mean(axis=0), groups, sizes)
        freedom = _freedom(sizes, correlation)
        of_group = (1 + (sizes.mean() - 1) * correlation) / sizes.mean()
        pseudo_square = (pseudo_square or float(values.var())) * of_group
        sums = np.array([np.bincount(groups, each) for each in values])
        scale = len(sizes) / len(groups) * np.sqrt((1 - 1 / len(sizes)) / (1 - sizes / len(groups)))
        # The mean of these scores varies as that of the values.
        values = np.asarray((sums - sizes * values.mean()) * scale)
    replicates, units = values.shape
    by_unit = values.mean(axis=0)
    of_images = float(by_unit.var() * units + pseudo_square) / (units - 1) / units
    if design.folds:
        of_images /= (1 - 1 / design.folds) ** power
    if replicates == 1:
        return Components(of_images, np.nan, np.nan, 1, units, freedom)
    residuals = values - by_unit - values.mean(axis=1, keepdims=True) + values.mean()
    square = float((residuals**2).sum()) / ((replicates - 1) * (units - 1))
    interaction = square / values.size
    of_replicates = float(of_replicate.var(ddof=1)) / replicates
    return Components(of_images, interaction, of_replicates, replicates, units, freedom)


def _freedom(sizes: NDArray[np.intp], correlation: float) -> float:
    """Return Satterthwaite's degrees of freedom of a variance by CR2, as Bell and McCaffrey do."""
    leverage, of_sum = sizes / sizes.sum(), sizes * (1 + (sizes - 1) * correlation)
    own = 1 / (1 - leverage)
    both = own * leverage @ leverage - 2 * own * leverage
    trace = of_sum @ (own + both)
    square = (of_sum.sum() * (of_sum @ both**2) + (of_sum @ both) ** 2) / 2
    square += of_sum**2 @ (own**2 + 2 * own * both)
    return max(1.0, float(trace**2 / square))


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
