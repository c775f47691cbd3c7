"""The manifest: which images a data set has, each with its size and SHA-256."""

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import chain, zip_longest
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from headswap.errors import UserError, bulleted, printable
from headswap.images.folders import OTHER_FORMATS, SPLITS, is_image
from headswap.io import StrPath, read_bytes, without_apostrophe
from headswap.paths import SHIPPED_MANIFEST

COLUMNS = ("path", "bytes", "sha256")


class Entry(NamedTuple):
    """What an image's file must be; images of one `group` are not independent."""

    size: int
    sha256: str
    group: str = ""  # empty for an image alone
    left_out: str = ""  # why it is not used, empty if it is


Manifest = dict[str, Entry]  # by <split>/<class>/…; an image that is not used may lie elsewhere


def used_images(manifest: Manifest) -> Manifest:
    """Return those that are used."""
    return {name: entry for name, entry in manifest.items() if not entry.left_out}


def read_table(content: bytes, name: str, remedy: str) -> dict[int, dict[str, str]]:
    """Return the rows of a CSV with commas, semicolons or tabs, by the numbers of their lines."""
    rows = {}
    try:
        text = content.decode("utf-8-sig")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        lines = ([without_apostrophe(cell.strip()) for cell in line] for line in reader)
        columns = next(lines, [])
        for cells in lines:
            if any(cells[len(columns) :]):
                raise ValueError(f"line {reader.line_num} has {len(cells)} cells")
            named = zip_longest(columns, cells[: len(columns)], fillvalue="")
            if any(cells):
                rows[reader.line_num] = {column: cell for column, cell in named if column}
    except (ValueError, csv.Error) as error:
        raise UserError(f"{name} is not a table in UTF-8: {error}.\n{remedy}") from None
    return rows


def read_manifest(path: StrPath) -> Manifest:
    """Read a manifest file; a UserError names every line that is wrong."""
    is_shipped = Path(path) == SHIPPED_MANIFEST
    make = f"Make it with: headswap manifest FOLDER --output {path}"
    remedy = "Restore it with: git checkout data" if is_shipped else make
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
        is_placed = re.fullmatch("(train|val|test)/[^/]+/.+", path) and ".." not in path.split("/")
        if not (left_out or is_image(path)):
            why = OTHER_FORMATS.get(PurePosixPath(path).suffix.lower(), "no name of an image")
        elif not (left_out or is_placed):
            why = "no path of an image"
        elif not (size.isdecimal() and re.fullmatch("[0-9a-fA-F]{64}", digest)):
            why = "no size and SHA-256"
        elif path in manifest:
            why = "the path is listed twice"
        else:
            manifest[path] = Entry(int(size), digest.lower(), row.get("group", ""), left_out)
            continue
        mistakes.append(f"line {line}: {printable(','.join(row.values()))[:100]} ({why})")
    if mistakes or not manifest:
        text = f"{name} is not a manifest of images (columns {', '.join(COLUMNS)}, every path once"
        raise UserError(f"{text}, as <split>/<class>/<image>).\n{bulleted(mistakes)}\n{remedy}")
    check_classes((path.split("/")[:2] for path in used_images(manifest)), name)
    return manifest


def check_classes(images: Iterable[Iterable[str]], where: str) -> None:
    """Check (split, class) pairs: two classes, each in train and val; an empty split is either."""
    splits: dict[str, set[str]] = defaultdict(set)
    for split, label in images:
        splits[label].add(split)
    labels = sorted(splits)
    folded = Counter(map(str.casefold, labels))
    same = [label for label in labels if folded[label.casefold()] > 1]
    missing = [f"{at}/{label}" for at in SPLITS for label in labels if not splits[label] & {at, ""}]
    if same:
        wrong = f"classes that differ in case only: {', '.join(same)}"
    elif not labels:
        wrong = "no images in folders of classes"
    elif len(labels) == 1:
        wrong = f"a single class, {labels[0]}; a classifier needs two or more"
    elif missing:
        wrong = f"no images in {', '.join(missing)}"
    else:
        return
    raise UserError(
        f"{where} has {wrong}.\nLay the images out as <class>/<image>, or as train/<class>/<image> "
        "and val/<class>/<image>, every class in both under one name (or correct the labels of the "
        "table); then run the same again."
    )


def count_images(manifest: Manifest) -> dict[str, int]:
    """Count the images by split, and by split and class, without those to test on."""
    parts = [name.split("/")[:2] for name in manifest]
    keys = [("images", at, f"{at}_{label}") for at, label in parts if at in SPLITS]
    return dict(sorted(Counter(chain(*keys)).items()))
