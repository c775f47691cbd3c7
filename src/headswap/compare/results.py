"""Read what the other stages wrote about every cell."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from headswap.compare.variance import Array, replicate_prior
from headswap.compare.versions import merge_versions
from headswap.errors import UserError
from headswap.io import explain_damage, read_json, without_apostrophe
from headswap.params import Cell, Params
from headswap.paths import CELL_METRICS, CURVES, METRICS, PREDICTIONS, PUBLISHED, TIMING

Epoch = Literal["best", "last"]
EPOCHS: tuple[Epoch, ...] = get_args(Epoch)
Cost = Literal["parameters", "trainable_parameters", "gmacs", "depth"]
TIMING_CONDITIONS = {
    "processor": "processor",
    "cores": "cores",
    "device": "device",
    "workers": "runs at a time at most:",
    "arithmetic": "arithmetic",
}
"""What a time depends on besides the cell, by its key, in the words of the report; only times under
the same conditions are compared."""

TEXT_COLUMNS = ("cell", "split", "which", "image", "label", "predicted")
DTYPES = dict.fromkeys(TEXT_COLUMNS, str) | {
    "seed": int,
    "epoch": int,
    "loss": float,
    "accuracy": float,
}
"""Stated, because an empty table has no types and a class may be called ``01`` or ``None``."""
COLUMNS = {
    "summary": ("best_val_accuracy", "train_seconds"),
    "curves": ("epoch", "split", "loss", "accuracy"),
    "predictions": ("epoch", "which", "image", "label", "predicted"),
}
"""The required columns of each kind of table."""
KEYS = {
    "cells": ("seeds", "diverged", "preprocessing", *get_args(Cost)),
    "timing": (
        "seconds_per_run",
        "wall_seconds_per_run",
        *TIMING_CONDITIONS,
        "revision",
        "dirty",
        "versions",
    ),
    "embed": ("seconds", "wall_seconds", *TIMING_CONDITIONS, "versions"),
    "dataset": ("images", "train", "val"),
}
"""The required keys of each kind of JSON file."""


@dataclass(frozen=True)
class Results:
    """The results of all cells of a matrix, in the order of the parameters."""

    params: Params
    cells: dict[str, Cell]
    """With their learning rates where these were chosen from a list."""
    figures: pd.DataFrame
    """A row per cell, indexed by its name: the content of ``metrics/cells/<cell>.json``."""
    timing: dict[str, dict[str, Any]]
    """For each cell the content of ``metrics/timing/<cell>.json``; in `probe` each run's share of
    the time that its features took is added to its times. A value is a list where it was not the
    same for all runs and, in `probe`, the features; a version is a list of all."""
    curves: pd.DataFrame
    """The tables of all cells in one, with a first column ``cell``."""
    predictions: pd.DataFrame
    """The same of the predictions."""
    counts: dict[str, int]
    """The numbers of images: ``metrics/dataset.json``."""
    published: dict[str, pd.DataFrame]
    """The write-up's tables, ``summary`` and ``curves``, without networks that have a factory of
    their own; empty if the write-up used other images or weights."""
    correct: dict[tuple[str, str], pd.DataFrame]
    """For each cell and epoch which images were classified correctly: a boolean table with a row
    per finished seed and a column per image."""

    @property
    def labels(self) -> pd.Series:
        """The class of each validation image, by its name; empty if no run finished."""
        return self.predictions.drop_duplicates("image").set_index("image")["label"]

    def weighted_correct(self, weights: Mapping[str, float], which: Epoch = "best") -> Array:
        """Return a weighted sum of several cells' correct predictions, shape (replicates, images).

        The replicates are those of the seeds that all of the cells finished, maybe none; the one
        run of a probe stands for each.
        """
        correct = {cell: self.correct[cell, which] for cell in weights}
        single = {cell for cell in weights if self._is_one_run(cell)}
        shared = [set(correct[cell].index) for cell in weights.keys() - single or single]
        seeds = sorted(set.intersection(*shared))
        if not seeds:
            return np.empty((0, 0))
        values = {
            cell: (correct[cell] if cell in single else correct[cell].loc[seeds]).to_numpy(float)
            for cell in weights
        }
        return sum(
            (weight * values[cell] for cell, weight in weights.items()), start=np.zeros((1, 1))
        )

    def _is_one_run(self, cell: str) -> bool:
        return self.cells[cell].mode == "probe" and len(self.correct[cell, "last"]) == 1

    def replicate_prior(self, which: Epoch = "best", without: str | None = None) -> Array | None:
        """Return what the cells say about the replicates (see `variance`), maybe all but one."""
        values = [self.correct[cell, which] for cell in self.cells if cell != without]
        return replicate_prior(of_cell for of_cell in values if len(of_cell))

    def seconds(self, cell: str) -> pd.Series:
        """Return the seconds of each finished run, in `probe` with its share of the features."""
        return pd.Series(self.timing[cell]["seconds_per_run"], dtype=float)

    def timed_under_same_conditions(self, cells: Iterable[str]) -> bool:
        """Return whether all `TIMING_CONDITIONS` were the same for all runs of some cells."""
        conditions = [[self.timing[cell][key] for key in TIMING_CONDITIONS] for cell in cells]
        mixed = any(isinstance(value, list) for of_cell in conditions for value in of_cell)
        return not mixed and all(of_cell == conditions[0] for of_cell in conditions)


def read_results(params: Params) -> Results:
    """Read the results of the cells that the parameters name, and of no others.

    A UserError says if a cell has no results yet, a file is damaged, or cells were validated on
    different images.
    """
    cells = {cell.name: cell for cell in params.cells()}
    missing = [cell for cell in cells if not (CELL_METRICS / f"{cell}.json").exists()]
    if missing:
        raise UserError(f"These cells have no results yet: {', '.join(missing)}.\nRun: dvc repro")
    counts = _read_json(METRICS / "dataset.json", "dataset")
    same_images = counts == _read_json(PUBLISHED / "dataset.json", "dataset")
    comparable = [
        name
        for name, cell in cells.items()
        if same_images and params.weights == "imagenet" and cell.model not in params.factories
    ]
    published = {
        kind: _read_table(PUBLISHED / f"{kind}.csv", ("cell", *COLUMNS[kind]))
        for kind in ("summary", "curves")
    }
    figures = {cell: _read_json(CELL_METRICS / f"{cell}.json", "cells") for cell in cells}
    cells = {name: replace(cell, lr=figures[name].get("lr")) for name, cell in cells.items()}
    timing = {name: _read_timing(cell) for name, cell in cells.items()}
    predictions = _read_tables(cells, PREDICTIONS, COLUMNS["predictions"])
    curves = _read_tables(cells, CURVES, COLUMNS["curves"])
    for cell in cells:
        of_cell = predictions[predictions["cell"] == cell]
        _check_runs(cell, of_cell, figures[cell], timing[cell])
        path = CURVES / f"{cell}.csv"
        with explain_damage(path, _remedy(path)):
            drawn = set(curves["seed"][curves["cell"] == cell])
            absent = sorted(set(of_cell["seed"]) - drawn)
            if absent and cells[cell].mode != "probe":
                raise ValueError(f"no rows of seed {', '.join(map(str, absent))}")
    _check_images(predictions)
    return Results(
        params=params,
        cells=cells,
        figures=pd.DataFrame.from_dict(figures, orient="index"),
        timing=timing,
        curves=curves,
        predictions=predictions,
        counts=counts,
        published={
            kind: table[table["cell"].isin(comparable)] for kind, table in published.items()
        },
        correct={
            (cell, which): correct_predictions(predictions[predictions["cell"] == cell], which)
            for cell in cells
            for which in EPOCHS
        },
    )


def correct_predictions(predictions: pd.DataFrame, which: Epoch) -> pd.DataFrame:
    """Return which images (columns) each seed (rows) of a cell's predictions has right."""
    rows = predictions[predictions["which"] == which]
    rows = rows.assign(correct=rows["label"] == rows["predicted"])
    return rows.pivot(index="seed", columns="image", values="correct")


