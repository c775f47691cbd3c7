"""The manifest: which images a data set has, each with its size and SHA-256."""

import contextlib
import csv
import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Mapping
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text
from scipy import sparse

from headswap.data.facts import Facts, read_facts
from headswap.data.listing import Listing, check_classes
from headswap.errors import UserError, bulleted, printable
from headswap.images.folders import SPLITS, is_image
from headswap.images.near_duplicates import near_duplicate_pairs
from headswap.io import output_path, write_csv
from headswap.paths import SHIPPED_MANIFEST
from headswap.progress import console

COLUMNS = ("path", "bytes", "sha256")
MOST_CLASSES = 30
"""How many classes are listed, the largest first."""


class Entry(NamedTuple):
    """What an image's file must be: its size in bytes, and its SHA-256 in hexadecimal digits.

    One that is a near-duplicate of another image, and so is left out, names that.
    """

    size: int
    sha256: str
    duplicate_of: str = ""


Manifest = dict[str, Entry]
"""An entry for each image, by its path ``<split>/<class>/<image>``."""


def write_manifest(
    listing: Listing,
    path: str | PathLike[str],
    val: float | None = None,
    seed: int = 0,
    drop_duplicates: bool = False,
) -> Manifest:
    """Read all images of a user's folder; write its manifest, and return the images to use.

    `val` is the share of the images to validate on, in a folder of classes. If it is None and
    `path` is an older manifest, images that it lists stay in their splits, and its share is used
    for the others. If that left near-duplicates out, they are left out again.
    """
    target = output_path(path, "--output", ".csv", renew_manifest=True)
    listed: Manifest = {}
    with contextlib.suppress(UserError):  # there is none, or one with mistakes
        listed = read_manifest(path)
    old = without_duplicates(listed)
    _check_share(listing, val, old, path)
    facts = _read_images(listing)
    copies = find_copies(facts) if drop_duplicates or len(old) < len(listed) else {}
    _note_copies(listing, copies)
    entries = {name: Entry(one.bytes, one.sha256) for name, one in facts.items()}
    images = {name: entry for name, entry in entries.items() if name not in copies}
    names = {name: name if listing.is_split else f"train/{name}" for name in entries}
    if not listing.is_split:
        known = old if val is None else {}
        count = sum(name.startswith("val/") for name in old)
        images = split_images(images, val or count / len(old), seed, known)
        names |= {name.partition("/")[2]: name for name in images}
    if copies:
        check_classes(images, f"{printable(listing.folder)} without near-duplicates")
    listing.hashes = {name: facts[found].phash for found, name in names.items() if name in images}
    left_out = {
        names[name]: entries[name]._replace(duplicate_of=names[other])
        for name, other in copies.items()
    }
    columns = (*COLUMNS, "duplicate_of") if copies else COLUMNS
    rows = [(name, *entry)[: len(columns)] for name, entry in sorted((images | left_out).items())]
    write_csv(target, columns, rows)
    return images


def without_duplicates(manifest: Manifest) -> Manifest:
    """Return the images of a manifest that are used."""
    return {name: entry for name, entry in manifest.items() if not entry.duplicate_of}


def _check_share(
    listing: Listing, val: float | None, old: Manifest, path: str | PathLike[str]
) -> None:
    folder = printable(listing.folder)
    if val is not None and listing.is_split:
        raise UserError(
            f"{folder} is split already, into train/ and val/.\n"
            f"Leave --val out: headswap manifest {folder} --output {path}"
        )
    if val is not None and not 0 < val < 1:
        raise UserError(
            f"--val {val:g} is no share; it is the part of the images to validate on, between 0 "
            f"and 1.\nType: headswap manifest {folder} --val 0.3"
        )
    if val is None and not listing.is_split and not old:
        raise UserError(
            f"{folder} has folders of classes, but no train/ and val/ with the classes in them.\n"
            f"To split the images: headswap manifest {folder} --val 0.3 --seed 0"
        )


def _read_images(listing: Listing) -> dict[str, Facts]:
    """Return the facts of a listing's images; a UserError names all that cannot be read."""
    facts, reasons = read_facts(listing.images)
    if reasons:
        lines = [f"{printable(listing.images[name])}: {why}" for name, why in reasons.items()]
        raise UserError(
            f"{printable(listing.folder)} has {len(reasons)} images that cannot be read:\n"
            f"{bulleted(lines, len(lines))}\n"
            "Replace or remove them, then run the same command again."
        )
    return facts


