"""Measure how often headswap's intervals cover the truth, on simulated predictions.

All replicates are evaluated on the same images. A prediction is correct if a sum of normal
variables exceeds a threshold, which sets the true accuracy: one variable per image (shared by both
cells), one per image and cell, one per replicate, and a residual. Run it with:

    python benchmarks/coverage.py > benchmarks/COVERAGE.md

or, for some of the sections, `python benchmarks/coverage.py chosen groups folds`, which takes
half an hour on one core.
"""

import itertools
import sys
from multiprocessing import Pool

import numpy as np
from scipy.stats import norm

from headswap.compare.intervals import estimate_accuracy, estimate_difference, estimate_winner
from headswap.compare.variance import Design, priors_without, replicate_prior

IMAGES, EXPERIMENTS, RESAMPLES, CELLS = 153, 1000, 2000, 6
CHOSEN, GROUPED, FOLDED, FOLDED_IMAGES = 200, 4000, 2000, 150
"""The numbers of experiments of the other sections, and the images of one of them."""
REPLICATES = (5, 3, 2)
ACCURACIES = ((0.9,) * CELLS, (0.97,) * CELLS, (0.97, 0.9, 0.8) * 2)
PAIRS = ((0, 1), (0, 2), (0, 3), (1, 4), (2, 5), (3, 4))
LOW, HIGH = (0.5, 0.3, 0.0003), (0.5, 0.3, 0.03)
SPREADS = {
    "60, 30, 0": (0.6, 0.3, 0),
    "60, 30, 0.3": (0.6, 0.3, 0.003),
    "60, 20, 1": (0.6, 0.2, 0.01),
    "30, 30, 0.5": (0.3, 0.3, 0.005),
    "50, 30, 3": (0.5, 0.3, 0.03),
    "50, 30, 3; three others 0.03": (HIGH,) * 3 + (LOW,) * 3,
    "50, 30, 3; five others 0.03": (HIGH,) + (LOW,) * 5,
}
"""Shares of the variance: image, image × cell, replicate; the residual has the rest."""


def simulate(accuracy, sources, random, images=IMAGES, replicates=5, cells=2):
    """Simulate the correct predictions of some cells.

    Parameters
    ----------
    accuracy : float or sequence of float
        The true accuracy of all cells, or of each.
    sources : sequence
        Shares as in `SPREADS`, for all cells, or one for each.
    random : numpy.random.Generator
        The random generator.
    images, replicates, cells : int
        The size of the experiment.

    Returns
    -------
    numpy.ndarray of float
        Shape (cells, replicates, images): 1 for a correct prediction, else 0.
    """
    shares = np.broadcast_to(sources, (cells, 3)).T[..., None, None]
    of_image, of_image_in_cell, of_replicate = np.sqrt(shares)
    ease = of_image * random.standard_normal(images)
    ease = ease + of_image_in_cell * random.standard_normal((cells, 1, images))
    ease = ease + of_replicate * random.standard_normal((cells, replicates, 1))
    residual = np.sqrt(1 - shares.sum(axis=0))
    ease = ease + residual * random.standard_normal((cells, replicates, images))
    threshold = norm.ppf(1 - np.broadcast_to(accuracy, cells))[:, None, None]
    return (ease > threshold).astype(float)


def pigeonhole(values, of_images, of_replicates):
    """Return the percentile interval of the pigeonhole bootstrap, for comparison."""
    means = np.einsum("br,rb->b", of_replicates, values @ of_images.T)
    return np.quantile(means, [0.025, 0.975])


def _weights(count):
    draws = np.random.default_rng(count).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    return draws / count