def confidence(results: Results, cell: str) -> tuple[Array, NDArray[np.bool_]]:
    """Return the predicted class's probability at the best epoch, and whether it was correct.

    Both have shape (predictions,), over all finished replicates and images.
    """
    rows = results.predictions
    rows = rows[(rows["cell"] == cell) & (rows["which"] == "best")]
    probabilities = rows.filter(regex="^p_").max(axis=1)
    return probabilities.to_numpy(), (rows["label"] == rows["predicted"]).to_numpy()


def _read_timing(cell: Cell) -> dict[str, Any]:
    """Return a cell's times, in `probe` with each run's share of those of the features."""
    timing = _read_json(TIMING / f"{cell.name}.json", "timing")
    records = [timing]
    if cell.mode == "probe":
        embedding = _read_json(TIMING / f"{cell.model}-embed.json", "embed")
        share = 1 / max(1, len(timing["seconds_per_run"]))
        for name in ("seconds", "wall_seconds"):
            more = embedding[name] * share
            timing[f"{name}_per_run"] = [seconds + more for seconds in timing[f"{name}_per_run"]]
        for key in TIMING_CONDITIONS:
            if embedding[key] != timing[key]:
                runs = timing[key] if isinstance(timing[key], list) else [timing[key]]
                timing[key] = list(dict.fromkeys([*runs, embedding[key]]))
        records.append(embedding)
    return {**timing, "versions": merge_versions(*records)}


