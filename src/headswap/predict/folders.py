"""Model folders: which there are, what their records say, and what the comparison says of them.

This module does not import torch, so that a mistake is reported at once.
"""

import csv
import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from headswap.errors import UserError
from headswap.io import read_json
from headswap.params import Cell, load
from headswap.paths import METRICS, MODELS
from headswap.runs.record import RECORD

Seeds = Literal["kept", "all"]
"""The runs of a cell to use: the one that its folder keeps, or all."""


def is_model_folder(name: str) -> bool:
    """Return whether `name` is a trained cell, or the path of a model folder."""
    return any((folder / RECORD).is_file() for folder in (Path(name), MODELS / name))


def find_folder(name: str) -> Path:
    """Return a model folder.

    Parameters
    ----------
    name
        A cell of this project, or the path of a model folder.

    Raises
    ------
    UserError
        If there is none.
    """
    if is_model_folder(name):
        return MODELS / name if (MODELS / name / RECORD).is_file() else Path(name)
    cells = {cell.name: cell for cell in (load().cells() if Path("params.yaml").exists() else ())}
    if cell := cells.get(name):
        raise UserError(
            f"{name} is not trained yet: there is no {MODELS / name / RECORD}.\n"
            f"Train it with: dvc repro {_stage(cell)}\n"
            f"or get it from your DVC remote with: dvc pull {_stage(cell)}"
        )
    known = sorted({*cells, *(path.parent.name for path in MODELS.glob(f"*/{RECORD}"))})
    close = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {close[0]}?" if close else "."
    raise UserError(
        f"There is no cell or image {name}{hint}\n"
        f"Name a cell ({', '.join(known) or 'none is trained here'}) or the path of a model "
        "folder."
    )


def read_record(folder: Path) -> dict[str, Any]:
    """Return what a model folder's ``model.json`` says.

    Raises
    ------
    UserError
        If it is missing or damaged.
    """
    try:
        return read_json(folder / RECORD)
    except FileNotFoundError:
        raise UserError(
            f"{folder} is no model folder: it has no {RECORD}.\nMake it with: dvc repro"
        ) from None
    except ValueError as error:
        raise UserError(f"{folder / RECORD} cannot be read: {error}.\n{restore(folder)}") from error


def restore(folder: Path) -> str:
    """Return how to get the files of a model folder back."""
    return f"Bring it back with: dvc checkout --force {folder}\nor make it anew with: dvc repro"


def interval(folder: Path, record: Mapping[str, Any]) -> dict[str, float] | None:
    """Return the accuracy of a cell with its interval; None if these runs were not compared.

    Returns
    -------
    dict or None
        The ``mean`` accuracy at the best epoch, and ``low`` and ``high``, its 95 % interval for
        other images and other replicates.
    """
    if "interval" in record:  # of an exported folder
        return record["interval"]
    runs = [run["best"]["accuracy"] for run in record["runs"] if run["diverged"] is None]
    for row in _rows(folder.resolve().parent.parent / METRICS / "comparison.csv"):
        if row["cell"] == record["cell"] and row["best_val_accuracy_mean"] and runs:
            mean, low, high = (
                float(row[f"best_val_accuracy_{which}"]) for which in ("mean", "ci_low", "ci_high")
            )
            if math.isclose(mean, sum(runs) / len(runs), abs_tol=1e-5):
                return {"mean": mean, "low": low, "high": high}
    return None


def describe(folder: Path, record: Mapping[str, Any], seeds: Seeds) -> str:
    """Return how accurate the runs of a cell that classify were on the validation images."""
    kept = record["kept"]["seed"]
    runs = [run for run in record["runs"] if run["seed"] == kept or seeds == "all"]
    accuracies = ", ".join(f"{run['best']['accuracy']:.1%}" for run in runs if run["best"])
    which = f"seed {kept}" if seeds == "kept" else "all seeds"
    text = (
        f"{record['cell']}, {which}: {accuracies} of {record['counts']['val']} validation images "
        "correct at the best epoch"
    )
    if known := interval(folder, record):
        text += (
            f"; the cell's mean is {known['mean']:.1%}, with a 95% interval of {known['low']:.1%} "
            f"to {known['high']:.1%} for other images and runs"
        )
    return f"{text}."


def best_cell() -> str:
    """Return the most accurate cell of the comparison, chosen as its report does.

    Raises
    ------
    UserError
        If there is no comparison yet, or no run of it finished.
    """
    rows = [row for row in _rows(METRICS / "comparison.csv") if row["best_val_accuracy_mean"]]
    if not rows:
        raise UserError(
            f"No cell is given, and {METRICS / 'comparison.csv'} names none that is best.\n"
            "Give a cell before the images, or compare all with: dvc repro"
        )
    best = min(
        rows,
        key=lambda row: (
            -float(row["best_val_accuracy_mean"]),
            -float(row["last_val_accuracy_mean"]),
            float(row["seconds_per_run_mean"] or "inf"),
        ),
    )
    return best["cell"]


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _stage(cell: Cell) -> str:
    return f"probe@{cell.model}" if cell.mode == "probe" else f"train@{cell.name}"
