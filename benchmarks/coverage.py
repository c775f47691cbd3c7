"""Measure how often headswap's intervals cover the truth, on simulated predictions.

All replicates are evaluated on the same images. A prediction is correct if a sum of normal
variables exceeds a threshold, which sets the true accuracy: one variable per image (shared by both
cells), one per image and cell, one per replicate, and a residual. Run it with:

    python benchmarks/coverage.py > benchmarks/COVERAGE.md
"""

import itertools
import sys
from multiprocessing import Pool

import numpy as np
from scipy.stats import norm

from headswap.compare.intervals import accuracy as estimate_accuracy
from headswap.compare.intervals import contrast

IMAGES, EXPERIMENTS, RESAMPLES = 153, 4000, 2000
REPLICATES = (5, 3, 2)
ACCURACIES = (0.90, 0.945, 0.97)
SOURCES = ((0.6, 0.3, 0), (0.6, 0.3, 0.003), (0.6, 0.2, 0.01), (0.3, 0.3, 0.005), (0.5, 0.3, 0.03))
"""Shares of the variance: image, image × cell, replicate; the residual has the rest."""


def simulate(accuracy, sources, random, images=IMAGES, replicates=5):
    """Simulate the correct predictions of two cells of equal true accuracy.

    Parameters
    ----------
    accuracy : float
        The true accuracy of both cells.
    sources : tuple of float
        An entry of `SOURCES`.
    random : numpy.random.Generator
        The random generator.
    images, replicates : int
        The size of the experiment.

    Returns
    -------
    numpy.ndarray of float
        Shape (2, replicates, images): 1 for a correct prediction, else 0.
    """
    of_image, of_image_in_cell, of_replicate = np.sqrt(sources)
    residual = np.sqrt(1 - sum(sources))
    ease = of_image * random.standard_normal(images)
    ease = ease + of_image_in_cell * random.standard_normal((2, 1, images))
    ease = ease + of_replicate * random.standard_normal((2, replicates, 1))
    ease = ease + residual * random.standard_normal((2, replicates, images))
    return (ease > norm.ppf(1 - accuracy)).astype(float)


def pigeonhole(values, of_images, of_replicates):
    """Return the percentile interval of the pigeonhole bootstrap, for comparison."""
    means = np.einsum("br,rb->b", of_replicates, values @ of_images.T)
    return np.quantile(means, [0.025, 0.975])


def _weights(count):
    draws = np.random.default_rng(count).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    return draws / count


def coverage(case):
    """Return the coverage of three intervals: a cell's, a difference's, and its bootstrap's."""
    replicates, accuracy, sources = case
    random = np.random.default_rng(1)
    weights = _weights(IMAGES), _weights(replicates)
    covered = []
    for _ in range(EXPERIMENTS):
        first, second = simulate(accuracy, sources, random, replicates=replicates)
        cell, difference = estimate_accuracy(first), contrast(second - first)
        low, high = pigeonhole(second - first, *weights)
        covered.append((cell.low <= accuracy <= cell.high, difference.sign == 0, low <= 0 <= high))
    return np.mean(covered, axis=0)


def main():
    """Print the table as Markdown."""
    cases = list(itertools.product(REPLICATES, ACCURACIES, SOURCES))
    print(f"""# How often the intervals cover the truth

Each line: {EXPERIMENTS:,} simulated experiments with 5, 3 or 2 replicates of two cells of equal
accuracy on {IMAGES} images. The nominal coverage is 95 %. *Bootstrap* is the percentile interval of
the difference from {RESAMPLES:,} resamples of images and replicates (the pigeonhole bootstrap), for
comparison. An interval of the difference that does not cover zero is a false alarm: the cells are
equal. Standard error of each figure: {np.sqrt(0.95 * 0.05 / EXPERIMENTS):.2%}.
Made by `python benchmarks/coverage.py`.

| replicates | accuracy | variance: image, image × cell, replicate | cell | difference | bootstrap |
| ---: | ---: | ---: | ---: | ---: | ---: |""")
    with Pool() as pool:
        for case, covered in zip(cases, pool.imap(coverage, cases), strict=True):
            replicates, accuracy, sources = case
            variances = ", ".join(f"{share:.1%}" for share in sources)
            figures = " | ".join(f"{share:.1%}" for share in covered)
            print(f"| {replicates} | {accuracy:.1%} | {variances} | {figures} |")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