def coverage(case):
    """Simulate experiments; return what `row` prints, shares as arrays over cells or pairs."""
    replicates, accuracies, (_, sources) = case
    random = np.random.default_rng(1)
    weights = _weights(IMAGES), _weights(replicates)
    cells, alone, differences, differences_alone, bootstrap, widths = [], [], [], [], [], []
    for _ in range(EXPERIMENTS):
        values = simulate(accuracies, sources, random, replicates=replicates, cells=CELLS)
        priors = [replicate_prior(np.delete(values, cell, axis=0)) for cell in range(CELLS)]
        found = [estimate_accuracy(*both) for both in zip(values, priors, strict=True)]
        single = [estimate_accuracy(of_cell) for of_cell in values]
        cells.append(_covers(found, accuracies))
        alone.append(_covers(single, accuracies))
        pairs = np.array([values[first] - values[second] for first, second in PAIRS])
        truth = [accuracies[first] - accuracies[second] for first, second in PAIRS]
        prior = replicate_prior(values)
        contrasts = [estimate_difference(pair, prior) for pair in pairs]
        contrasts_alone = [estimate_difference(pair) for pair in pairs]
        differences.append(_covers(contrasts, truth))
        differences_alone.append(_covers(contrasts_alone, truth))
        low, high = pigeonhole(pairs[0], *weights)
        bootstrap.append(low <= truth[0] <= high)
        kinds = (found, single, contrasts, contrasts_alone)
        widths.append([np.mean([each.high - each.low for each in kind]) for kind in kinds])
    shares = [np.mean(each, axis=0) for each in (cells, alone, differences, differences_alone)]
    width = np.mean(widths, axis=0)
    return *shares, np.mean(bootstrap), width[0] / width[1], width[2] / width[3]


def _covers(estimates, truth):
    both = zip(estimates, truth, strict=True)
    return [estimate.low <= value <= estimate.high for estimate, value in both]


def row(case, results):
    """Return a line of the table."""
    replicates, accuracies, (name, _) = case
    cells, alone, differences, differences_alone, bootstrap, *ratios = results
    spans = [f"{share.min():.1%} to {share.max():.1%}" for share in (cells, differences)]
    worst = [f"{share.min():.1%}" for share in (alone, differences_alone)]
    accuracy = " ".join(f"{100 * value:g}" for value in sorted(set(accuracies)))
    figures = [f"{replicates}", accuracy, name, spans[0], worst[0], spans[1], worst[1]]
    figures += [f"{bootstrap:.1%}", *(f"{ratio:.2f}" for ratio in ratios)]
    return "| " + " | ".join(figures) + " |"


def print_split():
    """Print the table of a fixed split as Markdown."""
    cases = list(itertools.product(REPLICATES, ACCURACIES, SPREADS.items()))
    print(f"""# How often the intervals cover the truth

Each line: {EXPERIMENTS:,} simulated experiments with {CELLS} cells of 5, 3 or 2 replicates on
{IMAGES} images. The nominal coverage is 95 %. The variances are those of images, of images and
cells, and of replicates; *others* are those of the other cells. Of cells and of {len(PAIRS)} pairs
of cells: the lowest and the highest coverage, and the lowest of intervals from the cell or pair
*alone*, without what other cells say about the replicates. What a difference's coverage lacks to
100 % is, where accuracies are equal, its rate of false alarms. *Bootstrap* is the percentile
interval of the first pair from {RESAMPLES:,} resamples of images and replicates (the pigeonhole
bootstrap). *Width* is that of the intervals, of cells and of differences, as a share of the width
alone. Standard error of a coverage: {np.sqrt(0.95 * 0.05 / EXPERIMENTS):.2%}, and the lowest of
several is lower by about two of them. Made by `python benchmarks/coverage.py`.

| replicates | accuracies, % | variances, % | cells | alone | differences | alone | bootstrap \
| width, cells | differences |
|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|""")
    lowest = []
    with Pool() as pool:
        for case, results in zip(cases, pool.imap(coverage, cases), strict=True):
            print(row(case, results), flush=True)
            lowest.append([share.min() for share in results[:4]])
    worst = [f"{share:.1%}" for share in np.min(lowest, axis=0)]
    print(f"""
The worst of all: of cells {worst[0]} (alone {worst[1]}), of differences {worst[2]}
(alone {worst[3]}).""")


