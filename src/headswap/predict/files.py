"""What the arguments of a command name: a cell, and photographs."""

import glob
import sys
from collections.abc import Sequence
from pathlib import Path

from headswap.errors import UserError
from headswap.images.folders import EXTENSIONS, OTHER_FORMATS, scan_folder
from headswap.io import not_made_yet, read_csv
from headswap.paths import IMAGES, METRICS
from headswap.predict.folders import is_model_folder


def split_arguments(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the cell, if the first argument names one, and what names photographs.

    What is no file and does not look like one is taken for a cell, mistyped perhaps.
    """
    first, *others = arguments or [""]
    names_file = glob.has_magic(first) or Path(first).exists() or Path(first).suffix
    if first and (is_model_folder(first) or not names_file):
        return first, others
    return None, list(arguments)


def find_named_images(names: Sequence[str]) -> list[Path]:
    """Return the photographs that some files, folders and glob patterns name, each once.

    A file is taken whatever its name is, and if it is missing, too: that is said when it is read.
    Of a folder, and those in it, all images are taken; in a pattern ``**`` matches any number of
    folders. A UserError names a folder or pattern without an image.
    """
    paths: dict[Path, None] = {}  # in order
    for name in names:
        if glob.has_magic(name) and not Path(name).exists():
            matches = sorted(glob.glob(name, recursive=True))
        else:
            matches = [name]
        found: list[Path] = []
        for match in map(Path, matches):
            if match.is_dir():
                images, left_out = scan_folder(match)
                found += sorted(images.values())
                for why in dict.fromkeys(OTHER_FORMATS.values()):
                    if others := left_out.get(why):
                        print(f"{match}: {len(others)} are {why}", file=sys.stderr)
            else:
                found.append(match)
        if not found:
            raise UserError(
                f"There is no image in {name}.\nImages are files whose names end in "
                f"{', '.join(EXTENSIONS)}; any other file can be given by its own name."
            )
        paths |= dict.fromkeys(found)
    return list(paths)


def misclassified_images() -> list[Path]:
    """Return the validation images that most runs of all cells misclassify: the first 12."""
    path = METRICS / "misclassified.csv"
    try:
        images = [row["image"] for row in read_csv(path)]
    except FileNotFoundError:
        raise not_made_yet(path) from None
    if not images:
        raise UserError(
            f"{path} lists no image: no run misclassified one at its best epoch.\n"
            "Name the photographs to explain instead."
        )
    return [IMAGES / "val" / image for image in images[:12]]
