"""What the arguments of a command name: model folders and photographs; without torch, for speed."""

import difflib
import glob
import hashlib
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from headswap.errors import UserError
from headswap.images.folders import EXTENSIONS, OTHER_FORMATS, scan_folder
from headswap.images.preprocessing import read_preprocessing
from headswap.io import MAKE_ANEW, existing, explain_damage, read_csv, read_json
from headswap.params import load, recorded_stages
from headswap.paths import IMAGES, METRICS, MODELS, PREDICTIONS
from headswap.runs.store import RECORD

Seeds = Literal["kept", "all"]  # the run of a cell that its folder keeps, or all its runs


def split_arguments(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the cell, if the first argument names one, and what names photographs.

    What is no file and does not look like one is taken for a cell, mistyped perhaps.
    """
    first, *others = arguments or [""]
    is_model = any((folder / RECORD).is_file() for folder in (Path(first), MODELS / first))
    names_file = glob.has_magic(first) or Path(first).exists() or Path(first).suffix
    return (first, others) if first and (is_model or not names_file) else (None, [*arguments])


def find_named_images(names: Sequence[str]) -> list[Path]:
    """Return the photographs that files, folders and glob patterns (also ``**``) name, each once.

    Any file is taken, even one that is missing; a folder or pattern must have an image.
    """
    paths: dict[Path, None] = {}  # in order
    for name in names:
        is_pattern = glob.has_magic(name) and not Path(name).exists()
        found: list[Path] = []
        for match in map(Path, sorted(glob.glob(name, recursive=True)) if is_pattern else [name]):
            if not match.is_dir():
                found.append(match)
                continue
            images, left_out = scan_folder(match)
            found += sorted(map(Path, images.values()))
            for why in sorted(left_out.keys() & OTHER_FORMATS.values()):
                print(f"{match}: {len(left_out[why])} are {why}", file=sys.stderr)
        if not found:
            remedy = f"Images end in {', '.join(EXTENSIONS)}; give other files by their own names."
            raise UserError(f"There is no image in {name}.\n{remedy}")
        paths |= dict.fromkeys(found)
    return list(paths)


def misclassified_images() -> list[Path]:
    """Return the first 12 validation images of those that most runs of all cells misclassify."""
    path = existing(METRICS / "misclassified.csv")
    images = []
    for row in islice(read_csv(path, MAKE_ANEW), 12):
        of_fold = IMAGES / row["image"]
        images.append(of_fold if of_fold.exists() else IMAGES / "val" / row["image"])
    if images:
        return images
    raise UserError(f"{path} lists no image.\nName the photographs to explain instead.")


def find_folder(name: str) -> Path:
    """Return the model folder of a cell of this project, or the one with this path."""
    folder = MODELS / name
    if (folder / RECORD).is_file():
        path = PREDICTIONS / f"{folder.name}.csv"  # DVC has its own digest of a folder
        found = path.exists() and hashlib.md5(path.read_bytes()).hexdigest()
        outs = (out for stage in recorded_stages().values() for out in stage.get("outs", ()))
        if any(out["path"] == path.as_posix() and out["md5"] != found for out in outs):
            text = f"{folder} is not what dvc.lock records: it is of another branch, or was made "
            remedy = "Bring what dvc.lock records: dvc checkout --force\nor make it anew: dvc repro"
            raise UserError(f"{text}without `dvc repro`.\n{remedy}")
        return folder
    if Path(name, RECORD).is_file():
        return Path(name)
    cells = {cell.name: cell for cell in (load().cells() if Path("params.yaml").exists() else ())}
    if cell := cells.get(name):
        remedy = f"dvc repro {cell.stage}\nor get it from your DVC remote: dvc pull {cell.stage}"
        text = f"{name} is not trained yet: there is no {folder / RECORD}."
        raise UserError(f"{text}\nTrain it with: {remedy}")
    known = sorted({*cells, *(path.parent.name for path in MODELS.glob(f"*/{RECORD}"))})
    close = difflib.get_close_matches(name, known, 1)
    text = f"There is no cell, image or folder {name}"
    text += f"; did you mean {close[0]}?" if close else "."
    remedy = "Name images or folders that are there, the path of a model folder, or a cell: "
    raise UserError(f"{text}\n{remedy}{', '.join(known) or 'none is trained'}.")


def read_record(folder: Path) -> dict[str, Any]:
    """Return what a model folder's ``model.json`` says."""
    path = folder / RECORD
    remedy = f"Bring it back with: dvc checkout --force {folder}\nor make it anew with: dvc repro"
    with explain_damage(path, remedy):
        record = read_json(path)
    read_preprocessing(record, path, remedy)
    return record


def require(*packages: str) -> None:
    """Check that packages of an optional extra are installed."""
    if missing := [package for package in packages if not find_spec(package)]:
        text = f"This needs {' and '.join(missing)}, which headswap otherwise does without."
        pinned = "--constraint constraints.txt " * Path("constraints.txt").exists()
        raise UserError(f"{text}\nType: pip install {pinned}{' '.join(missing)}")


def interval(folder: Path, record: Mapping[str, Any]) -> dict[str, float] | None:
    """Return a cell's accuracy at the last epoch with its interval; None if it was not compared.

    ``low`` and ``high`` are for other images and, if there are several ``runs``, other runs.
    """
    if "interval" in record:  # of an exported folder
        return record["interval"]
    if row := _compared(folder.resolve().parents[1] / METRICS, "cell", record["cell"]):
        runs = [run["last"]["accuracy"] for run in record["runs"] if run["diverged"] is None]
        ends = ("mean", "ci_low", "ci_high")
        mean, low, high = (float(row[f"last_val_accuracy_{end}"]) for end in ends)
        if abs(mean - sum(runs) / len(runs)) < 1e-5:
            return {"mean": mean, "low": low, "high": high, "runs": len(runs)}
    return None


def describe(folder: Path, record: Mapping[str, Any], seeds: Seeds) -> str:
    """Return how accurate the runs of a cell that classify were on the validation images."""
    kept, made, here = record["kept"]["seed"], record["versions"]["torch"], version("torch")
    runs = [run for run in record["runs"] if run["seed"] == kept or seeds == "all"]
    accuracies = ", ".join(f"{run['last']['accuracy']:.1%}" for run in runs if run["last"])
    text = (
        f"{record['cell']}, {f'seed {kept}' if seeds == 'kept' else 'all seeds'}: {accuracies} of "
        f"{record['counts']['val']} validation images correct at the last epoch"
    )
    if known := interval(folder, record):
        ends = f"{known['low']:.1%} to {known['high']:.1%}"
        text += f"; the cell's mean is {known['mean']:.1%}, with a 95% interval of {ends}"
        text += f" for other images{' and runs' * (known['runs'] > 1)}"
    if made != here:
        text += f". It was trained with torch {made}; with {here} it may round differently"
    return f"{text}."


def best_cell() -> str:
    """Return the best cell of the comparison."""
    if row := _compared(METRICS, "rank", "1"):
        return row["cell"]
    table = existing(METRICS / "comparison.csv")
    text = f"No cell is given, and {table} names none that is best."
    raise UserError(f"{text}\nGive a cell before the images, or compare all with: dvc repro")


def _compared(metrics: Path, column: str, value: str) -> dict[str, str] | None:
    """Return the row of the comparison that has a value in a column, and a finished run."""
    path = metrics / "comparison.csv"
    rows = read_csv(path, MAKE_ANEW) if path.exists() else iter(())
    found = (row for row in rows if row.get(column) == value and row["last_val_accuracy_mean"])
    return next(found, None)
