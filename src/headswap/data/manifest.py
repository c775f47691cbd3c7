"""The manifest: which images a data set has, each with its size and SHA-256."""

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from headswap.errors import UserError, bulleted, printable
from headswap.images.folders import OTHER_FORMATS, SPLITS, is_image
from headswap.io import read_bytes, without_apostrophe
from headswap.paths import SHIPPED_MANIFEST

COLUMNS = ("path", "bytes", "sha256")


class Entry(NamedTuple):
    """What an image's file must be: its size in bytes, and its SHA-256 in hexadecimal digits.

    Images of one `group` are not independent; it is empty for an image alone. One that is not used
    says why in `left_out`.
    """

    size: int
    sha256: str
    group: str = ""
    left_out: str = ""


Manifest = dict[str, Entry]
"""An entry for each image, by its path ``<split>/<class>/…``; one that is not used may lie
elsewhere."""


def used_images(manifest: Manifest) -> Manifest:
    """Return the images of a manifest that are used."""
    return {name: entry for name, entry in manifest.items() if not entry.left_out}


def read_table(content: bytes, name: str, remedy: str) -> dict[int, dict[str, str]]:
    """Return the rows of a CSV with commas, semicolons or tabs, by the numbers of their lines."""
    rows = {}
    try:
        text = content.decode("utf-8-sig")
        heading = text.partition("\n")[0]
        delimiter = max(",;\t", key=heading.count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        columns = [cell.strip() for cell in next(reader, [])]
        for row in reader:
            cells = [without_apostrophe(cell.strip()) for cell in row]
            if any(cells[len(columns) :]):
                raise ValueError(f"line {reader.line_num} has {len(cells)} cells")
            if any(cells):
                cells += [""] * (len(columns) - len(cells))
                named = zip(columns, cells, strict=False)
                rows[reader.line_num] = {column: cell for column, cell in named if column}
    except (ValueError, csv.Error) as error:
        raise UserError(f"{name} is not a table in UTF-8: {error}.\n{remedy}") from None
    return rows


def read_manifest(path: str | PathLike[str]) -> Manifest:
    """Read a manifest file; a UserError names every line that is wrong."""
    remedy = f"Make it with: headswap manifest FOLDER --output {path}"
    if Path(path) == SHIPPED_MANIFEST:
        remedy = "Restore it with: git checkout data"
    if not Path(path).is_file():
        raise UserError(f"dataset.manifest: there is no {path}.\n{remedy}")
    return parse_manifest(read_bytes(path), str(path), remedy)


def parse_manifest(content: bytes, name: str, remedy: str) -> Manifest:
    """Read a manifest from its content; `name` is the file's, for the message of the UserError."""
    manifest: Manifest = {}
    mistakes = []
    for line, row in read_table(content, name, remedy).items():
        given, size, digest = (row.get(column, "") for column in COLUMNS)
        path = PurePosixPath(given).as_posix()
        left_out = row.get("left_out") or row.get("duplicate_of", "")  # of earlier versions
        wrong = "" if left_out else _find_mistake(path)
        if not (size.isdecimal() and re.fullmatch("[0-9a-fA-F]{64}", digest)):
            wrong = wrong or "no size and SHA-256"
        if wrong or path in manifest:
            wrong = wrong or "the path is listed twice"
            mistakes.append(f"line {line}: {printable(','.join(row.values()))[:100]} ({wrong})")
        else:
            manifest[path] = Entry(int(size), digest.lower(), row.get("group", ""), left_out)
    if mistakes or not manifest:
        raise UserError(
            f"{name} is not a manifest of images (columns {', '.join(COLUMNS)}, every path once, "
            f"as <split>/<class>/<image>).\n{bulleted(mistakes)}\n{remedy}"
        )
    check_classes((path.split("/")[:2] for path in used_images(manifest)), name)
    return manifest


def _find_mistake(path: str) -> str:
    """Return why a path is not that of an image, empty if it is."""
    if not is_image(path):
        return OTHER_FORMATS.get(PurePosixPath(path).suffix.lower(), "no name of an image")
    is_right = re.fullmatch("(train|val|test)/[^/]+/.+", path) and ".." not in path.split("/")
    return "" if is_right else "no path of an image"


def check_classes(images: Iterable[Iterable[str]], where: str) -> None:
    """Check that images have two classes or more, each in train and in val.

    They are given by their split, which is empty where it is not known yet, and their class.
    `where` is the folder or file that lists them, for the message of the UserError.
    """
    splits: dict[str, set[str]] = defaultdict(set)
    for split, label in images:
        splits[label].add(split)
    by_case = defaultdict(list)
    for label in sorted(splits):
        by_case[label.casefold()].append(label)
    if same := [" and ".join(labels) for labels in by_case.values() if len(labels) > 1]:
        raise UserError(
            f"{where} has classes that differ in case only: {'; '.join(same)}.\n"
            "Give them the same name, or names that differ in more; then run the same command "
            "again."
        )
    if len(splits) < 2:
        found = f"a single class, {min(splits)}" if splits else "no images in folders of classes"
        raise UserError(
            f"{where} has {found}; a classifier needs two or more.\n"
            "Lay the images out as <class>/<image>, or as train/<class>/<image> and "
            "val/<class>/<image>, in the folder that you name."
        )
    expected = [(split, label) for split in SPLITS for label in sorted(splits)]
    missing = [f"{split}/{label}" for split, label in expected if not splits[label] & {split, ""}]
    if missing:
        raise UserError(
            f"{where} has no images in {', '.join(missing)}.\n"
            "Lay the images out as train/<class>/<image> and val/<class>/<image>, "
            "every class in both."
        )


def count_images(manifest: Manifest) -> dict[str, int]:
    """Count the images by split, and by split and class, without those to test on.

    >>> manifest = {f"{name}.jpg": Entry(9, "c0") for name in ("train/a/1", "val/a/2", "val/b/3")}
    >>> count_images(manifest)
    {'images': 3, 'train': 1, 'train_a': 1, 'val': 2, 'val_a': 1, 'val_b': 1}
    """
    counts: Counter[str] = Counter()
    for name in manifest:
        split, label, _ = name.split("/", 2)
        if split in SPLITS:
            counts.update(["images", split, f"{split}_{label}"])
    return dict(sorted(counts.items()))
