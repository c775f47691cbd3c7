"""What makes a comparison on some images less reliable, and how many there are of each class."""

from collections.abc import Iterable, Mapping

import pandas as pd

from headswap.images.folders import SPLITS
from headswap.images.near_duplicates import near_duplicate_groups

MOST_CLASSES = 30
"""How many classes are listed, the largest first."""


def find_quality_issues(hashes: Mapping[str, str]) -> dict[str, list[str]]:
    """Return what makes a comparison on these images less reliable, by kind, the worst first.

    `hashes` has the perceptual hash of each image by its path.

    >>> hashes = {"train/a/1.jpg": "c0" * 8, "val/a/2.jpg": "c0" * 8, "val/a/3.jpg": "f1" * 8}
    >>> find_quality_issues(hashes)
    {'near-duplicates in two splits': ['train/a/1.jpg, val/a/2.jpg'], 'a class of one image': \
['train/a']}
    """
    names = pd.Series(sorted(hashes))
    parts = names.str.split("/", n=2, expand=True)
    kinds = ("near-duplicates in two splits", "near-duplicates in two classes")
    issues: dict[str, list[str]] = {kind: [] for kind in kinds}
    issues |= {"a class of one image": [], "near-duplicates": []}
    groups = near_duplicate_groups([hashes[name] for name in names])
    for _, group in names.groupby(groups):
        if len(group) > 1:
            counts = parts.loc[group.index].nunique()
            kind = kinds[0] if counts[0] > 1 else kinds[1] if counts[1] > 1 else "near-duplicates"
            more = f" and {len(group) - 2} more" if len(group) > 2 else ""
            issues[kind].append(", ".join(group[:2]) + more)
    sizes = (parts[0] + "/" + parts[1]).value_counts()
    issues["a class of one image"] = sorted(sizes.index[sizes == 1])
    return {kind: lines for kind, lines in issues.items() if lines}


def print_classes(names: Iterable[str]) -> None:
    """Print the number of images by class and split, and the share of the largest class.

    The names are the images' paths in the manifest.
    """
    parts = pd.DataFrame([name.split("/")[:2] for name in names], columns=["split", "class"])
    table = pd.crosstab(parts["class"], parts["split"])
    table = table[[split for split in (*SPLITS, "test") if split in table]].rename_axis(
        None, axis=1
    )
    largest, share = table["val"].idxmax(), table["val"].max() / table["val"].sum()
    table["all"] = table.sum(axis=1)
    table["share"] = (table["all"] / len(parts)).map("{:.1%}".format)
    ranked = table.sort_values("all", ascending=False, kind="stable")
    print(ranked.head(MOST_CLASSES).rename_axis(index=None, columns=None).to_string())
    if len(ranked) > MOST_CLASSES:
        print(f"… and {len(ranked) - MOST_CLASSES} more")
    print(
        f"{len(ranked)} classes. Always answering {largest}, the largest there, would be right for "
        f"{share:.1%} of the validation images."
    )