def find_copies(facts: Mapping[str, Facts]) -> dict[str, str]:
    """Return the images to leave out as near-duplicates, each with one that it is a copy of.

    In one class the first in order of name is kept; of copies in two classes none is, because one
    of their classes is wrong.
    """
    names = sorted(facts)
    hashes = [facts[name].phash for name in names]
    pairs = [(names[one], names[other]) for one, other, _ in near_duplicate_pairs(hashes)]
    copies: dict[str, str] = {}
    for one, other in pairs:
        if _label(one) != _label(other):
            copies |= {one: other, other: one}
    for one, other in pairs:
        if one not in copies:
            copies.setdefault(other, one)
    return copies


def _note_copies(listing: Listing, copies: Mapping[str, str]) -> None:
    for name, other in sorted(copies.items()):
        same = _label(name) == _label(other)
        why = "near-duplicates" if same else "near-duplicates in two classes, of which one is wrong"
        listing.left_out[why].append(f"{name}, of {other}")


def _label(name: str) -> str:
    return PurePosixPath(name).parent.name


def split_images(
    images: Manifest, share: float, seed: int, known: Manifest | None = None
) -> Manifest:
    """Split the images of each class, ``<class>/<image>``, for training and validation.

    Of each class `share` is validated on, at least one image, and not all of them. Identical images
    always come into the same split, and `known` images stay in theirs. The order in which images
    are taken depends on their content and the seed alone, so that a further image moves few others.
    """
    splits = {entry.sha256: name.split("/")[0] for name, entry in (known or {}).items()}
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    for name, entry in images.items():
        labels[name.split("/")[0]].update([entry.sha256])
    single = []
    for label, copies in sorted(labels.items()):
        wanted = min(max(1, round(share * copies.total())), copies.total() - 1)
        taken = sum(count for one, count in copies.items() if splits.get(one) == "val")
        for one in sorted(copies.keys() - splits.keys(), key=lambda one: _rank(one, seed)):
            fits = taken == 0 or taken + copies[one] <= wanted
            splits[one] = "val" if fits else "train"
            taken += copies[one] if fits else 0
        if {splits[one] for one in copies} != set(SPLITS):
            single.append(f"{label}: {copies.total()} images, {len(copies)} of different content")
    if single:
        raise UserError(
            "These classes have too few different images to train and validate on:\n"
            f"{bulleted(single)}\nAdd images to them, then run the same command again."
        )
    return {f"{splits[entry.sha256]}/{name}": entry for name, entry in images.items()}


