"""The manifest: which images a data set has, each with its size and SHA-256."""

import csv
import hashlib
import io
import os
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.progress import track
from rich.table import Table
from rich.text import Text

from headswap.data.listing import Listing, check_classes
from headswap.errors import UserError, bulleted, printable
from headswap.images.folders import SPLITS, is_image
from headswap.images.reading import UnreadableImage, decode_image
from headswap.io import read_bytes, refuse_outputs, write_csv, write_json
from headswap.paths import DATASET_METRICS, SHIPPED_MANIFEST
from headswap.progress import console

COLUMNS = ("path", "bytes", "sha256")
MOST_CLASSES = 30
"""How many classes are listed, the largest first."""


class Entry(NamedTuple):
    """What an image's file must be: its size in bytes, and its SHA-256 in hexadecimal digits."""

    size: int
    sha256: str


Manifest = dict[str, Entry]
"""An entry for each image, by its path ``<split>/<class>/<image>``."""


def write_manifest(
    listing: Listing,
    path: str | PathLike[str],
    val: float | None = None,
    seed: int = 0,
) -> Manifest:
    """Read all images of a user's folder; write and return its manifest.

    `val` is the share of the images to validate on, in a folder of classes. If it is None and
    `path` is an older manifest, images that it lists stay in their splits, and its share is used
    for the others.
    """
    refuse_outputs(path, "--output")
    old = _old_manifest(path)
    _check_share(listing, val, old, path)
    entries = read_entries(listing)
    if not listing.is_split:
        known = old if val is None else {}
        count = sum(name.startswith("val/") for name in old)
        entries = split_images(entries, val or count / len(old), seed, known)
    write_csv(path, COLUMNS, [(name, *entry) for name, entry in sorted(entries.items())])
    return entries


def _old_manifest(path: str | PathLike[str]) -> Manifest:
    """Return the manifest that `path` is to replace, none if there is no such file."""
    if not Path(path).exists():
        return {}
    try:
        return read_manifest(path)
    except UserError:
        text = Path(path).read_bytes()[:200] if Path(path).is_file() else b""
        if text.startswith((b"path", b"\xef\xbb\xbfpath")):  # a manifest with mistakes
            return {}
        raise UserError(
            f"{path} is there already and is no manifest; it is not overwritten.\n"
            "Name another file: headswap manifest FOLDER --output data/photos.csv"
        ) from None


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


def read_entries(listing: Listing) -> Manifest:
    """Return size and SHA-256 of the images of a listing, all of which are read, on all cores.

    A UserError names every image that cannot be read.
    """
    reasons, entries = {}, {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(_read_entry, listing.images.values())
        total, hidden = len(listing.images), not console.is_terminal
        shown = track(results, "reading", total, console=console, transient=True, disable=hidden)
        for name, (entry, reason) in zip(listing.images, shown, strict=True):
            entries[name] = entry
            if reason:
                reasons[listing.images[name]] = reason
    if reasons:
        lines = [f"{printable(path)}: {reason}" for path, reason in reasons.items()]
        raise UserError(
            f"{printable(listing.folder)} has {len(reasons)} images that cannot be read:\n"
            f"{bulleted(lines, len(lines))}\n"
            "Replace or remove them, then run the same command again."
        )
    return entries


def _read_entry(path: Path) -> tuple[Entry, str]:
    """Return an image's size and digest, and why it cannot be read, empty if it can."""
    try:
        content = read_bytes(path)
        entry = Entry(len(content), hashlib.sha256(content).hexdigest())
        decode_image(content, path)
    except UnreadableImage as error:
        return entry, error.why
    except UserError as error:
        return Entry(0, ""), str(error).splitlines()[0]
    return entry, ""


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
                manifest["/".join(parts)] = Entry(int(size), digest.lower())
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


def write_counts(manifest: Manifest) -> None:
    """Write what `count_images` returns, an output of the stage `verify`."""
    write_json(DATASET_METRICS, count_images(manifest))


def find_quality_issues(manifest: Manifest) -> dict[str, list[str]]:
    """Return what makes a comparison on these images less reliable, by kind, the worst first.

    >>> manifest = {
    ...     "train/a/1.jpg": Entry(9, "c0"),
    ...     "val/a/2.jpg": Entry(9, "c0"),
    ...     "val/a/3.jpg": Entry(9, "c1"),
    ... }
    >>> find_quality_issues(manifest)
    {'the same image in both splits': ['train/a/1.jpg, val/a/2.jpg'], 'a class of one image': \
['train/a']}
    """
    issues: dict[str, list[str]] = {
        "the same image in both splits": [],
        "the same image in two classes": [],
        "a class of one image": [],
        "the same image more than once": [],
    }
    names_by_digest: dict[str, list[str]] = {}
    for name, entry in manifest.items():
        names_by_digest.setdefault(entry.sha256, []).append(name)
    for names in names_by_digest.values():
        if len(names) > 1:
            splits, labels, _ = zip(*(name.split("/") for name in names), strict=True)
            kind = "in both splits" if len(set(splits)) > 1 else "in two classes"
            kind = kind if len({*splits}) > 1 or len({*labels}) > 1 else "more than once"
            issues[f"the same image {kind}"].append(", ".join(names))
    class_sizes = Counter(name.rpartition("/")[0] for name in manifest)
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
