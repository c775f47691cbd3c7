"""A user's folder of photographs as it lies: photographs, classes, splits, and what is neither."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from os import PathLike
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import Literal, NamedTuple

from headswap.data.groups import groups_by_pattern, groups_by_time, time_taken
from headswap.data.labels import Columns, read_labels
from headswap.errors import UserError, bulleted, printable
from headswap.images.folders import OTHER_FORMATS, SPLIT_NAMES, SPLITS, scan_folder
from headswap.io import local_path, refuse_outputs

Layout = Literal["classes", "splits"]
NO_CLASS = "in no class's folder"
MUCH = 0.25
"""The share of the photographs, of all or of a class, that is not left out without a question."""
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


class Photograph(NamedTuple):
    """A photograph of a folder: its file, its class, and its name, which may have folders in it.

    An empty `split` is not known, an empty `group` is that of a photograph alone.
    """

    file: Path
    label: str
    name: str
    split: str = ""
    group: str = ""

    @property
    def path(self) -> str:
        """The path in a manifest, without the split where that is not known."""
        return "/".join(filter(None, (self.split, self.label, self.name)))


@dataclass
class Listing:
    """What lies in a folder of photographs, by paths in it.

    The ``notes`` say what was understood: ``valid/ is taken for val/``. ``left_out`` has, for each
    reason, the names of what is no photograph or not used; ``unused`` are the photographs of these
    that can be read, each with its file and the reason. ``hashes`` are the perceptual ones of the
    photographs, by their paths in the manifest, once that is written.
    """

    folder: Path
    photographs: dict[str, Photograph] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    unused: dict[str, tuple[Path, str]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)

    @property
    def splits(self) -> set[str]:
        """The splits that photographs lie in."""
        return {one.split for one in self.photographs.values()} - {""}

    @property
    def images(self) -> dict[str, Path]:
        """The files of the photographs, by their paths in a manifest."""
        return {one.path: one.file for one in self.photographs.values()}

    def count_unused(self) -> Counter[str]:
        """Return how many photographs are left out, by reason, those of other formats, too."""
        counts = Counter(why for _, why in self.unused.values())
        known = set(OTHER_FORMATS.values())
        return counts + Counter({why: len(v) for why, v in self.left_out.items() if why in known})


def list_images(
    folder: str | PathLike[str],
    layout: Layout | None = None,
    known: Iterable[str] = (),
    table: str | None = None,
    columns: Columns = Columns(),  # noqa: B008
) -> Listing:
    """List the photographs of a user's folder, with classes by its folders or by a `table`.

    `layout` says what folders that are called as a split are, where that could be both; `known` are
    the classes of an earlier manifest, which say it, too.

    A UserError says what cannot be written in a manifest: there are fewer than two classes, or one
    has no image in one of the splits, or is named as another but for the case of letters.
    """
    refuse_outputs(folder, "FOLDER")
    listing = Listing(local_path(folder))
    _check_folder(listing.folder)
    images, left_out = scan_folder(listing.folder)
    listing.left_out |= left_out
    if table:
        found = read_labels(table, list(images), columns)
        listing.notes += found.notes
        for why, names in found.left_out.items():
            listing.left_out[why] += [printable(name) for name in names]
            listing.unused |= {name: (images[name], why) for name in names if name in images}
        for path, (label, group, split) in found.photographs.items():
            listing.photographs[path] = Photograph(images[path], label, path, split, group)
    else:
        _read_folders(listing, images, layout, set(known))
    _check_names(listing)
    _check_listing(listing)
    return listing


def _check_folder(folder: Path) -> None:
    name = printable(folder)
    if folder.is_file() and folder.suffix.lower() in ARCHIVES:
        raise UserError(
            f"{name} is an archive, not a folder.\n"
            "Unpack it, then: headswap manifest FOLDER, with the folder that has the classes in it."
        )
    if folder.is_file():
        raise UserError(f"{name} is a file, not a folder.\nType: headswap manifest FOLDER")
    if not folder.exists():
        raise UserError(
            f"There is no folder {name} in {Path.cwd()}.\n"
            "Correct the name, or lay the photographs out as photos/<class>/<image>, then: "
            "headswap manifest photos --val 0.3"
        )


def _read_folders(
    listing: Listing, images: dict[str, Path], layout: Layout | None, known: set[str]
) -> None:
    """Add the photographs of the classes' folders, at any depth below these."""
    parts = {path: path.split("/") for path in images}
    tops = sorted({of[0] for of in parts.values() if len(of) > 1})
    splits = {top: SPLIT_NAMES[top.lower()] for top in tops if top.lower() in SPLIT_NAMES}
    deep = {of[0] for of in parts.values() if len(of) > 2}
    if (layout or _find_layout(listing.folder, tops, splits, deep, known)) == "classes":
        splits = {}
    twins = [top for top, name in splits.items() if list(splits.values()).count(name) > 1]
    if twins:
        raise UserError(
            f"{printable(listing.folder)} has {' and '.join(f'{top}/' for top in twins)}, which "
            "mean the same: merge or rename one, then run the same command again."
        )
    listing.notes += [f"{top}/ is taken for {of}/" for top, of in splits.items() if top != of]
    for path, of in parts.items():
        split = splits.get(of[0], "")
        label, *name = of[1:] if split else of
        if split == "test" and not name:
            why = "in test/, without a class"
        elif not split and name and "train" in splits.values():
            why = "in none of train/, val/ and test/"
        else:
            why = NO_CLASS
        if not name or why != NO_CLASS:
            listing.left_out.setdefault(why, []).append(printable(path))
            listing.unused[path] = images[path], why
        else:
            listing.photographs[path] = Photograph(images[path], label, "/".join(name), split)
    _check_unused(listing, bool(splits))


