"""The manifest: which images a data set has, each with its size and SHA-256."""

import csv
import hashlib
import io
from collections import Counter
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from headswap.errors import UserError, bulleted
from headswap.images.folders import SPLITS, check_classes, images_in
from headswap.io import read_bytes, write_csv, write_json
from headswap.paths import DATASET_METRICS

COLUMNS = ("path", "bytes", "sha256")


class Entry(NamedTuple):
    """What an image's file must be: its size in bytes, and its SHA-256 in hexadecimal digits."""

    size: int
    sha256: str


Manifest = dict[str, Entry]
"""An entry for each image, by its path ``<split>/<class>/<image>``."""


def write_manifest(folder: str | PathLike[str], path: str | PathLike[str]) -> Manifest:
    """Write and return the manifest of a folder of images.

    Parameters
    ----------
    folder
        With ``train/<class>/<image>`` and ``val/<class>/<image>`` in it.
    path
        The CSV file to write.

    Raises
    ------
    UserError
        If a class has no image in one of the two splits, or an image cannot be read.
    """
    contents = ((name, read_bytes(image)) for name, image in images_in(folder).items())
    manifest = {
        name: Entry(len(content), hashlib.sha256(content).hexdigest()) for name, content in contents
    }
    write_csv(path, COLUMNS, [(name, *entry) for name, entry in manifest.items()])
    return manifest


def read_manifest(path: str | PathLike[str]) -> Manifest:
    """Read a manifest file.

    Raises
    ------
    UserError
        If there is no such file, or with every line that is wrong.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(
            f"dataset.manifest: there is no {path}.\n"
            f"Make it with: headswap manifest FOLDER --output {path}"
        ) from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(
            f"dataset.manifest: {path} is not a table in UTF-8: {error}.\n"
            f"Make it with: headswap manifest FOLDER --output {path}"
        ) from None
    return parse_manifest(text, str(path))


def parse_manifest(text: str, name: str) -> Manifest:
    """Read a manifest from its text.

    Parameters
    ----------
    text
        A CSV table with the columns path, bytes and sha256.
    name
        The file's name, for the message.

    Raises
    ------
    UserError
        With every line that is wrong.
    """
    manifest: Manifest = {}
    mistakes = []
    rows = csv.DictReader(io.StringIO(text))
    try:
        for row in rows:
            path, size, digest = (row.get(column) or "" for column in COLUMNS)
            parts = PurePosixPath(path).parts
            safe = len(parts) == 3 and parts[0] in SPLITS and ".." not in parts and "\\" not in path
            if safe and path not in manifest and size.isdecimal() and len(digest) == 64:
                manifest[path] = Entry(int(size), digest)
            else:
                mistakes.append(f"line {rows.line_num}: {','.join(map(str, row.values()))[:100]}")
    except csv.Error as error:
        mistakes.append(f"line {rows.line_num}: {error}")
    if mistakes or not manifest:
        raise UserError(
            f"{name} is not a manifest of images (columns {', '.join(COLUMNS)}, every path once, "
            f"as train/<class>/<image> or val/<class>/<image>).\n{bulleted(mistakes)}\n"
            "Restore it with `git checkout`, or make one: headswap manifest FOLDER"
        )
    check_classes(manifest, name)
    return manifest


def count_images(manifest: Manifest) -> dict[str, int]:
    """Count the images by split, by split and class, and those of ``val`` that ``train`` has too.

    >>> manifest = {
    ...     "train/a/1.jpg": Entry(9, "c0"),
    ...     "val/a/2.jpg": Entry(9, "c0"),
    ...     "val/b/3.jpg": Entry(9, "c1"),
    ... }
    >>> count_images(manifest)["val_a"], count_images(manifest)["in_both_splits"]
    (1, 1)
    """
    counts: Counter[str] = Counter()
    for name in manifest:
        split, label, _ = name.split("/")
        counts.update(["images", split, f"{split}_{label}"])
    digests = {
        split: [entry.sha256 for name, entry in manifest.items() if name.startswith(f"{split}/")]
        for split in SPLITS
    }
    trained_on = set(digests["train"])
    counts["in_both_splits"] = sum(digest in trained_on for digest in digests["val"])
    return dict(sorted(counts.items()))


def write_counts(manifest: Manifest, path: str | PathLike[str] = DATASET_METRICS) -> None:
    """Write what `count_images` returns, an output of the stage `verify`."""
    write_json(path, count_images(manifest))


def find_quality_issues(manifest: Manifest) -> list[str]:
    """Return a line for each duplicate and each class of a single image in a split.

    >>> manifest = {
    ...     "train/a/1.jpg": Entry(9, "c0"),
    ...     "val/a/2.jpg": Entry(9, "c0"),
    ...     "val/a/3.jpg": Entry(9, "c1"),
    ... }
    >>> for line in find_quality_issues(manifest):
    ...     print(line)
    the same image more than once: train/a/1.jpg, val/a/2.jpg
    a class of one image: train/a
    """
    names_by_digest: dict[str, list[str]] = {}
    for name, entry in manifest.items():
        names_by_digest.setdefault(entry.sha256, []).append(name)
    class_sizes = Counter(name.rpartition("/")[0] for name in manifest)
    return [
        f"the same image more than once: {', '.join(names)}"
        for names in names_by_digest.values()
        if len(names) > 1
    ] + [f"a class of one image: {name}" for name, size in class_sizes.items() if size == 1]
