"""Splits by share: groups stay whole, and each class has its share, as far as groups allow."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headswap.errors import UserError, bulleted
from headswap.images.folds import column_sums, count_classes, divide, join_groups, rank

PARTS = ("val", "test", "train")
"""The splits in the order in which they are filled; the last one takes what is left."""
Sizes = NDArray[np.int64]
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


class Split(NamedTuple):
    """The split of each photograph, and how far its groups allowed what was wanted.

    `moved` is how many left their known split; `missed` has a line for each share of a class that
    is not reached, the furthest first.
    """

    splits: list[str]
    moved: int = 0
    missed: Sequence[str] = ()


def split_items(
    items: Sequence[Item],
    same: Sequence[Hashable],
    val: float,
    test: float = 0,
    seed: int = 0,
) -> Split:
    """Split the photographs of each class for training, validation and test.

    Photographs with the `same` value count as of one group: their content, or what they are copies
    of. The order in which groups are taken depends on content and seed alone, so that a further
    photograph moves few others; a test set is taken from what would be trained on.

    A UserError names the classes that cannot be both trained and validated on.
    """
    ids = join_groups([one.group for one in items], same)
    labels, classes = np.unique([one.label for one in items], return_inverse=True)
    counts = count_classes(ids, classes)
    size = column_sums(counts)
    ranks = [""] * counts.shape[0]
    known: list[set[str]] = [set() for _ in ranks]
    for group, one in zip(ids, items, strict=True):
        place = rank(one.sha256, seed)
        ranks[group] = min(ranks[group] or place, place)
        known[group] |= {one.split} - {""}
    fixed = [PARTS.index(min(names)) if len(names) == 1 else -1 for names in known]
    ready = column_sums(counts[np.array(fixed) == 0])
    targets = _targets(size, val, test, ready)
    parts = divide(counts, targets, NEEDS, ranks, fixed)
    reached = np.array([column_sums(counts[parts == part]) for part in range(len(PARTS))])
    lacking = (reached[[0, 2]] == 0).any(axis=0)
    if lacking.any():
        groups = column_sums(counts > 0)
        lines = [
            f"{labels[c]} (images: {size[c]}, groups: {groups[c]})" for c in np.flatnonzero(lacking)
        ]
        raise UserError(
            "These classes cannot be both trained and validated on, since identical images, and "
            f"those of a group, stay together:\n{bulleted(lines)}\n"
            "Add images of other groups to them, or leave these classes out of the folder or the "
            "table; then run the same command again."
        )
    splits = [PARTS[parts[group]] for group in ids]
    off = np.abs(reached - targets)[:2] / size
    return Split(
        splits,
        sum(bool(one.split) and one.split != at for one, at in zip(items, splits, strict=True)),
        [
            f"{PARTS[part]}: {reached[part, c] / size[c]:.1%} of {labels[c]} "
            f"(wanted {(val, test)[part]:.1%})"
            for part, c in np.argwhere(off > 0)[np.argsort(-off[off > 0], kind="stable")]
        ],
    )


def _targets(size: Sizes, val: float, test: float, ready: Sizes) -> Sizes:
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
    ids = join_groups([one.group for one in items], same).tolist()
    members: dict[int, list[Item]] = defaultdict(list)
    for group, one in zip(ids, items, strict=True):
        members[group].append(one)
    names = {}
    for group, of in members.items():
        digest = min(one.sha256 for one in of)[:16] if len(of) > 1 else ""
        names[group] = min((one.group for one in of if one.group), default=digest)
    return [names[group] for group in ids]
