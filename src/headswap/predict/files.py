"""What the arguments of a command name: a cell, and photographs."""

import csv
import glob
import os
from collections.abc import Sequence
from pathlib import Path

from headswap.errors import UserError
from headswap.images.folders import EXTENSIONS, is_image
from headswap.paths import IMAGES, PREDICTIONS
from headswap.predict.folders import is_model_folder, read_record, restore


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


def misclassified_images(folder: Path) -> list[Path]:
    """Return the validation images that a cell's kept run misclassifies, the surest mistakes first.

    Parameters
    ----------
    folder
        The cell's model folder, in a project that has its predictions.

    Raises
    ------
    UserError
        If there are no predictions, or the run made no mistake.
    """
    record = read_record(folder)
    project = Path(os.path.normpath(folder / ".." / ".."))
    path = project / PREDICTIONS / f"{record['cell']}.csv"
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise UserError(f"There is no {path}.\n{restore(path)}") from None
    seed = str((record["kept"] or {}).get("seed"))
    wrong = [
        row
        for row in rows
        if (row["seed"], row["which"]) == (seed, "best") and row["label"] != row["predicted"]
    ]
    if not wrong:
        raise UserError(
            f"{record['cell']}, seed {seed}, misclassifies no validation image.\n"
            "Name the photographs to explain instead."
        )
    wrong.sort(key=lambda row: float(row[f"p_{row['label']}"]))
    return [project / IMAGES / "val" / row["image"] for row in wrong]


def _expand(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = [f for f in path.rglob("*") if is_image(f.relative_to(path).as_posix()) and f.is_file()]
    return sorted(found)
