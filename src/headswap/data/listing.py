"""A user's folder of photographs as it lies: photographs, classes, splits, and what is neither."""

import contextlib
import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
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
from headswap.io import StrPath, local_path, refuse_outputs

Layout = Literal["classes", "splits"] | None
MUCH = 0.25  # the share, of all photographs or of a class, that is not left out without a question


@dataclass
class Listing:
    """What lies in a folder of photographs."""

    folder: Path
    files: dict[str, str]
    # Those used, by path, in order: label, name (the path below the class), group, split or empty
    photographs: pd.DataFrame
    unused: dict[str, str]  # why other photographs that can be read are not used
    left_out: dict[str, list[str]]  # the names of all that is not used, by reason
    notes: list[str]  # what was understood
    hashes: dict[str, str] = field(default_factory=dict)  # by paths in the manifest, once written


def list_images(
    folder: StrPath, layout: Layout = None, table: str | None = None, columns: Columns | None = None
) -> Listing:
    """List a folder's photographs; `layout` says what folders called as splits are, if unclear."""
    refuse_outputs(folder, "FOLDER")
    place = local_path(folder)
    if not place.is_dir():
        text = f"There is no folder {printable(place)} in {Path.cwd()}.\nLay photographs out,"
        raise UserError(f"{text} unpacked, as photos/<class>/…: headswap manifest photos --val 0.3")
    images, left_out = scan_folder(place)
    if table:
        labels, unused, lines, notes = read_labels(table, list(images), columns or Columns())
        left_out |= lines
        rows = [(path, label, path, *more) for path, (label, *more) in labels.items()]
    else:
        splits = _find_splits(place, images, layout)
        notes = [f"{top}/ is taken for {of}/" for top, of in splits.items() if top != of]
        rows, unused = _read_folders(place, images, splits, left_out)
    for path, why in unused.items():
        left_out.setdefault(why, []).append(printable(path))
    found = pd.DataFrame(rows, columns=["path", "label", "name", "group", "split"])
    found = found.set_index("path")
    for column in ("label", "name"):
        found[column] = [unicodedata.normalize("NFC", text) for text in found[column]]
    twice = found.index[found.duplicated(["split", "label", "name"])]
    errors = [f"{printable(path)} is there twice, in another spelling" for path in twice]
    is_odd = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]").search
    why = "is not UTF-8, or has a backslash or a control character"
    errors += [f"{printable(path)} {why}" for path in filter(is_odd, found.index)]
    if errors:
        text = f"{printable(place)} cannot be listed in a manifest:\n{bulleted(errors)}"
        raise UserError(f"{text}\nRename them, then run the same command again.")
    is_split = {"train", "val"} <= {*found["split"]}
    known = found["split"].where(is_split | (found["split"] == "test"), "")
    check_classes(zip(known, found["label"], strict=True), printable(place))
    names = sorted({re.sub(r"\d", "", name) for name in found["label"]})[:300]  # pairs are many
    alike = [difflib.get_close_matches(one, names[n:], 1, 0.9) for n, one in enumerate(names, 1)]
    if pairs := [f"{one} and {of[0]}" for one, of in zip(names, alike, strict=True) if of]:
        notes.append(f"Two classes, or one that is misspelt?\n{bulleted(pairs, 5)}")
    return Listing(place, images, found, unused, left_out, notes)


def _find_splits(folder: Path, files: Iterable[str], layout: Layout) -> dict[str, str]:
    """Return which folders are splits, from their names and what lies beside and below them."""
    parts = [path.split("/") for path in files]
    tops = sorted({top for top, *below in parts if below})
    splits = {top: SPLIT_NAMES[top.lower()] for top in tops if top.lower() in SPLIT_NAMES}
    others = [f"{top}/" for top in tops if top not in splits]
    deep = {splits[of[0]] for of in parts if len(of) > 2 and of[0] in splits}
    if layout == "classes" or (others and not deep and {*splits.values()} == {"train"}):
        return {}  # a class of vehicles may be called train
    if not splits or layout == "splits" or {"train", "val"} <= deep or (deep and not others):
        return splits
    names = " and ".join(f"{top}/" for top in splits)
    command = f"headswap manifest {quote(str(folder))}"
    if not others:
        text = f"{printable(folder)} has photographs in {names}, but no folders of classes there."
        remedy = "Lay them out as train/<class>/<image>, or, if a table has their labels"
        raise UserError(f"{text}\n{remedy}: {printable(command)} --labels TABLE.csv")
    command += " --val 0.3 --layout"
    raise UserError(
        f"{printable(folder)} has {names} beside {', '.join(others[:5])}: classes, or splits?\n"
        f"If {names} hold photographs of a class called so: {command} classes\n"
        f"If {names} hold folders of classes: {command} splits"
    )