def print_chosen():
    """Print what choosing the best of several cells does, and what its correction leaves."""
    print(f"""
## The best of several cells

The most accurate of 6, 12 or 30 cells of 3 replicates on {IMAGES} images, {CHOSEN} experiments a
line. The true accuracies are all the same, or normal with a standard deviation of two points.
*Own* is its accuracy as it is. *Bias* is the estimate less the chosen cell's true accuracy, in
points; the luck of replicates, large where their variance is 3 %, is not corrected. Standard error
of a coverage: {np.sqrt(0.95 * 0.05 / CHOSEN):.1%}.

| cells | true accuracies, % | variances, % | own: bias | covers | corrected: bias | covers |
|---:|---|---|---:|---:|---:|---:|""")
    for cells, spread, name in itertools.product(
        (6, 12, 30), (0, 0.02), ("60, 30, 0.3", "50, 30, 3")
    ):
        random, found = np.random.default_rng(2), []
        for _ in range(CHOSEN):
            truth = np.clip(0.9 + spread * random.standard_normal(cells), 0.5, 0.99)
            values = simulate(truth, SPREADS[name], random, replicates=3, cells=cells)
            best = values.mean(axis=(1, 2)).argmax()
            priors = priors_without(dict(enumerate(values)))
            own = estimate_accuracy(values[best], priors[best])
            winner = estimate_winner(values, list(priors.values()))
            found.append([value for each in (own, winner) for value in _bias(each, truth[best])])
        own, covers, corrected, covered = np.mean(found, axis=0)
        accuracies = f"90 ± {100 * spread:g}" if spread else "90"
        print(
            f"| {cells} | {accuracies} | {name} | {100 * own:+.1f} | {covers:.1%} "
            f"| {100 * corrected:+.1f} | {covered:.1%} |",
            flush=True,
        )


def _bias(estimate, truth):
    return estimate.value - truth, estimate.low <= truth <= estimate.high


def print_groups():
    """Print the coverage where images come in groups, as groups and as independent images."""
    print(f"""
## Groups

{CELLS} cells with an accuracy of 90 %, 3 replicates, {2 * IMAGES} images in groups of the same size
or of skewed sizes (log-normal, of a standard deviation of 1), which share 40 % of the variance;
{GROUPED:,} experiments a line, the lowest and highest coverage of cells and of {len(PAIRS)} pairs.
*As images*: as if they were independent.

| groups | sizes | cells | differences | cells, as images | differences, as images |
|---:|---|---:|---:|---:|---:|""")
    lines = []
    for count, skewed in itertools.product((10, 20, 50, 100), (False, True)):
        random, found = np.random.default_rng(3), []
        for _ in range(GROUPED):
            weights = np.exp(random.standard_normal(count) * skewed)
            drawn = random.choice(count, 2 * IMAGES - count, p=weights / weights.sum())
            groups = np.sort(np.concatenate([np.arange(count), drawn]))
            if not skewed:
                groups = np.arange(2 * IMAGES) * count // (2 * IMAGES)
            shared = 0.3**0.5 * random.standard_normal(count)
            own = 0.1**0.5 * random.standard_normal((CELLS, count))
            ease = (shared + own)[:, None, groups] + 0.2**0.5 * random.standard_normal(2 * IMAGES)
            ease = ease + 0.05 * random.standard_normal((CELLS, 3, 1))
            ease = ease + 0.3975**0.5 * random.standard_normal((CELLS, 3, 2 * IMAGES))
            values = (ease > norm.ppf(0.1)).astype(float)
            found.append(_covered(values, [0.9] * CELLS, (Design(groups), Design())))
        print(f"| {count} | {'skewed' if skewed else 'equal'} | {_spans(found)} |", flush=True)
        lines.append(found)
    _print_worst(lines)


def _covered(values, truth, designs):
    """Return what intervals of cells and differences of all designs cover, as a report has them."""
    covered = []
    for design in designs:
        priors = priors_without(dict(enumerate(values)), design).values()
        both = zip(values, priors, strict=True)
        covered.append(_covers([estimate_accuracy(*each, design) for each in both], truth))
        prior = replicate_prior(values, design)
        pairs = [estimate_difference(values[a] - values[b], prior, design) for a, b in PAIRS]
        covered.append(_covers(pairs, [truth[a] - truth[b] for a, b in PAIRS]))
    return covered


