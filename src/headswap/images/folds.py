"""Parts of a set of images: groups stay whole, and classes have their share in each part."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

Integers = NDArray[np.int64]
Groups = Sequence[str | None]


def folds(labels: ArrayLike, k: int, seed: int, groups: Groups | None = None) -> Integers:
    """Return the fold of each image, from 0 to `k` - 1; another seed makes another partition.

    Images without a group are groups of their own; of these, folds differ by one image at most, of
    each class and in all. Otherwise they may be empty, or hold a whole class.
    """
    classes = np.unique(labels, return_inverse=True)[1]
    ids = join_groups(groups or [None] * len(classes), range(len(classes)))
    counts = count_classes(ids, classes)
    ends = np.cumsum(column_sums(counts))
    targets = np.diff([(ends + fold) // k for fold in range(k)], axis=1, prepend=0)  # as cards
    ranks = [rank(str(place), seed) for place in np.unique(ids, return_index=True)[1]]
    return divide(counts, targets, (1,) * k, ranks, [-1] * len(ranks))[ids]


def join_groups(
    groups: Groups, same: Iterable[Any], links: Iterable[tuple[int, int]] = ()
) -> Integers:
    """Return a number for each image, the same where groups, `same` or links join them."""
    places: dict[Any, list[int]] = defaultdict(list)
    for place, (group, value) in enumerate(zip(groups, same, strict=True)):
        places["value", value].append(place)
        places["group", group or place].append(place)
    pairs = [pair for members in places.values() for pair in pairwise(members)] + list(links)
    ends = np.array(pairs, int).reshape(-1, 2).T
    graph = sparse.coo_matrix((np.ones(len(pairs)), tuple(ends)), (len(groups), len(groups)))
    return sparse.csgraph.connected_components(graph, directed=False)[1]


def count_classes(ids: Integers, classes: Integers) -> Any:
    """Return a sparse matrix with the number of images by group (row) and class (column)."""
    return sparse.coo_matrix((np.ones(len(ids), int), (ids, classes))).tocsr()


def column_sums(counts: Any) -> Integers:
    """Return the sums over all groups, shape (classes,)."""
    return np.asarray(counts.sum(axis=0)).ravel()


def rank(content: str, seed: int) -> str:
    """Return the place of a group in a random order, as text to sort by."""
    return hashlib.sha256(f"{seed}/{content}".encode()).hexdigest()


def divide(
    counts: Any, targets: Integers, needs: Sequence[int], ranks: list[str], fixed: list[int]
) -> Integers:
    """Return a part for each group, so that classes come near to `targets` (parts, classes).

    Those whose part is `fixed`, not -1, stay there. First classes that are wanted and absent are
    minimised, weighted by `needs`, then chi-squared; few groups are placed in several orders.
    """
    best: tuple[float, Integers] = (np.inf, np.array([]))
    for attempt in range(max(1, min(10, 10_000 // len(ranks)))):
        order = sorted(range(len(ranks)), key=lambda group: ranks[group][5 * attempt :])
        parts = _fill(counts, targets, order, fixed)
        cost = _improve(counts, targets, needs, parts, np.array(fixed) < 0)
        best = min(best, (cost, parts), key=lambda found: found[0])
        if cost < 1e-6:
            break
    return best[1]


def _fill(counts: Any, targets: Integers, order: list[int], fixed: list[int]) -> Integers:
    """Fill one part after the other: a group joins the first one that it brings nearer."""
    cells = list(zip(counts.indices.tolist(), counts.data.tolist(), strict=True))
    rows = [cells[start:end] for start, end in pairwise(counts.indptr.tolist())]
    missing, wanted = targets.tolist(), np.maximum(targets, 1).tolist()
    parts, last = list(fixed), len(missing) - 1
    for group in sorted(order, key=lambda group: fixed[group] < 0):
        if parts[group] < 0:
            nearer = (
                part
                for part in range(last)
                if sum(n * (n - 2 * missing[part][c]) / wanted[part][c] for c, n in rows[group]) < 0
            )
            parts[group] = next(nearer, last)
        for c, n in rows[group]:
            missing[parts[group]][c] -= n
    return np.array(parts)


def _improve(
    counts: Any, targets: Integers, needs: Sequence[int], parts: Integers, free: NDArray[np.bool_]
) -> float:
    """Move single groups in `parts`, that which helps most first; return what is left to wish."""
    weights = 1 / np.maximum(targets, 1)
    needed = (targets > 0) * np.array(needs)[:, None] * 1e8
    squares = counts.multiply(counts) @ weights.T
    every = np.arange(len(parts))
    rows = np.repeat(every, np.diff(counts.indptr))
    reached = np.array([column_sums(counts[parts == part]) for part in range(len(targets))])
    while True:
        slopes = counts @ (2 * weights * (reached - targets)).T
        entered = (counts > 0) @ ((reached == 0) * needed).T
        of = parts[rows], counts.indices
        emptied = np.bincount(rows, (counts.data == reached[of]) * needed[of])
        left = squares[every, parts] - slopes[every, parts] + emptied
        change = left[:, None] + slopes + squares - entered
        change[every, parts] = change[~free] = 0
        group, part = np.unravel_index(change.argmin(), change.shape)
        if change[group, part] > -1e-6:
            return float(((reached == 0) * needed + weights * (reached - targets) ** 2).sum())
        row = counts[[group]].toarray()[0]
        reached[parts[group]] -= row
        reached[part] += row
        parts[group] = part