def _read_folders(
    folder: Path, files: Iterable[str], splits: dict[str, str], left_out: dict[str, list[str]]
) -> tuple[list[tuple[str, ...]], dict[str, str]]:
    """Return the rows of photographs in classes' folders, and why others are not used."""
    rows: list[tuple[str, ...]] = []
    unused = {}
    for path in files:
        top, *below = path.split("/")
        split = splits.get(top, "")
        label, *name = below if split else [top, *below]
        if not name:
            unused[path] = "in no class's folder"
        elif not split and "train" in splits.values():
            unused[path] = "in none of train/, val/ and test/"
        else:
            rows.append((path, label, "/".join(name), "", split))

    def by_class(paths: Iterable[str]) -> Counter[str]:
        return Counter("/".join(path.split("/")[: 1 + bool(splits)]) for path in paths)

    used = by_class(path for path, *_ in rows)
    much = [
        f"{label}/: {count} of {count + used[label]} photographs are {why}"
        for why in sorted(left_out.keys() & {*OTHER_FORMATS.values()})
        for label, count in by_class(left_out[why]).items()
        if count > MUCH * (count + used[label])
    ]
    total = len(rows) + len(unused)
    for why, count in Counter(unused.values()).items():
        if count > MUCH * total:
            example = printable(next(path for path in unused if unused[path] == why))
            much.append(f"{count} of {total} photographs are {why}, such as {example}")
    if much:
        text = f"Much of {printable(folder)} would be left out:\n{bulleted(much)}"
        raise UserError(f"{text}\nLay them out as <class>/…, or move them out; then try again.")
    return rows, unused


def print_left_out(listing: Listing) -> None:
    """Print how many photographs were left out, and all files and folders, by reason."""
    formats = {*OTHER_FORMATS.values()} & listing.left_out.keys()
    if out := len(listing.unused) + sum(len(listing.left_out[why]) for why in formats):
        print(f"{out} of {out + len(listing.hashes)} photographs left out, for the reasons below.")
    for why, names in listing.left_out.items():
        print(f"Left out, {why} ({len(names)}):\n{bulleted(names, limit=5)}")


def set_groups(listing: Listing, pattern: str | None, minutes: float | None) -> None:
    """Group photographs by their folders below a class's, whichever class, a pattern, or times."""
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
    instead = " in place of the table's" if listing.photographs["group"].any() else ""
    listing.photographs["group"] = groups
    listing.notes.append(f"{len({*groups} - {''})} groups of photographs{instead}")


def groups_by_pattern(paths: Sequence[str], pattern: str) -> list[str]:
    """Return what a regular expression finds in each path: its first group, if it has one."""
    why = f"matches none of the {len(paths)} paths, such as {printable(paths[0])}"
    groups: list[str] = []
    try:
        found = [re.search(pattern, path) for path in paths]
        groups = [match[min(1, match.re.groups)] or "" if match else "" for match in found]
    except re.error as error:
        why = f"is no regular expression: {error}"
    if not any(groups):
        text = f"--group {quote(pattern)} {why}."
        raise UserError(
            f"{text}\nType, for instance, --group '(site[0-9]+)/', --group folder or, of "
            "a table, --group-column NAME."
        )
    return groups


def groups_by_time(
    paths: Sequence[str], times: Sequence[datetime | None], minutes: float
) -> list[str]:
    """Return each photograph's burst, by its folder and first time; empty without a time."""
    folders = [str(PurePosixPath(path).parent) for path in paths]
    groups, last, name = [""] * len(paths), ("", datetime.min), ""
    shots = [(folders[place], time, place) for place, time in enumerate(times) if time]
    for folder, time, place in sorted(shots):
        if folder != last[0] or time - last[1] > timedelta(minutes=minutes):
            name = f"{folder}/{time.isoformat()}"
        groups[place], last = name, (folder, time)
    return groups


def time_taken(path: StrPath) -> datetime | None:
    """Return when a photograph was taken, by its EXIF; None if it does not say."""
    try:
        with open_image(path) as image:
            exif = image.getexif()
            tags = {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
    except Exception:  # not an image, or damaged EXIF
        return None
    for tag in (ExifTags.Base.DateTimeOriginal, ExifTags.Base.DateTime):
        with contextlib.suppress(ValueError):  # no time, or 0000:00:00 of a clock that was not set
            return datetime.strptime(str(tags.get(tag)).strip("\0 "), "%Y:%m:%d %H:%M:%S")
    return None