def _rank(sha256: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{sha256}".encode()).hexdigest()


def read_manifest(path: str | PathLike[str]) -> Manifest:
    """Read a manifest file; a UserError names every line that is wrong."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        own = f"Make it with: headswap manifest FOLDER --output {path}"
        remedy = "Restore it with: git checkout data" if Path(path) == SHIPPED_MANIFEST else own
        raise UserError(f"dataset.manifest: there is no {path}.\n{remedy}") from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(
            f"dataset.manifest: {path} is not a table in UTF-8: {error}.\n"
            f"Make it with: headswap manifest FOLDER --output {path}"
        ) from None
    return parse_manifest(text, str(path))


def parse_manifest(text: str, name: str) -> Manifest:
    """Read a manifest from its text; `name` is the file's, for the message of the UserError."""
    manifest: Manifest = {}
    mistakes = []
    heading = text.split("\n", 1)[0]
    delimiter = ";" if ";" in heading and "," not in heading else ","  # as Excel may write it
    rows = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    try:
        for row in rows:
            path, size, digest = ((row.get(column) or "").strip() for column in COLUMNS)
            parts = PurePosixPath(path).parts
            wrong = _find_mistake(path, size, digest)
            if not wrong and "/".join(parts) in manifest:
                wrong = "the path is listed twice"
            if wrong:
                line = delimiter.join(map(str, row.values()))[:100]
                mistakes.append(f"line {rows.line_num}: {printable(line)} ({wrong})")
            else:
                copy_of = row.get("duplicate_of") or ""
                manifest["/".join(parts)] = Entry(int(size), digest.lower(), copy_of)
    except csv.Error as error:
        mistakes.append(f"line {rows.line_num}: {error}")
    if mistakes or not manifest:
        raise UserError(
            f"{name} is not a manifest of images (columns {', '.join(COLUMNS)}, every path once, "
            f"as train/<class>/<image> or val/<class>/<image>).\n{bulleted(mistakes)}\n"
            "Restore it with `git checkout`, or make one: headswap manifest FOLDER"
        )
    check_classes(without_duplicates(manifest), name)
    return manifest


def _find_mistake(path: str, size: str, digest: str) -> str:
    """Return what is wrong with a line of a manifest, empty if nothing is."""
    parts = PurePosixPath(path).parts
    if "\\" in path:
        return "backslash in the path: write / instead"
    if len(parts) != 3 or parts[0] not in SPLITS or ".." in parts:
        return "no path of an image"
    if not is_image(path):
        return "hidden, or of a format that is not read"
    if not (size.isascii() and size.isdecimal()):
        return "bytes is no number"
    if len(digest) != 64 or set(digest.lower()) - set("0123456789abcdef"):
        return "sha256 is not 64 hexadecimal digits"
    return ""


def count_images(manifest: Manifest) -> dict[str, int]:
    """Count the images by split, and by split and class.

    >>> manifest = {f"{name}.jpg": Entry(9, "c0") for name in ("train/a/1", "val/a/2", "val/b/3")}
    >>> count_images(manifest)
    {'images': 3, 'train': 1, 'train_a': 1, 'val': 2, 'val_a': 1, 'val_b': 1}
    """
    counts: Counter[str] = Counter()
    for name in manifest:
        split, label, _ = name.split("/")
        counts.update(["images", split, f"{split}_{label}"])
    return dict(sorted(counts.items()))


def find_quality_issues(hashes: Mapping[str, str]) -> dict[str, list[str]]:
    """Return what makes a comparison on these images less reliable, by kind, the worst first.

    `hashes` has the perceptual hash of each image by its path.

    >>> hashes = {"train/a/1.jpg": "c0" * 8, "val/a/2.jpg": "c0" * 8, "val/a/3.jpg": "f1" * 8}
    >>> find_quality_issues(hashes)
    {'near-duplicates in both splits': ['train/a/1.jpg, val/a/2.jpg'], 'a class of one image': \
['train/a']}
    """
    issues: dict[str, list[str]] = {
        "near-duplicates in both splits": [],
        "near-duplicates in two classes": [],
        "a class of one image": [],
        "near-duplicates": [],
    }
    names = sorted(hashes)
    pairs = [pair[:2] for pair in near_duplicate_pairs([hashes[name] for name in names])]
    ones, others = zip(*pairs, strict=True) if pairs else ((), ())
    links = sparse.coo_array((np.ones(len(pairs)), (ones, others)), (len(names), len(names)))
    groups: dict[int, list[str]] = defaultdict(list)
    for name, group in zip(names, sparse.csgraph.connected_components(links)[1], strict=True):
        groups[group].append(name)
    for group in groups.values():
        if len(group) > 1:
            splits, labels, _ = map(set, zip(*(name.split("/") for name in group), strict=True))
            kind = " in both splits" if len(splits) > 1 else " in two classes" * (len(labels) > 1)
            issues[f"near-duplicates{kind}"].append(", ".join(group))
    class_sizes = Counter(name.rpartition("/")[0] for name in names)
    issues["a class of one image"] = [name for name, size in class_sizes.items() if size == 1]
    return {kind: lines for kind, lines in issues.items() if lines}


def print_classes(manifest: Manifest) -> None:
    """Print the number of images by class and split, and the share of the largest class."""
    counts = count_images(manifest)
    labels = {name.split("/")[1] for name in manifest}
    sizes = {
        label: [counts.get(f"{split}_{label}", 0) for split in SPLITS] for label in sorted(labels)
    }
    ranked = sorted(sizes, key=lambda label: -sum(sizes[label]))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("class", *SPLITS, "all", "share"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for label in ranked[:MOST_CLASSES]:
        size = sum(sizes[label])
        cells = (*map(str, sizes[label]), str(size), f"{size / len(manifest):.1%}")
        table.add_row(Text(label), *cells)
    if len(ranked) > MOST_CLASSES:
        table.add_row(f"… and {len(ranked) - MOST_CLASSES} more")
    console.print(table)
    largest = max(sizes, key=lambda label: sizes[label][1])
    console.print(
        f"{len(labels)} classes. Always answering {largest}, the largest there, would be right for "
        f"{sizes[largest][1] / counts['val']:.1%} of the validation images.",
        markup=False,
    )
