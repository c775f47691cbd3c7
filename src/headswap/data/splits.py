"""Splits by share: groups stay whole, and each class has its share, as far as groups allow."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from headswap.errors import UserError, bulleted
from headswap.images.folds import column_sums, count_classes, divide, join_groups, rank

PARTS = ("val", "test", "train")
"""The splits in the order in which they are filled; the last one takes what is left."""
NEEDS = (2, 1, 4)
"""How much it matters that a class is in `PARTS` at all."""


class Item(NamedTuple):
    """What decides where a photograph goes.

    Without a `group` it is a group of its own. A known `split` is kept, unless photographs of the
    same group are known in another one.
    """

    label: str
    sha256: str
    group: str = ""
    split: str = ""


def split_items(
    items: Sequence[Item], same: Sequence[Hashable], val: float, test: float = 0, seed: int = 0
) -> tuple[list[str], list[str]]:
    """Return the split of each photograph, and a line for each share of a class that is missed.

    Photographs with the `same` value count as of one group: their content, or what they are copies
    of. The order in which groups are taken depends on content and seed alone, so that a further
    photograph moves few others; a test set is taken from what would be trained on.

    A UserError names the classes that cannot be both trained and validated on.
    """
    ids = join_groups([one.group for one in items], same)
    labels, classes = np.unique([one.label for one in items], return_inverse=True)
    counts = count_classes(ids, classes)
    size = column_sums(counts)
    ranks = pd.Series([rank(one.sha256, seed) for one in items]).groupby(ids).min().tolist()
    known: list[set[str]] = [set() for _ in ranks]
    for group, one in zip(ids, items, strict=True):
        known[group] |= {one.split} - {""}
    fixed = [PARTS.index(min(names)) if len(names) == 1 else -1 for names in known]
    targets = _targets(size, val, test, column_sums(counts[np.array(fixed) == 0]))
    parts = divide(counts, targets, NEEDS, ranks, fixed)
    reached = np.array([column_sums(counts[parts == part]) for part in range(len(PARTS))])
    if lacking := np.flatnonzero((reached[[0, 2]] == 0).any(axis=0)).tolist():
        groups = column_sums(counts > 0)
        lines = [f"{labels[c]} (images: {size[c]}, groups: {groups[c]})" for c in lacking]
        raise UserError(
            "These classes cannot be both trained and validated on, since identical images, and "
            f"those of a group, stay together:\n{bulleted(lines)}\n"
            "Add images of other groups to them, or leave these classes out of the folder or the "
            "table; then run the same command again."
        )
    off = np.abs(reached - targets)[:2] / size
    missed = [
        f"{PARTS[part]}: {reached[part, c] / size[c]:.1%} of {labels[c]} "
        f"(wanted {(val, test)[part]:.1%})"
        for part, c in np.argwhere(off > 0)[np.argsort(-off[off > 0], kind="stable")]
    ]
    return [PARTS[parts[group]] for group in ids], missed


def _targets(
    size: NDArray[np.int64], val: float, test: float, ready: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return how many of each class, by part: one at least, first in train, then in val.

    If `val` is 0, nothing joins those that are `ready` to be validated on.
    """
    room = np.minimum(size - 1, np.maximum(1, size - 1 - (test > 0)))
    of_val = np.minimum(np.maximum(1, np.round(val * size)), room) if val else ready
    of_test = np.minimum(np.maximum(1, np.round(test * size)), size - 1 - of_val) * (test > 0)
    return np.array([of_val, of_test, size - of_val - of_test]).astype(int)


def name_groups(items: Sequence[Item], same: Sequence[Hashable]) -> list[str]:
    """Return the name of each photograph's group: a given one, else a digest of its content.

    It is empty where a photograph is alone.
    """
    table = pd.DataFrame(items, columns=Item._fields)
    ids = join_groups(table["group"].tolist(), same)
    given = table["group"].where(table["group"] != "").groupby(ids).transform("min")
    of_group = table["sha256"].groupby(ids)
    digests = of_group.transform("min").str[:16].where(of_group.transform("size") > 1, "")
    return given.fillna(digests).tolist()
