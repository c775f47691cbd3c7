"""The index of the verified images: `verify` writes it, and the other subpackages read it."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from headswap.errors import UserError, bulleted
from headswap.images.folders import SPLITS, find_images
from headswap.images.folds import folds
from headswap.io import digest, not_made_yet, read_csv, write_csv
from headswap.paths import IMAGES

NAME = "index.csv"
QUARTERS = 4
COLUMNS = (
    *("path", "split", "class", "group", "width", "height", "bytes", "sha256", "phash"),
    *("stored_bytes", "stored_sha256"),
)


class Row(NamedTuple):
    """An image, with the values of `COLUMNS`.

    ``path`` is ``<split>/<class>/…``, in ``data/test`` ``<class>/…``. Images of one ``group`` are
    not independent; it is empty for an image alone. ``width`` and ``height`` are in pixels, as
    `reading.read_image` returns the image; ``phash`` is its `near_duplicates.perceptual_hash`.
    ``bytes`` and ``sha256`` are the original's, as in the manifest; ``stored_bytes`` and
    ``stored_sha256`` those of the file in this folder, others if it was shrunk.
    """

    path: str
    split: str
    label: str
    group: str
    width: int
    height: int
    bytes: int
    sha256: str
    phash: str
    stored_bytes: int
    stored_sha256: str


@dataclass(frozen=True)
class Index:
    """The verified images of a folder, sorted by their paths in it."""

    folder: Path
    rows: list[Row]

    @property
    def classes(self) -> list[str]:
        """The names of the classes, sorted; a class's place in the list is its label."""
        return sorted({row.label for row in self.rows})

    @property
    def names(self) -> dict[str, list[str]]:
        """The paths of each split's images, sorted."""
        return {split: [row.path for row in self.rows if row.split == split] for split in SPLITS}

    @property
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
        rows = self.rows
        parts = folds([row.label for row in rows], of, seed, [row.group for row in rows])
        splits = ["val" if part == fold else "train" for part in parts]
        rows = [row._replace(split=at) for row, at in zip(rows, splits, strict=True)]
        return Index(self.folder, rows)

    @property
    def quarters(self) -> dict[str, int]:
        """For each training image which quarter of them it is in, from 0 to 3."""
        parts = folds(self.labels("train"), QUARTERS, 0, self.groups("train"))
        return dict(zip(self.names["train"], parts.tolist(), strict=True))

    def hold_out(self, quarter: int) -> "Index":
        """Return an index that trains on three quarters of the training images, and uses no others.

        What is held out is its validation images.
        """
        splits = {path: "val" if of == quarter else "train" for path, of in self.quarters.items()}
        rows = [row._replace(split=splits.get(row.path, "")) for row in self.rows]
        return Index(self.folder, rows)


def write_index(folder: str | PathLike[str], rows: Iterable[Row]) -> None:
    """Write the index of a folder's images into it."""
    write_csv(Path(folder, NAME), COLUMNS, sorted(rows))


def read_index(folder: str | PathLike[str] = IMAGES) -> Index:
    """Read the index of a folder, and check that the images have the sizes that it says.

    A UserError says which images were removed, added or changed since.
    """
    folder = Path(folder)
    if not folder.exists():
        raise not_made_yet(folder)
    try:
        texts = [list(row.values()) for row in read_csv(folder / NAME)]
        rows = [
            Row(*row[:4], *map(int, row[4:7]), *row[7:9], int(row[9]), row[10])  # type: ignore
            for row in texts
        ]
    except FileNotFoundError:
        raise _not_as_verified(folder, [f"missing: {NAME}"]) from None
    except (ValueError, TypeError, IndexError, csv.Error):
        raise _not_as_verified(folder, [f"changed: {NAME}"]) from None
    sizes = {name: path.stat().st_size for name, path in find_images(folder).items()}
    expected = {row.path: row.stored_bytes for row in rows}
    changes = [f"missing: {name}" for name in expected if name not in sizes]
    changes += [f"extra: {name}" for name in sizes if name not in expected]
    changes += [
        f"changed: {name} ({sizes[name]} bytes, not {size})"
        for name, size in expected.items()
        if sizes.get(name, size) != size
    ]
    if changes:
        raise _not_as_verified(folder, changes)
    return Index(folder, rows)


def _not_as_verified(folder: Path, changes: list[str]) -> UserError:
    return UserError(
        f"{folder} is not as it was verified:\n{bulleted(changes)}\n"
        "Restore the images with: dvc repro verify"
    )
