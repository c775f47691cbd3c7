"""A user's folder of photographs as it lies: photographs, classes, splits, and what is neither."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from os import PathLike
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import Literal

import pandas as pd
from PIL import ExifTags

from headswap.data.labels import Columns, read_labels
from headswap.data.manifest import check_classes
from headswap.errors import UserError, bulleted, printable
from headswap.images.folders import OTHER_FORMATS, SPLIT_NAMES, scan_folder
from headswap.images.reading import open_image
from headswap.io import local_path, refuse_outputs

Layout = Literal["classes", "splits"]
MUCH = 0.25
"""The share of the photographs, of all or of a class, that is not left out without a question."""
EXAMPLES = "Type, for instance, --group '(site[0-9]+)/', or --group folder."
NOT_WRITABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]")
"""What a name in a manifest may not have: control characters, backslashes, what is not UTF-8."""


@dataclass
class Listing:
    """What lies in a folder of photographs.

    ``photographs`` has a row for each that is used, by its path in the folder: its ``label``, its
    ``name`` (the path below the class's folder), ``split`` and ``group``, empty where not known.
    ``unused`` are the others that can be read, with the reason; ``left_out`` has the names of all
    that is not used, by reason; ``notes`` say what was understood. ``hashes`` are the perceptual
    ones of the photographs, by their paths in the manifest, once that is written.
    """

    folder: Path
    files: dict[str, Path]
    left_out: dict[str, list[str]]
    photographs: pd.DataFrame = field(default_factory=pd.DataFrame)
    unused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)

    def leave_out(self, path: str, why: str) -> None:
        """Leave a photograph out that could be read."""
        self.unused[path] = why
        self.left_out[why].append(printable(path))


def list_images(
    folder: str | PathLike[str],
    layout: Layout | None = None,
    table: str | None = None,
    columns: Columns = Columns(),  # noqa: B008
) -> Listing:
    """List the photographs of a user's folder, with classes by its folders or by a `table`.

    `layout` says what folders that are called as a split are, where that could be both.
    """
    refuse_outputs(folder, "FOLDER")
    place = local_path(folder)
    if not place.is_dir():
        raise UserError(
            f"There is no folder {printable(place)} in {Path.cwd()}.\n"
            "Lay the photographs out as photos/<class>/<image>, unpacked, then: "
            "headswap manifest photos --val 0.3"
        )
    images, left_out = scan_folder(place)
    listing = Listing(place, images, defaultdict(list, left_out))
    if table:
        found = read_labels(table, list(images), columns)
        listing.notes += found.notes
        listing.left_out |= found.left_out
        for path, why in found.unused.items():
            listing.leave_out(path, why)
        rows = [(path, label, path, *more) for path, (label, *more) in found.labels.items()]
    else:
        rows = _read_folders(listing, layout)
    listing.photographs = pd.DataFrame(rows, columns=["path", "label", "name", "group", "split"])
    listing.photographs = listing.photographs.set_index("path")
    _check_names(listing)
    splits = listing.photographs["split"]
    known = splits if {"train", "val"} <= {*splits} else splits.mask(splits != "test", "")
    pairs = zip(known, listing.photographs["label"], strict=True)
    check_classes(pairs, printable(place))
    return listing


def _read_folders(listing: Listing, layout: Layout | None) -> list[tuple[str, ...]]:
    """Return the rows of the photographs in classes' folders, at any depth below these."""
    splits = _find_splits(listing, layout)
    listing.notes += [f"{top}/ is taken for {of}/" for top, of in splits.items() if top != of]
    rows: list[tuple[str, ...]] = []
    for path in listing.files:
        top, *below = path.split("/")
        split = splits.get(top, "")
        label, *name = below if split else [top, *below]
        if not name:
            listing.leave_out(path, "in no class's folder")
        elif not split and "train" in splits.values():
            listing.leave_out(path, "in none of train/, val/ and test/")
        else:
            rows.append((path, label, "/".join(name), "", split))
    _check_left_out(listing, 1 + bool(splits), [path for path, *_ in rows])
    return rows


def _find_splits(listing: Listing, layout: Layout | None) -> dict[str, str]:
    """Return which folders are splits, from their names and what lies beside and below them."""
    parts = [path.split("/") for path in listing.files]
    tops = sorted({top for top, *below in parts if below})
    splits = {top: SPLIT_NAMES[top.lower()] for top in tops if top.lower() in SPLIT_NAMES}
    others = [f"{top}/" for top in tops if top not in splits]
    deep = {splits[of[0]] for of in parts if len(of) > 2 and of[0] in splits}
    if layout == "classes" or (others and not deep and {*splits.values()} == {"train"}):
        return {}  # a class of vehicles may be called train
    if not splits or layout == "splits" or {"train", "val"} <= deep or (deep and not others):
        return splits
    names, folder = " and ".join(f"{top}/" for top in splits), printable(listing.folder)
    if not others:
        raise UserError(
            f"{folder} has photographs in {names}, but no folders of classes there.\n"
            "Lay them out as train/<class>/<image>, or, if a table has their labels: "
            f"headswap manifest {quote(folder)} --labels TABLE.csv"
        )
    command = f"headswap manifest {quote(str(listing.folder))} --val 0.3 --layout"
    raise UserError(
        f"{folder} has {names} beside {', '.join(others[:5])}: classes, or splits?\n"
        f"If {names} hold photographs of a class called so: {command} classes\n"
        f"If {names} hold folders of classes: {command} splits"
    )


def _check_left_out(listing: Listing, depth: int, used: list[str]) -> None:
    """Check that not much is left out: of a class, whose path has that depth, and of all."""

    def by_class(paths: list[str]) -> Counter[str]:
        return Counter("/".join(path.split("/")[:depth]) for path in paths)

    lines, of_class, total = [], by_class(used), len(listing.files)
    for why, names in listing.left_out.items():
        if why in OTHER_FORMATS.values():
            lines += [
                f"{label}/: {count} of {count + of_class[label]} photographs are {why}"
                for label, count in by_class(names).items()
                if count > MUCH * (count + of_class[label])
            ]
    for why, count in Counter(listing.unused.values()).items():
        if count > MUCH * total:
            example = listing.left_out[why][0]
            lines.append(f"{count} of {total} photographs are {why}, such as {example}")
    if lines:
        raise UserError(
            f"Much of {printable(listing.folder)} would be left out:\n{bulleted(lines)}\n"
            "Lay them out as <class>/…, or move them out of the folder; then run the same command "
            "again."
        )


def _check_names(listing: Listing) -> None:
    """Check that all names can be written, in one Unicode form."""
    table = listing.photographs
    for column in ("label", "name"):
        table[column] = [unicodedata.normalize("NFC", text) for text in table[column]]
    twice = table.duplicated(["split", "label", "name"])
    errors = [
        f"{printable(path)} is there twice, in another spelling" for path in table[twice].index
    ]
    errors += [
        f"{printable(path)} is not UTF-8, or has a backslash or a control character"
        for path in table.index
        if NOT_WRITABLE.search(path)
    ]
    if errors:
        raise UserError(
            f"{printable(listing.folder)} cannot be listed in a manifest:\n"
            f"{bulleted(errors)}\nRename them, then run the same command again."
        )


def print_left_out(listing: Listing) -> None:
    """Print how many photographs were left out, and all files and folders, by reason."""
    formats = set(OTHER_FORMATS.values())
    left = len(listing.unused) + sum(
        len(names) for why, names in listing.left_out.items() if why in formats
    )
    if left:
        total = left + len(listing.hashes)
        print(f"{left} of {total} photographs left out, for the reasons below.")
    for why, names in listing.left_out.items():
        print(f"Left out, {why} ({len(names)}):")
        print(bulleted(names, limit=5))


def set_groups(listing: Listing, pattern: str | None, minutes: float | None) -> None:
    """Put photographs into groups: by their folders below a class's, a pattern, or their times.

    Folders of the same name in two classes are one group: a site, a day, a burst of frames.
    """
    if pattern and minutes:
        raise UserError("--group and --group-minutes are two ways.\nLeave one of them out.")
    paths = list(listing.photographs.index)
    if minutes:
        times = [time_taken(listing.files[path]) for path in paths]
        groups = groups_by_time(paths, times, minutes)
        if without := times.count(None):
            listing.notes.append(f"{without} photographs have no time in their EXIF: each is alone")
    elif pattern == "folder":
        groups = [name.rpartition("/")[0] for name in listing.photographs["name"]]
    elif pattern:
        groups = groups_by_pattern(paths, pattern)
    else:
        return
    listing.photographs["group"] = groups
    listing.notes.append(f"{len(set(groups) - {''})} groups of photographs")


def groups_by_pattern(paths: Sequence[str], pattern: str) -> list[str]:
    """Return what a regular expression finds in each path: its first group, if it has one.

    >>> groups_by_pattern(["bee/id7_1.jpg", "bee/id7_2.jpg", "bee/new.jpg"], "id([0-9]+)_")
    ['7', '7', '']
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"--group {quote(pattern)} is no regular expression: {error}.\n{EXAMPLES}"
        ) from None
    found = [expression.search(path) for path in paths]
    groups = [match[min(1, expression.groups)] or "" if match else "" for match in found]
    if not any(groups):
        raise UserError(
            f"--group {quote(pattern)} matches none of the {len(paths)} paths, such as "
            f"{printable(paths[0])}.\n{EXAMPLES}"
        )
    return groups


def groups_by_time(
    paths: Sequence[str], times: Sequence[datetime | None], minutes: float
) -> list[str]:
    """Return the burst of each photograph: in one folder, each at most `minutes` after another.

    A burst's name is its folder and first time; a photograph without a time is alone.
    """
    folders: dict[str, list[tuple[datetime, int]]] = defaultdict(list)
    for place, (path, time) in enumerate(zip(paths, times, strict=True)):
        if time:
            folders[str(PurePosixPath(path).parent)].append((time, place))
    groups = [""] * len(paths)
    for folder, shots in folders.items():
        last, name = datetime.min, ""
        for time, place in sorted(shots):
            if time - last > timedelta(minutes=minutes):
                name = f"{folder}/{time.isoformat()}"
            groups[place], last = name, time
    return groups


def time_taken(path: str | PathLike[str]) -> datetime | None:
    """Return when a photograph was taken, by its EXIF; None if it does not say."""
    try:
        with open_image(path) as image:
            exif = image.getexif()
            tags = {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
    except Exception:  # not an image, or damaged EXIF
        return None
    for tag in (ExifTags.Base.DateTimeOriginal, ExifTags.Base.DateTime):
        try:
            return datetime.strptime(str(tags.get(tag)).strip("\0 "), "%Y:%m:%d %H:%M:%S")
        except ValueError:  # none, or 0000:00:00 from a camera whose clock was not set
            continue
    return None
