"""Model folders: which there are, what their records say, and what the comparison says of them.

This module does not import torch, so that a mistake is reported at once.
"""

import difflib
import hashlib
import math
import statistics
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from headswap.errors import UserError
from headswap.images.preprocessing import read_preprocessing
from headswap.io import explain_damage, read_csv, read_json
from headswap.params import load, recorded_stages
from headswap.paths import METRICS, MODELS, PREDICTIONS
from headswap.runs.store import RECORD

Seeds = Literal["kept", "all"]
"""The runs of a cell to use: the one that its folder keeps, or all."""


def is_model_folder(name: str) -> bool:
    """Return whether `name` is a trained cell, or the path of a model folder."""
    return any((folder / RECORD).is_file() for folder in (Path(name), MODELS / name))


def find_folder(name: str) -> Path:
    """Return the model folder of a cell of this project, or the one with this path."""
    if is_model_folder(name):
        if not (MODELS / name / RECORD).is_file():
            return Path(name)
        _check_revision(name)
        return MODELS / name
    cells = {cell.name: cell for cell in (load().cells() if Path("params.yaml").exists() else ())}
    if cell := cells.get(name):
        raise UserError(
            f"{name} is not trained yet: there is no {MODELS / name / RECORD}.\n"
            f"Train it with: dvc repro {cell.stage}\n"
            f"or get it from your DVC remote with: dvc pull {cell.stage}"
        )
    known = sorted({*cells, *(path.parent.name for path in MODELS.glob(f"*/{RECORD}"))})
    close = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {close[0]}?" if close else "."
    raise UserError(
        f"There is no cell, image or folder {name}{hint}\n"
        f"Name images or folders that are there, a cell ({', '.join(known) or 'none is trained'}) "
        "or the path of a model folder."
    )


def _check_revision(cell: str) -> None:
    """Raise a UserError if a cell's outputs are not those that ``dvc.lock`` records.

    After `git checkout` without `dvc checkout` they are another branch's. The predictions stand for
    the model, from which they follow: DVC records the digest of a folder in a form of its own.
    """
    path = PREDICTIONS / f"{cell}.csv"
    found = hashlib.md5(path.read_bytes()).hexdigest() if path.exists() else None
    outputs = (output for stage in recorded_stages().values() for output in stage.get("outs", ()))
    if any(out["path"] == path.as_posix() and out["md5"] != found for out in outputs):
        raise UserError(
            f"{MODELS / cell} is not what dvc.lock records: it is of another branch, or was made "
            "without `dvc repro`.\n"
            "Bring what dvc.lock records: dvc checkout --force\n"
            "or make it anew, which takes finished runs from runs/: dvc repro"
        )


def read_record(folder: Path) -> dict[str, Any]:
    """Return what a model folder's ``model.json`` says."""
    path = folder / RECORD
    if not path.exists():
        raise UserError(f"{folder} is no model folder: it has no {RECORD}.\nMake it: dvc repro")
    with explain_damage(path, restore(folder)):
        record = read_json(path)
    read_preprocessing(record, path, restore(folder))
    return record


def require(*packages: str) -> None:
    """Check that packages of an optional extra are installed."""
    if missing := [package for package in packages if not find_spec(package)]:
        raise UserError(
            f"This needs {' and '.join(missing)}, which headswap otherwise does without.\n"
            f"In the project's folder: pip install --constraint constraints.txt {' '.join(missing)}"
        )


def restore(folder: Path) -> str:
    """Return how to get the files of a model folder back."""
    return f"Bring it back with: dvc checkout --force {folder}\nor make it anew with: dvc repro"


def interval(folder: Path, record: Mapping[str, Any]) -> dict[str, float] | None:
    """Return the accuracy of a cell with its interval; None if these runs were not compared.

    ``mean`` at the last epoch; ``low`` and ``high``, for other images and, if there are several
    ``runs``, other runs.
    """
    if "interval" in record:  # of an exported folder
        return record["interval"]
    runs = [run["last"]["accuracy"] for run in record["runs"] if run["diverged"] is None]
    for row in _compared(folder.resolve().parents[1] / METRICS):
        if row["cell"] == record["cell"]:
            mean = float(row["last_val_accuracy_mean"])
            low, high = (float(row[f"last_val_accuracy_ci_{end}"]) for end in ("low", "high"))
            if runs and math.isclose(mean, statistics.fmean(runs), abs_tol=1e-5):
                return {"mean": mean, "low": low, "high": high, "runs": len(runs)}
    return None


def describe(folder: Path, record: Mapping[str, Any], seeds: Seeds) -> str:
    """Return how accurate the runs of a cell that classify were on the validation images."""
    kept = record["kept"]["seed"]
    runs = [run for run in record["runs"] if run["seed"] == kept or seeds == "all"]
    accuracies = ", ".join(f"{run['last']['accuracy']:.1%}" for run in runs if run["last"])
    which = f"seed {kept}" if seeds == "kept" else "all seeds"
    text = (
        f"{record['cell']}, {which}: {accuracies} of {record['counts']['val']} validation images "
        "correct at the last epoch"
    )
    if known := interval(folder, record):
        text += (
            f"; the cell's mean is {known['mean']:.1%}, with a 95% interval of {known['low']:.1%} "
            f"to {known['high']:.1%} for other images{' and runs' * (known['runs'] > 1)}"
        )
    made, here = record["versions"]["torch"], version("torch")
    note = f" It was trained with torch {made}; with {here} it may round differently."
    return f"{text}.{note * (made != here)}"


def best_cell() -> str:
    """Return the best cell of the comparison."""
    for row in _compared(METRICS):
        if row.get("rank") == "1":
            return row["cell"]
    raise UserError(
        f"No cell is given, and {METRICS / 'comparison.csv'} names none that is best.\n"
        "Give a cell before the images, or compare all with: dvc repro"
    )


def _compared(metrics: Path) -> list[dict[str, str]]:
    """Return the rows of the comparison's table that have a finished run."""
    path = metrics / "comparison.csv"
    rows = read_csv(path) if path.exists() else []
    return [row for row in rows if row["last_val_accuracy_mean"]]
