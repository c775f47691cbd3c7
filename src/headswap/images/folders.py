"""Folders of images: what an image is, and the order of images and classes.

An image's name is its path in the folder, ``<split>/<class>/<image>``.
"""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path, PurePosixPath

from headswap.errors import UserError
from headswap.paths import IMAGES

SPLITS = ("train", "val")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What counts as an image: the list of torchvision's ``ImageFolder``."""


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
        If there are fewer than two classes, or a class has no image in one of the two splits.
    """
    folder = Path(folder)
    paths = (path for split in SPLITS for path in folder.glob(f"{split}/*/*"))
    images = {path.relative_to(folder).as_posix(): path for path in paths}
    images = {name: images[name] for name in sorted(images) if is_image(name)}
    check_classes(images, folder)
    return images


def ignored_files(folder: str | PathLike[str]) -> list[str]:
    """Return the files of a folder's splits that `images_in` does not list and are not hidden."""
    folder = Path(folder)
    files = (path for split in SPLITS for path in (folder / split).rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix() for path in files if path.name[0] != "."}
    return sorted(names - images_in(folder).keys())


def is_image(name: str) -> bool:
    """Return whether a path has the name of an image.

    >>> is_image("val/bees/54736755.JPG"), is_image("val/bees/._54736755.jpg")
    (True, False)
    """
    path = PurePosixPath(name)  # macOS puts a file of attributes, ._a.jpg, beside each a.jpg
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith("._")


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


def classes_in(folder: str | PathLike[str] = IMAGES) -> list[str]:
    """Return the names of the classes, sorted; a class's index is its label."""
    return sorted({name.split("/")[1] for name in images_in(folder)})


def images_by_split(folder: str | PathLike[str] = IMAGES) -> dict[str, list[str]]:
    """Return the names of each split's images, sorted (see `images_in`)."""
    names = list(images_in(folder))
    return {split: [name for name in names if name.startswith(f"{split}/")] for split in SPLITS}