def _find_layout(
    folder: Path, tops: list[str], splits: dict[str, str], deep: set[str], known: set[str]
) -> Layout:
    """Return whether folders called as a split are that, from what lies beside and below them."""
    if not splits:
        return "classes"
    names = " and ".join(f"{top}/" for top in splits)
    others = [f"{top}/" for top in tops if top not in splits]
    if not others and not deep:
        raise UserError(
            f"{printable(folder)} has photographs in {names}, but no folders of classes there.\n"
            "Lay them out as train/<class>/<image>, or, if a table has their labels: "
            f"headswap manifest {quote(str(folder))} --labels TABLE.csv"
        )
    if not others or {"train", "val"} <= {splits[top] for top in deep if top in splits}:
        return "splits"
    if {top.lower() for top in splits} == {"train"} and not deep & set(splits):
        return "classes"  # vehicles
    if known:
        return "classes" if known & set(splits) else "splits"
    command = f"headswap manifest {quote(str(folder))} --val 0.3 --layout"
    raise UserError(
        f"{printable(folder)} has {names} beside {', '.join(others[:5])}: classes, or splits?\n"
        f"If {names} hold photographs of a class called so: {command} classes\n"
        f"If {names} hold folders of classes: {command} splits"
    )


def _check_unused(listing: Listing, is_split: bool) -> None:
    """Check that not much is left out, of all photographs and of each class."""
    of_class = Counter("/".join(path.split("/")[: 1 + is_split]) for path in listing.photographs)
    lines = []
    for why in dict.fromkeys(OTHER_FORMATS.values()):
        folders = [name.split("/")[: 1 + is_split] for name in listing.left_out.get(why, ())]
        for label, left in Counter("/".join(of) for of in folders).items():
            if left > MUCH * (left + of_class[label]):
                lines.append(f"{label}/: {left} of {left + of_class[label]} photographs are {why}")
    counts = Counter(why for _, why in listing.unused.values() if "test/, w" not in why)
    total = len(listing.photographs) + counts.total()
    if listing.photographs and counts.total() > MUCH * total:
        for why, count in counts.items():
            names = listing.left_out[why]
            lines.append(f"{count} of {total} photographs are {why}, such as {names[0]}")
    if lines:
        raise UserError(
            f"Much of {printable(listing.folder)} would be left out:\n{bulleted(lines)}\n"
            "Lay them out as <class>/…, or move them out of the folder; then run the same command "
            "again."
        )


def _check_names(listing: Listing) -> None:
    """Check that all names can be written, and write them in one Unicode form."""
    errors, names = [], {}
    for path, one in listing.photographs.items():
        label, name = (unicodedata.normalize("NFC", text) for text in (one.label, one.name))
        one = one._replace(label=label, name=name)
        if wrong := _why_not_writable(path):
            errors.append(f"{printable(path)} {wrong}: rename it")
        elif one.path in names:
            errors.append(f"{one.path} is there twice, in two Unicode forms: rename one")
        names[one.path] = listing.photographs[path] = one
    if errors:
        raise UserError(
            f"{printable(listing.folder)} cannot be listed in a manifest:\n"
            f"{bulleted(errors)}\nThen run the same command again."
        )


