"""The index of the verified images: `verify` writes it, and the other subpackages read it."""

import csv
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from headswap.errors import UserError, bulleted
from headswap.images.folders import SPLITS, find_images
from headswap.images.folds import folds
from headswap.io import digest, existing, read_csv, write_csv
from headswap.paths import IMAGES

NAME = "index.csv"


class Row(NamedTuple):
    """An image: a row of ``index.csv``, where the label's column is ``class``."""

    path: str  # <split>/<class>/…, in data/test <class>/…
    split: str
    label: str
    group: str  # of images that are not independent; empty for an image alone
    width: int  # in pixels, as `reading.read_image` returns the image
    height: int
    bytes: int  # of the original, as in the manifest
    sha256: str
    phash: str  # its `near_duplicates.perceptual_hash`
    stored_bytes: int  # of the file in this folder, others if it was shrunk
    stored_sha256: str


@dataclass(frozen=True)
class Index:
    """The verified images of a folder, sorted by their paths in it."""

    folder: Path
    rows: list[Row]

    @cached_property
    def classes(self) -> list[str]:
        """The names of the classes, sorted; a class's place in the list is its label."""
        return sorted({row.label for row in self.rows})

    @cached_property
    def names(self) -> dict[str, list[str]]:
        """The paths of each split's images, sorted."""
        return {split: [row.path for row in self.rows if row.split == split] for split in SPLITS}

    @cached_property
    def digest(self) -> str:
        """A digest of the paths and contents of all images."""
        return digest([(row.path, row.stored_sha256) for row in self.rows])

    def labels(self, split: str) -> list[int]:
        """Return the labels of a split's images, in the order of `names`."""
        labels = {label: place for place, label in enumerate(self.classes)}
        return [labels[row.label] for row in self.rows if row.split == split]

    def groups(self, split: str) -> list[str]:
        """Return the groups of a split's images, in the order of `names`."""
        return [row.group for row in self.rows if row.split == split]

    def leave_out(self, fold: int, of: int, seed: int) -> "Index":
        """Return an index that validates on one of so many folds of all images, or on none."""
        paths, _, labels, groups, *_ = zip(*self.rows, strict=True)
        return self._validate(dict(zip(paths, folds(labels, of, seed, groups), strict=True)), fold)

    @property
    def quarters(self) -> dict[str, int]:
        """For each training image which quarter of them it is in, from 0 to 3."""
        parts = folds(self.labels("train"), 4, 0, self.groups("train"))
        return dict(zip(self.names["train"], parts.tolist(), strict=True))

    def hold_out(self, quarter: int) -> "Index":
        """Return an index of the training images, which validates on a quarter of them."""
        return self._validate(self.quarters, quarter)

    def _validate(self, parts: dict[str, int], on: int) -> "Index":
        at = {path: "val" if part == on else "train" for path, part in parts.items()}
        return Index(self.folder, [row._replace(split=at.get(row.path, "")) for row in self.rows])


def write_index(folder: str | PathLike[str], rows: Iterable[Row]) -> None:
    """Write the index of a folder's images into it."""
    columns = ["class" if name == "label" else name for name in Row._fields]
    write_csv(Path(folder, NAME), columns, sorted(rows))


def read_index(folder: str | PathLike[str] = IMAGES) -> Index:
    """Read the index of a folder; a UserError says which images were removed, added or resized."""
    folder = existing(folder)
    sizes = {name: os.path.getsize(path) for name, path in find_images(folder).items()}
    kinds, known = Row.__annotations__.values(), defaultdict[type, dict[str, Any]](dict)
    try:
        table = (zip(kinds, row.values(), strict=True) for row in read_csv(folder / NAME))
        # Equal values are one object: half the memory.
        rows = [
            Row(*(known[kind].setdefault(text, kind(text)) for kind, text in row)) for row in table
        ]
    except (FileNotFoundError, ValueError, csv.Error) as error:
        changes = [f"{'missing' if isinstance(error, OSError) else 'changed'}: {NAME}"]
    else:
        expected = {row.path: row.stored_bytes for row in rows}
        changes = [f"missing: {name}" for name in expected if name not in sizes]
        changes += [f"extra: {name}" for name in sizes if name not in expected]
        other = [name for name, size in expected.items() if sizes.get(name, size) != size]
        changes += [f"changed: {n} ({sizes[n]} bytes, not {expected[n]})" for n in other]
    if changes:
        text = f"{folder} is not as it was verified:\n{bulleted(changes)}"
        raise UserError(f"{text}\nRestore the images with: dvc repro verify")
    return Index(folder, rows)
