"""What the arguments of a command name: a cell, and photographs."""

import csv
import glob
from collections.abc import Sequence
from pathlib import Path

from headswap.errors import UserError
from headswap.images.folders import EXTENSIONS, is_image
from headswap.paths import IMAGES, METRICS
from headswap.predict.folders import is_model_folder


def split_arguments(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the cell, if the first argument names one, and what names photographs.

    An argument that is no file and does not look like one is taken for a cell, too, so that a
    mistyped one is reported as such.
    """
    if not arguments:
        return None, []
    first = arguments[0]
    names_file = glob.has_magic(first) or Path(first).exists() or Path(first).suffix
    if is_model_folder(first) or not names_file:
        return first, list(arguments[1:])
    return None, list(arguments)


def find_images(names: Sequence[str]) -> list[Path]:
    """Return the photographs that some files, folders and glob patterns name.

    Parameters
    ----------
    names
        A file is taken whatever its name is; of a folder, and those in it, all images are; in a
        pattern ``**`` matches any number of folders.

    Raises
    ------
    UserError
        If a folder has no image, or a pattern no match. That a file is missing is reported when it
        is read, so that the others are classified.
    """
    paths: dict[Path, None] = {}  # in order, each once
    for name in names:
        if glob.has_magic(name) and not Path(name).exists():
            matches = sorted(glob.glob(name, recursive=True))
        else:
            matches = [name]
        found = [path for match in matches for path in _expand(Path(match))]
        if not found:
            raise UserError(
                f"There is no image in {name}.\nImages are files whose names end in "
                f"{', '.join(EXTENSIONS)}; any other file can be given by its own name."
            )
        paths |= dict.fromkeys(found)
    return list(paths)


def misclassified_images() -> list[Path]:
    """Return the validation images that most runs of all cells misclassify: the first 12.

    Raises
    ------
    UserError
        If there is no comparison yet, or no run misclassified an image.
    """
    path = METRICS / "misclassified.csv"
    try:
        with open(path, encoding="utf-8", newline="") as file:
            images = [row["image"] for row in csv.DictReader(file)]
    except FileNotFoundError:
        raise UserError(f"There is no {path} yet.\nMake it with: dvc repro") from None
    if not images:
        raise UserError(
            f"{path} lists no image: no run misclassified one at its best epoch.\n"
            "Name the photographs to explain instead."
        )
    return [IMAGES / "val" / image for image in images[:12]]


def _expand(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = [f for f in path.rglob("*") if is_image(f.relative_to(path).as_posix()) and f.is_file()]
    return sorted(found)
