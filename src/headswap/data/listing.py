"""A user's folder of photographs as it lies: images, classes, and what is neither."""

import os
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from os import DirEntry, PathLike
from pathlib import Path

from headswap.errors import UserError, bulleted, printable
from headswap.images.folders import check_case, check_classes, is_image, is_system_file
from headswap.io import local_path, refuse_outputs

SPLIT_NAMES = {
    **{"train": "train", "training": "train"},
    **{"val": "val", "valid": "val", "validation": "val"},
}
"""The folders that are taken for a split, in lower case."""
UNUSED = ("test", "testing")
"""The folders that are left out beside those, in lower case."""
LEFTOVERS = "hidden, or left by a system or a tool"
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

    Attributes
    ----------
    folder
        The folder.
    is_split
        Whether it has folders for training and validation with the classes in them; if not, its
        folders are the classes.
    images
        The images by their names: ``<split>/<class>/<image>``, or ``<class>/<image>``.
    notes
        What was understood: ``valid/ is taken for val/``.
    left_out
        For each reason the files and folders that are no images or classes.
    """

    folder: Path
    is_split: bool = False
    images: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def list_images(folder: str | PathLike[str]) -> Listing:
    """List the images of a user's folder.

    Parameters
    ----------
    folder
        With ``train/<class>/<image>`` and ``val/<class>/<image>``, or ``<class>/<image>`` in it.

    Raises
    ------
    UserError
        If there is no such folder, or a stage writes it; a folder in it cannot be read; a name
        cannot be written in a manifest; a class has no image in one of the splits, or differs from
        another's name in case only; or there are fewer than two classes.
    """
    refuse_outputs(folder, "FOLDER")
    listing = Listing(local_path(folder))
    _check_folder(listing.folder)
    errors: list[str] = []
    folders, files = _scan(listing, listing.folder)
    listing.left_out[NOT_IN_CLASS] += [name for name in map(_name, files) if name]
    splits = [f for f in folders if f.name.lower() in SPLIT_NAMES and _holds_folders(f.path)]
    listing.is_split = bool(splits)
    if not splits:
        for label in folders:
            _list_class(listing, label, "", errors)
    meant: dict[str, str] = {}
    for split in splits:
        name = SPLIT_NAMES[split.name.lower()]
        if f"{split.name}/" != f"{name}/":
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
    _check_classes(listing)
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
    """Return the folders and the files in a folder, sorted; note what is hidden or no file.

    Links are followed.

    Raises
    ------
    UserError
        If the folder, or what is in it, cannot be read.
    """
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if is_system_file(entry.name):
                    slash = "/" * entry.is_dir()
                    listing.left_out[LEFTOVERS].append(prefix + _name(entry) + slash)
                elif entry.is_dir():
                    folders.append(entry)
                elif entry.is_file():
                    files.append(entry)
                elif entry.is_symlink():
                    listing.left_out["links to nothing"].append(prefix + _name(entry))
                else:
                    listing.left_out["neither files nor folders"].append(prefix + _name(entry))
    except OSError as error:
        raise UserError(
            f"{printable(error.filename or folder)} cannot be read: {error.strerror}.\n"
            "Make it readable, for instance with chmod, or move it away; then run the same "
            "command again."
        ) from error
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


def _check_classes(listing: Listing) -> None:
    """Check that there are two classes or more, where the folder is split in both splits."""
    folders = {printable(path.parent) for path in listing.images.values()}
    check_case(folders, printable(listing.folder))
    if listing.is_split:
        check_classes(listing.images, printable(listing.folder))
        return
    labels = {name.split("/")[0] for name in listing.images}
    if len(labels) < 2:
        seen = [name for names in listing.left_out.values() for name in names]
        raise UserError(
            f"{printable(listing.folder)} has "
            + (f"a single class, {labels.pop()}" if labels else "no images in folders of classes")
            + "; a classifier needs two or more.\n"
            "Lay the images out as <class>/<image>, or as train/<class>/<image> and "
            "val/<class>/<image>, in the folder that you name."
            + (f"\nWhat lies there: {', '.join(seen[:5])}" if seen else "")
        )


def _holds_folders(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entry.is_dir() and not is_system_file(entry.name) for entry in entries)
    except OSError:
        return True  # `_scan` says what is wrong


def _name(entry: DirEntry[str]) -> str:
    return printable(entry.name)