def _check_runs(
    cell: str, predictions: pd.DataFrame, figures: dict[str, Any], timing: dict[str, Any]
) -> None:
    """Raise a UserError unless each finished run has one prediction per image, and a time."""
    path = PREDICTIONS / f"{cell}.csv"
    with explain_damage(path, _remedy(path)):
        images = predictions.groupby(["which", "seed"])["image"].agg(["size", "nunique"])
        if (images != predictions["image"].nunique()).any(axis=None):
            raise ValueError("not every run has one row per image")
        runs = predictions.groupby("which")["seed"].nunique().reindex(EPOCHS, fill_value=0)
        if {*runs, len(timing["seconds_per_run"])} != {figures["seeds"] - figures["diverged"]}:
            raise ValueError(f"{cell} has different runs in predictions, timing and metrics")


def _check_images(predictions: pd.DataFrame) -> None:
    """Raise a UserError unless all cells were validated on the same images and labels."""
    images = {
        cell: frozenset(zip(rows["image"], rows["label"], strict=True))
        for cell, rows in predictions.groupby("cell")
    }
    if len(set(images.values())) > 1:
        raise UserError(
            f"These cells were not validated on the same images: {', '.join(map(str, images))}.\n"
            "Bring all up to date with: dvc repro"
        )


def _read_json(path: Path, kind: str) -> dict[str, Any]:
    """Read a JSON file; raise a UserError if it is damaged or lacks a required key."""
    with explain_damage(path, _remedy(path)):
        content = read_json(path)
        if lacking := sorted(set(KEYS[kind]) - set(content)):
            raise ValueError(f"no {', '.join(lacking)}")
    return content


def _read_table(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    """Read a CSV file; raise a UserError if it is damaged or lacks a required column."""
    with explain_damage(path, _remedy(path)):
        table = pd.read_csv(path, dtype=DTYPES, keep_default_na=False, na_values=[""])
        if lacking := sorted(set(columns) - set(table)):
            raise ValueError(f"no column {', '.join(lacking)}")
    return without_apostrophes(table)


def without_apostrophes(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table as it was before `write_csv` made its texts harmless for spreadsheets."""
    texts = table.columns.intersection(TEXT_COLUMNS)
    return table.assign(
        **{name: table[name].map(without_apostrophe, na_action="ignore") for name in texts}
    )


def _read_tables(cells: Iterable[str], folder: Path, columns: Iterable[str]) -> pd.DataFrame:
    """Return a kind of table of all cells in one, with a first column ``cell``."""
    tables = {cell: _read_table(folder / f"{cell}.csv", ("seed", *columns)) for cell in cells}
    stacked = pd.concat(tables, names=["cell"]).copy()  # defragments a table of 1,000 columns
    return stacked.reset_index(level="cell").reset_index(drop=True)


def _remedy(path: Path) -> str:
    shipped = PUBLISHED in path.parents
    return f"Restore it with: {'git checkout data' if shipped else 'dvc checkout, or git checkout'}"
