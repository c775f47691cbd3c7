"""Folders of photographs: what is in one, and what is an image."""

import os
from os import DirEntry, PathLike
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from headswap.errors import UserError, printable

SPLITS = ("train", "val")
EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"),
    *(".avif", ".jfif"),
)
"""What counts as an image: the list of torchvision's ``ImageFolder``, and two more."""
SYSTEM_FILES = {
    *("__macosx", "temporary items", "network trash folder", "icon\r"),  # macOS
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler"),  # Windows
    *("system volume information", "lost.dir", "lost+found"),  # Windows, Android, Linux
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),  # storage
    "__pycache__",
}
"""What systems and tools leave among a user's files, besides hidden files, in lower case."""


class Scan(NamedTuple):
    """The folders and files in a folder, sorted by name; of all else the reason and the name."""

    folders: list[DirEntry[str]]
    files: list[DirEntry[str]]
    left_out: list[tuple[str, str]]


def scan_folder(folder: str | PathLike[str]) -> Scan:
    """Return what is in a folder, not in those below it; links are followed.

    A UserError says that the folder, or what is in it, cannot be read.
    """
    scan = Scan([], [], [])
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name = printable(entry.name)
                if is_system_file(entry.name):
                    why = "hidden, or left by a system or a tool"
                    scan.left_out.append((why, name + "/" * entry.is_dir()))
                elif entry.is_dir():
                    scan.folders.append(entry)
                elif entry.is_file():
                    scan.files.append(entry)
                elif entry.is_symlink():
                    annex = "annex/objects" in os.readlink(entry.path)
                    why = "of git-annex: bring them with git annex get" if annex else ""
                    scan.left_out.append((why or "links to nothing", name))
                else:
                    scan.left_out.append(("neither files nor folders", name))
    except OSError as error:
        raise UserError(
            f"{printable(error.filename or folder)} cannot be read: {error.strerror}.\n"
            "Make it readable, for instance with chmod, or move it away; then run the same "
            "command again."
        ) from error
    return scan


def find_images(folder: str | PathLike[str]) -> dict[str, Path]:
    """Return the images in a folder and in all below it, by their paths in it, sorted."""
    images: dict[str, Path] = {}
    pending: list[tuple[str, str, frozenset[str]]] = [(os.fspath(folder), "", frozenset())]
    while pending:
        path, prefix, above = pending.pop()
        if (real := os.path.realpath(path)) in above:
            continue  # a link to a folder above
        folders, files, _ = scan_folder(path)
        images |= {prefix + file.name: Path(file.path) for file in files if is_image(file.name)}
        pending += [(entry.path, f"{prefix}{entry.name}/", above | {real}) for entry in folders]
    return dict(sorted(images.items()))


def is_system_file(name: str) -> bool:
    """Return whether a file or folder is hidden, or one that a system or a tool leaves behind.

    >>> is_system_file(".ipynb_checkpoints"), is_system_file("Thumbs.db"), is_system_file("ants")
    (True, True, False)
    """
    return name.startswith((".", "~$")) or name.lower() in SYSTEM_FILES


def is_image(name: str) -> bool:
    """Return whether a path has the name of an image.

    >>> is_image("val/bees/54736755.JPG"), is_image("val/.ipynb_checkpoints/54736755.jpg")
    (True, False)
    """
    path = PurePosixPath(name)
    return path.suffix.lower() in EXTENSIONS and not any(map(is_system_file, path.parts))
