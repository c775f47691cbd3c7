"""Measure how often headswap's intervals cover the truth, on simulated predictions.

Every replicate looks at the same images. Whether it gets one right depends, as a sum of normal
variables above a threshold, on the image (shared by both cells), the image in this cell, the
replicate, and chance; the threshold sets the true accuracy. Run it with:

    python benchmarks/coverage.py > benchmarks/COVERAGE.md
"""

import itertools
import sys
from multiprocessing import Pool

import numpy as np
from scipy.stats import norm

from headswap.compare import intervals as statistics

IMAGES, EXPERIMENTS, RESAMPLES = 153, 4000, 2000
REPLICATES = (5, 3, 2)
ACCURACIES = (0.90, 0.945, 0.97)
SOURCES = ((0.6, 0.3, 0), (0.6, 0.3, 0.003), (0.6, 0.2, 0.01), (0.3, 0.3, 0.005), (0.5, 0.3, 0.03))
"""Shares of variance: an image, an image in its cell, a replicate; the rest is chance."""


def simulate(accuracy, sources, random, images=IMAGES, replicates=5):
    """Draw the hits of two cells of equal true accuracy.

    Parameters
    ----------
    accuracy : float
        Of both.
    sources : tuple of float
        See `SOURCES`.
    random : numpy.random.Generator
        Where the numbers come from.
    images, replicates : int
        The size of the experiment.

    Returns
    -------
    numpy.ndarray of float
        Shape (2, replicates, images), of zeros and ones.
    """
    of_image, of_both, of_replicate = np.sqrt(sources)
    chance = np.sqrt(1 - sum(sources))
    ease = of_image * random.standard_normal(images)
    ease = ease + of_both * random.standard_normal((2, 1, images))
    ease = ease + of_replicate * random.standard_normal((2, replicates, 1))
    ease = ease + chance * random.standard_normal((2, replicates, images))
    return (ease > norm.ppf(1 - accuracy)).astype(float)


def pigeonhole(values, of_images, of_replicates):
    """Return the percentile interval of the bootstrap over images and replicates, to compare."""
    means = np.einsum("br,rb->b", of_replicates, values @ of_images.T)
    return np.quantile(means, [0.025, 0.975])


def _weights(count):
    draws = np.random.default_rng(count).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    return draws / count


def coverage(case):
    """Return how often three intervals cover: a cell's, a difference's, the bootstrap's of it."""
    replicates, accuracy, sources = case
    random = np.random.default_rng(1)
    weights = _weights(IMAGES), _weights(replicates)
    covered = []
    for _ in range(EXPERIMENTS):
        first, second = simulate(accuracy, sources, random, replicates=replicates)
        cell, difference = statistics.accuracy(first), statistics.contrast(second - first)
        low, high = pigeonhole(second - first, *weights)
        covered.append((cell.low <= accuracy <= cell.high, difference.sign == 0, low <= 0 <= high))
    return np.mean(covered, axis=0)


def main():
    """Print the table as Markdown."""
    cases = list(itertools.product(REPLICATES, ACCURACIES, SOURCES))
    print(f"""# How often the intervals cover the truth

{EXPERIMENTS:,} simulated experiments a line, each of 5, 3 or 2 replicates of two cells of equal
accuracy on {IMAGES} images; nominal: 95 %. *Bootstrap*: the difference's percentile interval from
{RESAMPLES:,} resamples of images and replicates (the pigeonhole bootstrap), for comparison. What is
not covered of a difference between equal cells is how often they would be called different.
Standard error of each figure: {np.sqrt(0.95 * 0.05 / EXPERIMENTS):.2%}.
Made by `python benchmarks/coverage.py`.

| replicates | accuracy | variance: image, of cell, replicate | cell | difference | bootstrap |
| ---: | ---: | ---: | ---: | ---: | ---: |""")
    with Pool() as pool:
        for case, covered in zip(cases, pool.imap(coverage, cases), strict=True):
            replicates, accuracy, sources = case
            probabilities = ", ".join(f"{share:.1%}" for share in sources)
            figures = " | ".join(f"{share:.1%}" for share in covered)
            print(f"| {replicates} | {accuracy:.1%} | {probabilities} | {figures} |")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