def _why_not_writable(name: str) -> str:
    """Return why a name cannot be written in a manifest, empty if it can."""
    if any("\ud800" <= character <= "\udfff" for character in name):
        return "is not UTF-8"
    if "\\" in name:
        return "has a backslash in its name"
    if not all(character.isprintable() for character in name if ord(character) < 160):
        return "has a control character in its name"
    return ""


def _check_listing(listing: Listing) -> None:
    folder = printable(listing.folder)
    labels = {one.label for one in listing.photographs.values()}
    if len(labels) < 2:
        seen = [f"{name} ({why})" for why, names in listing.left_out.items() for name in names]
        raise UserError(
            f"{folder} has "
            + (f"a single class, {labels.pop()}" if labels else "no images in folders of classes")
            + "; a classifier needs two or more.\n"
            "Lay the images out as <class>/<image>, or as train/<class>/<image> and "
            "val/<class>/<image>, in the folder that you name."
            + (f"\nWhat lies there: {', '.join(seen[:5])}" if seen else "")
        )
    places = set()
    for one in listing.photographs.values():
        place = one.file.parents[one.name.count("/")]
        of_class = unicodedata.normalize("NFC", place.name) == one.label  # else a table's
        places.add(printable(place) if of_class else one.label)
    _check_case(places, folder)
    if {"train", "val"} <= listing.splits:
        check_classes(listing.images, folder)


def check_classes(names: Iterable[str], where: str) -> None:
    """Check that images ``<split>/<class>/…`` have two classes or more, each in train and in val.

    `where` is the folder or file that lists them, for the message of the UserError.
    """
    found = {tuple(name.split("/")[:2]) for name in names if "/" in name}
    _check_case(map("/".join, found), where)
    classes = {label for split, label in found if split in SPLITS} or {"<class>"}
    expected = {(split, label) for split in SPLITS for label in classes}
    if missing := expected - found:
        raise UserError(
            f"{where} has no images in {', '.join(sorted(map('/'.join, missing)))}.\n"
            "Lay the images out as train/<class>/<image> and val/<class>/<image>, "
            "every class in both."
        )
    if len(classes) == 1:
        raise UserError(
            f"{where} has a single class, {classes.pop()}; a classifier needs two or more.\n"
            "Lay the images of another class out beside it."
        )
    if only_tested := {label for split, label in found if split == "test"} - classes:
        raise UserError(
            f"{where} has classes in test/ alone: {', '.join(sorted(only_tested))}.\n"
            "Move them away, or lay images of them out in train/ and val/, too."
        )


def _check_case(folders: Iterable[str], where: str) -> None:
    """Check that no two classes differ in case only: `Ants` in one split, `ants` in the other."""
    by_case: dict[str, dict[str, list[str]]] = {}
    for folder in sorted(folders):
        label = PurePosixPath(folder).name
        by_case.setdefault(label.casefold(), {}).setdefault(label, []).append(folder)
    if same := [
        " and ".join(chain(*twins.values())) for twins in by_case.values() if len(twins) > 1
    ]:
        raise UserError(
            f"{where} has classes that differ in case only: {'; '.join(same)}.\n"
            "Give them the same name if they are one class, names that differ in more if they are "
            "two; then run the same command again."
        )


def set_groups(listing: Listing, pattern: str | None, minutes: float | None) -> None:
    """Put photographs into groups: by their folders below a class's, a pattern, or their times.

    Folders of the same name in two classes are one group: a site, a day, a burst of frames.
    """
    if pattern and minutes:
        raise UserError("--group and --group-minutes are two ways.\nLeave one of them out.")
    if not pattern and not minutes:
        return
    paths = list(listing.photographs)
    photographs = list(listing.photographs.values())
    if minutes:
        times = [time_taken(one.file) for one in photographs]
        groups = groups_by_time(paths, times, minutes)
        if without := times.count(None):
            listing.notes.append(f"{without} photographs have no time in their EXIF: each is alone")
    elif pattern == "folder":
        groups = [one.name.rpartition("/")[0] for one in photographs]
    else:
        groups = groups_by_pattern(paths, pattern or "")
    for path, group in zip(paths, groups, strict=True):
        listing.photographs[path] = listing.photographs[path]._replace(group=group)
    listing.notes.append(f"{len(set(groups) - {''})} groups of photographs")


def print_left_out(listing: Listing, listed: int) -> None:
    """Print how many photographs were left out, and all files and folders, by reason."""
    if left := listing.count_unused().total():
        print(f"{left} of {left + listed} photographs left out, for the reasons below.")
    for why, names in listing.left_out.items():
        if names:
            print(f"Left out, {why} ({len(names)}):")
            print(bulleted(names, limit=5))