def _spans(found):
    shares = np.mean(found, axis=0)
    return " | ".join(f"{share.min():.1%} to {share.max():.1%}" for share in shares)


def _print_worst(lines):
    """Print the lowest coverage of a section's cells and differences."""
    cells, differences, *_ = np.mean(lines, axis=1).min(axis=(0, 2))
    print(f"\nThe worst of all: of cells {cells:.1%}, of differences {differences:.1%}.")


def print_folds():
    """Print the coverage of repeated cross-validation, of classifiers that are trained."""
    print(f"""
## Folds

Classifiers are trained on normal features, in 5 folds. Stable ones: linear discriminants of 8 to 16
features of {FOLDED_IMAGES} images, of which the first eight say something, each run without a
random one of them. Unstable ones: those on {FOLDED_IMAGES // 3} images, and one, three or five
nearest neighbours. The truth is the mean accuracy on new images of runs that are trained on other
images. {FOLDED:,} experiments a line. *As a split*: as if the images were a validation set apart.

| classifiers | replicates | cells | differences | cells, as a split | differences, as a split |
|---|---:|---:|---:|---:|---:|""")
    kinds = {"stable": (FOLDED_IMAGES, STABLE), "unstable": (FOLDED_IMAGES // 3, UNSTABLE)}
    lines = []
    for (kind, settings), replicates in itertools.product(kinds.items(), (1, 2, 3, 5)):
        random = np.random.default_rng(4)
        runs = [_cross_validate(*settings, replicates, random) for _ in range(FOLDED)]
        truth = np.mean([accuracy for _, accuracy in runs], axis=0)
        found = [_covered(values, truth, (Design(folds=5), Design())) for values, _ in runs]
        print(f"| {kind} | {replicates} | {_spans(found)} |", flush=True)
        lines.append(found)
    _print_worst(lines)


def _cross_validate(images, cells, replicates, random):
    """Return correct predictions, shape (cells, replicates, images), and mean accuracies."""
    means = 0.7 / np.sqrt(1 + np.arange(16)) * (np.arange(16) < 8)
    labels, others = np.resize([-1.0, 1.0], images), np.resize([-1.0, 1.0], 400)
    features, new = (
        of[:, None] * means + random.standard_normal((len(of), 16)) for of in (labels, others)
    )
    values, accuracies = np.zeros((len(cells), replicates, images)), np.zeros(len(cells))
    for replicate in range(replicates):
        fold = random.permutation(images) % 5
        for number, (cell, train) in itertools.product(range(5), enumerate(cells)):
            rest, held_out = fold != number, fold == number
            classify = train(features[rest], labels[rest], random)
            values[cell, replicate, held_out] = classify(features[held_out]) == labels[held_out]
            accuracies[cell] += (classify(new) == others).mean() / replicates / 5
    return values, accuracies


def _discriminant(size, dropped=0):
    def train(features, labels, random):
        used = random.permutation(size)[dropped:]
        weights, *_ = np.linalg.lstsq(np.insert(features[:, used], 0, 1, axis=1), labels)
        return lambda new: np.where(new[:, used] @ weights[1:] + weights[0] > 0, 1, -1)

    return train


def _neighbours(count):
    def train(features, labels, _):
        def classify(new):
            distances = ((new[:, None] - features) ** 2).sum(axis=-1)
            nearest = np.argpartition(distances, count, axis=1)[:, :count]
            return np.sign(labels[nearest].sum(axis=1))

        return classify

    return train


STABLE = [_discriminant(size, 1) for size in (8, 12, 8, 16, 10, 12)]
UNSTABLE = [
    _discriminant(10),
    _neighbours(1),
    _discriminant(16),
    _neighbours(3),
    _discriminant(8),
    _neighbours(5),
]

SECTIONS = {
    "split": print_split,
    "chosen": print_chosen,
    "groups": print_groups,
    "folds": print_folds,
}

if __name__ == "__main__":
    for section in sys.argv[1:] or SECTIONS:
        SECTIONS[section]()
