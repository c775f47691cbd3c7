"""Folders of photographs: what is in one, and what is an image."""

import importlib.util
import os
from collections import defaultdict
from os import PathLike

from headswap.errors import UserError, printable

SPLITS = ("train", "val")
SPLIT_NAMES = {  # the folders that are taken for a split, in lower case
    **{"train": "train", "training": "train", "test": "test", "testing": "test"},
    **{"val": "val", "valid": "val", "validation": "val"},
}
READS_HEIC = importlib.util.find_spec("pillow_heif") is not None
HEIC = (".heic", ".heif")
EXTENSIONS = (  # of images: the list of torchvision's ``ImageFolder``, and some more
    *(".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"),
    *(".avif", ".jfif", *(HEIC if READS_HEIC else ())),
)
OTHER_FORMATS = {  # why photographs are left out, by the ending of their names
    **dict.fromkeys(HEIC, "HEIC: save them as JPEG, or pip install pillow-heif"),
    **dict.fromkeys((".gif", ".jp2", ".psd", ".svg"), "of a format that is not read: save as JPEG"),
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw"), "raw: save them as JPEG"),
}
SYSTEM_FILES = {  # what systems and tools leave, besides hidden files, in lower case
    *("__macosx", "temporary items", "network trash folder", "icon\r"),  # macOS
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler"),  # Windows
    *("system volume information", "lost.dir", "lost+found", "__pycache__"),  # and others
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),  # storage
}


def scan_folder(folder: str | PathLike[str]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the images in a folder and below it, sorted by their paths in it; by reason the rest.

    A link to a folder above it is not followed.
    """
    images: dict[str, str] = {}
    left_out: dict[str, list[str]] = defaultdict(list)
    pending: list[tuple[str, str, frozenset[str]]] = [(os.fspath(folder), "", frozenset())]
    while pending:
        path, prefix, above = pending.pop()
        above |= {os.path.realpath(path)}
        try:
            with os.scandir(path) as found:
                entries = sorted(found, key=lambda entry: entry.name)
            if not entries:
                left_out["empty folders"].append(printable(prefix))
            for entry in entries:
                name = prefix + entry.name
                if why := _why_left_out(entry):
                    left_out[why].append(printable(name) + "/" * entry.is_dir())
                elif not entry.is_dir():
                    images[name] = entry.path
                elif os.path.realpath(entry.path) not in above:
                    pending.append((entry.path, f"{name}/", above))
        except OSError as error:
            text = f"{printable(error.filename or path)} cannot be read: {error.strerror}."
            raise UserError(f"{text}\nMake it readable or move it away, then try again.") from error
    return dict(sorted(images.items())), {k: sorted(v) for k, v in left_out.items()}


def _why_left_out(entry: os.DirEntry[str]) -> str:
    ending = os.path.splitext(entry.name)[1].lower()
    if is_system_file(entry.name):
        return "hidden, or left by a system or a tool"
    if entry.is_dir() or (entry.is_file() and ending in EXTENSIONS):
        return ""
    if entry.is_file():
        return OTHER_FORMATS.get(ending, f"{ending or 'without an ending'}, no name of an image")
    if not entry.is_symlink():
        return "neither files nor folders"
    annex = "annex/objects" in os.readlink(entry.path)
    return "of git-annex: bring them with git annex get" if annex else "links to nothing"


def find_images(folder: str | PathLike[str]) -> dict[str, str]:
    """Return the images in a folder and in all below it, by their paths in it, sorted."""
    return scan_folder(folder)[0]


def is_system_file(name: str) -> bool:
    """Return whether a file or folder is hidden, or one that a system or a tool leaves behind."""
    return name.startswith((".", "~$")) or name.lower() in SYSTEM_FILES


def is_image(name: str) -> bool:
    """Return whether a path has the name of an image, and no part of it a system file's."""
    parts = (part for part in name.split("/") if part != ".")
    return os.path.splitext(name)[1].lower() in EXTENSIONS and not any(map(is_system_file, parts))
