"""A user's folder of photographs as it lies: images, classes, and what is neither."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from os import DirEntry, PathLike
from pathlib import Path, PurePosixPath

from headswap.errors import UserError, bulleted, printable
from headswap.images.folders import SPLITS, is_image, scan_folder
from headswap.io import local_path, refuse_outputs

SPLIT_NAMES = {
    **{"train": "train", "training": "train"},
    **{"val": "val", "valid": "val", "validation": "val"},
}
"""The folders that are taken for a split, in lower case."""
UNUSED = ("test", "testing")
"""The folders that are left out beside those, in lower case."""
NOT_IN_CLASS = "not directly in a class's folder"
OTHER_FORMATS = {
    **dict.fromkeys((".heic", ".heif"), "HEIC, which cannot be read: save them as JPEG"),
    **dict.fromkeys((".gif", ".jp2", ".psd", ".svg"), "of a format that is not read: save as JPEG"),
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw"), "raw: save them as JPEG"),
}
"""Why photographs of other formats are left out, by the ending of their names."""
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


@dataclass
class Listing:
    """What lies in a folder of photographs.

    If it ``is_split``, it has folders for training and validation with the classes in them, and the
    names of ``images`` are ``<split>/<class>/<image>``; else ``<class>/<image>``. The ``notes`` say
    what was understood: ``valid/ is taken for val/``. ``left_out`` has, for each reason, the names
    of files and folders that are no images or classes, or not used. ``hashes`` are the perceptual
    ones of the images, by their paths in the manifest, once that is written.
    """

    folder: Path
    is_split: bool = False
    images: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    hashes: dict[str, str] = field(default_factory=dict)


def list_images(folder: str | PathLike[str]) -> Listing:
    """List the images of a user's folder.

    A UserError says what cannot be written in a manifest: there are fewer than two classes, or one
    has no image in one of the splits, or is named as another but for the case of letters.
    """
    refuse_outputs(folder, "FOLDER")
    listing = Listing(local_path(folder))
    _check_folder(listing.folder)
    errors: list[str] = []
    folders, files = _scan(listing, listing.folder)
    listing.left_out[NOT_IN_CLASS] += map(_name, files)
    splits = [f for f in folders if f.name.lower() in SPLIT_NAMES and scan_folder(f.path).folders]
    listing.is_split = bool(splits)
    if not splits:
        for label in folders:
            _list_class(listing, label, "", errors)
    meant: dict[str, str] = {}
    for split in splits:
        name = SPLIT_NAMES[split.name.lower()]
        if split.name != name:
            listing.notes.append(f"{split.name}/ is taken for {name}/")
        if name in meant:
            errors.append(f"{meant[name]} and {split.name}/ both mean {name}/: merge or rename one")
        meant[name] = f"{split.name}/"
        labels, files = _scan(listing, split.path, f"{split.name}/")
        listing.left_out[NOT_IN_CLASS] += [f"{split.name}/{_name(file)}" for file in files]
        for label in labels:
            _list_class(listing, label, f"{name}/", errors)
    for other_folder in folders if splits else ():
        if other_folder not in splits:
            unused = other_folder.name.lower() in UNUSED
            why = "neither trained nor validated on" if unused else "not in train/ or val/"
            listing.left_out[why].append(f"{_name(other_folder)}/")
    listing.images = dict(sorted(listing.images.items()))
    if errors:
        raise UserError(
            f"{printable(listing.folder)} cannot be listed in a manifest:\n"
            f"{bulleted(errors, len(errors))}\n"
            "Then run the same command again."
        )
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


def _scan(
    listing: Listing, folder: str | Path, prefix: str = ""
) -> tuple[list[DirEntry[str]], list[DirEntry[str]]]:
    """Return the folders and the files in a folder; note in the listing what else there is."""
    folders, files, left_out = scan_folder(folder)
    for why, name in left_out:
        listing.left_out[why].append(prefix + name)
    return folders, files


def _list_class(listing: Listing, label: DirEntry[str], split: str, errors: list[str]) -> None:
    """Add the images of a class's folder to the listing."""
    prefix = f"{split}{_name(label)}/"
    folders, files = _scan(listing, label.path, prefix)
    for folder in folders:
        why = "folders, not images" if is_image(folder.name) else "folders in a class's folder"
        listing.left_out[why].append(f"{prefix}{_name(folder)}/")
    images = [file for file in files if is_image(file.name)]
    others = [file for file in files if not is_image(file.name)]
    for file in others:
        ending = Path(file.name).suffix.lower()
        why = OTHER_FORMATS.get(ending, f"{ending or 'without an ending'}, no name of an image")
        listing.left_out[why].append(prefix + _name(file))
    if not images:
        photographs = [f for f in others if Path(f.name).suffix.lower() in OTHER_FORMATS]
        if photographs:
            why = OTHER_FORMATS[Path(photographs[0].name).suffix.lower()]
            errors.append(
                f"{prefix} has {len(photographs)} photographs and all are {why}, or move the "
                "folder away"
            )
        listing.left_out["folders without an image"].append(prefix)
    if images and (wrong := _why_not_writable(label.name)):
        errors.append(f"{prefix} {wrong}: rename it")
        return
    for file in images:
        name = unicodedata.normalize("NFC", f"{split}{label.name}/{file.name}")
        if wrong := _why_not_writable(file.name):
            errors.append(f"{prefix}{_name(file)} {wrong}: rename it")
        elif name in listing.images:
            errors.append(f"{name} is there twice, in two Unicode forms: rename one")
        else:
            listing.images[name] = Path(file.path)


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
    _check_case(
        {printable(path.parent) for path in listing.images.values()}, printable(listing.folder)
    )
    if listing.is_split:
        check_classes(listing.images, printable(listing.folder))
        return
    labels = {name.split("/")[0] for name in listing.images}
    if len(labels) < 2:
        seen = [f"{name} ({why})" for why, names in listing.left_out.items() for name in names]
        raise UserError(
            f"{printable(listing.folder)} has "
            + (f"a single class, {labels.pop()}" if labels else "no images in folders of classes")
            + "; a classifier needs two or more.\n"
            "Lay the images out as <class>/<image>, or as train/<class>/<image> and "
            "val/<class>/<image>, in the folder that you name."
            + (f"\nWhat lies there: {', '.join(seen[:5])}" if seen else "")
        )


def check_classes(names: Iterable[str], where: str) -> None:
    """Check that images ``<split>/<class>/<image>`` have two classes or more, each in both splits.

    `where` is the folder or file that lists them, for the message of the UserError.
    """
    found = {(split, label) for split, label, _ in (name.split("/") for name in names)}
    _check_case(map("/".join, found), where)
    classes = {label for _, label in found} or {"<class>"}
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


def print_left_out(listing: Listing) -> None:
    """Print which files and folders were left out, by reason."""
    for why, names in listing.left_out.items():
        if names:
            print(f"Left out, {why} ({len(names)}):")
            print(bulleted(names, limit=10))


def _name(entry: DirEntry[str]) -> str:
    return printable(entry.name)
