"""Folders of images: what an image is, and the order of images and classes.

An image's name is its path in the folder, ``<split>/<class>/<image>``.
"""

from collections.abc import Iterable
from itertools import chain
from os import PathLike
from pathlib import Path, PurePosixPath

from headswap.errors import UserError
from headswap.paths import IMAGES

SPLITS = ("train", "val")
EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"),
    *(".avif", ".jfif"),
)
"""What counts as an image: the list of torchvision's ``ImageFolder``, and two more."""
LEFTOVERS = {
    *("__macosx", "temporary items", "network trash folder", "icon\r"),  # macOS
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler"),  # Windows
    *("system volume information", "lost.dir", "lost+found"),  # Windows, Android, Linux
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),  # storage
    "__pycache__",
}
"""What systems and tools leave among a user's files, besides hidden files, in lower case."""


def images_in(folder: str | PathLike[str]) -> dict[str, Path]:
    """List a folder's images.

    Parameters
    ----------
    folder
        With ``train/<class>/<image>`` and ``val/<class>/<image>`` in it.

    Returns
    -------
    dict of str to pathlib.Path
        Sorted by name, ``train/ants/0013035.jpg``.

    Raises
    ------
    UserError
        If the folder is that of the stages and is not there, there are fewer than two classes, or
        a class has no image in one of the two splits.
    """
    folder = Path(folder)
    if folder == IMAGES and not folder.exists():
        raise UserError(
            f"There is no {folder} yet.\nMake it, and all that it needs, with: dvc repro"
        )
    paths = (path for split in SPLITS for path in folder.glob(f"{split}/*/*"))
    images = {path.relative_to(folder).as_posix(): path for path in paths}
    images = {name: images[name] for name in sorted(images) if is_image(name)}
    check_classes(images, folder)
    return images


def is_leftover(name: str) -> bool:
    """Return whether a file or folder is hidden, or one that a system or a tool leaves behind.

    >>> is_leftover(".ipynb_checkpoints"), is_leftover("Thumbs.db"), is_leftover("ants")
    (True, True, False)
    """
    return name.startswith((".", "~$")) or name.lower() in LEFTOVERS


def is_image(name: str) -> bool:
    """Return whether a path has the name of an image.

    >>> is_image("val/bees/54736755.JPG"), is_image("val/.ipynb_checkpoints/54736755.jpg")
    (True, False)
    """
    path = PurePosixPath(name)
    return path.suffix.lower() in EXTENSIONS and not any(map(is_leftover, path.parts))


def check_classes(names: Iterable[str], where: str | PathLike[str]) -> None:
    """Check that there are two classes or more, each with images in both splits.

    Parameters
    ----------
    names
        The images' names.
    where
        The folder or file that lists them, for the message.

    Raises
    ------
    UserError
        If not.
    """
    found = {(split, label) for split, label, _ in (name.split("/") for name in names)}
    check_case(map("/".join, found), where)
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


def check_case(folders: Iterable[str], where: str | PathLike[str]) -> None:
    """Check that no two classes differ in case only: `Ants` in one split, `ants` in the other.

    Parameters
    ----------
    folders
        The paths of the classes' folders.
    where
        The folder or file that lists them, for the message.

    Raises
    ------
    UserError
        If two do.
    """
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


def classes_in(folder: str | PathLike[str] = IMAGES) -> list[str]:
    """Return the names of the classes, sorted; a class's index is its label."""
    return sorted({name.split("/")[1] for name in images_in(folder)})


def images_by_split(folder: str | PathLike[str] = IMAGES) -> dict[str, list[str]]:
    """Return the names of each split's images, sorted (see `images_in`)."""
    names = list(images_in(folder))
    return {split: [name for name in names if name.startswith(f"{split}/")] for split in SPLITS}
