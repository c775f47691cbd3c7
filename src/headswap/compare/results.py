"""Read what the other stages wrote about every cell."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from headswap.compare.variance import Array, Design, replicate_prior
from headswap.compare.versions import merge_versions
from headswap.errors import UserError
from headswap.images.index import Index, read_index
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
DTYPES = dict.fromkeys(TEXT_COLUMNS, str) | dict(seed=int, epoch=int, loss=float, accuracy=float)
"""Stated, because an empty table has no types and a class may be called ``01`` or ``None``."""
COLUMNS = {
    "summary": ("best_val_accuracy", "train_seconds"),
    "curves": ("epoch", "split", "loss", "accuracy"),
    "predictions": ("seed", "epoch", "which", "image", "label", "predicted"),
}
"""The required columns of each kind of table."""
RUN_TIMES = ("seconds_per_run", "wall_seconds_per_run")
KEYS = {
    "cells": ("seeds", "diverged", "preprocessing", *get_args(Cost)),
    "timing": (*RUN_TIMES, *TIMING_CONDITIONS, "revision", "dirty", "versions"),
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
    """For each cell the content of ``metrics/timing/<cell>.json``; that of a probe has its share of
    its features'. A value is a list where it was not the same for all; a version always is."""
    curves: pd.DataFrame
    predictions: pd.DataFrame
    """With ``confidence``, the predicted class's probability, ``probability``, the image's own
    class's, and ``correct`` in place of all probabilities."""
    counts: dict[str, int]
    """The numbers of images: ``metrics/dataset.json``."""
    published: dict[str, pd.DataFrame]
    """The write-up's tables, ``summary`` and ``curves``, of the cells that it had, too; empty if
    it used other images or weights."""
    correct: dict[tuple[str, str], pd.DataFrame]
    """For each cell and epoch which images were classified correctly: a boolean table with a row
    per finished seed and a column per image."""
    index: Index
    design: Design

    @property
    def last(self) -> pd.DataFrame:
        """The predictions at the last epochs."""
        return self.predictions[self.predictions["which"] == "last"]

    @property
    def labels(self) -> pd.Series:
        """The class of each validation image, by its name; empty if no run finished."""
        return self.predictions.drop_duplicates("image").set_index("image")["label"]

    def stands_for_every_seed(self, cell: str) -> bool:
        """Return whether a cell is one run that no seed changes: a probe on a fixed split."""
        one = self.figures.loc[cell, "seeds"] == 1
        return bool(self.cells[cell].mode == "probe" and one and not self.design.folds)

    def weighted_correct(self, weights: Mapping[str, float], which: Epoch = "last") -> Array:
        """Return a weighted sum of several cells' correct predictions, shape (replicates, images).

        The replicates are those of the seeds that all of the cells finished, maybe none; the one
        run of a probe stands for each.
        """
        tables = {cell: self.correct[cell, which] for cell in weights}
        varied = {cell for cell in weights if not self.stands_for_every_seed(cell)}
        seeds = sorted(set.intersection(*(set(tables[cell].index) for cell in varied or weights)))
        if not seeds or any(table.empty for table in tables.values()):
            return np.empty((0, 0))
        values = [
            weight * (tables[cell].loc[seeds] if cell in varied else tables[cell]).to_numpy(float)
            for cell, weight in weights.items()
        ]
        return np.sum(np.broadcast_arrays(*values), axis=0)

    def has_verdict(self, cells: Iterable[str], replicates: int) -> bool:
        """Return whether so many replicates say something about others, or none could differ."""
        return replicates > 1 or all(self.stands_for_every_seed(cell) for cell in cells)

    def replicate_prior(self, which: Epoch = "last") -> Array | None:
        """Return what the cells say about the replicates (see `variance`)."""
        return replicate_prior((self.correct[cell, which] for cell in self.cells), self.design)

    def seconds(self, cell: str) -> pd.Series:
        """Return the seconds of each finished run, in `probe` with its share of the features."""
        return pd.Series(self.timing[cell]["seconds_per_run"], dtype=float)

    def timed_under_same_conditions(self, cells: Iterable[str]) -> bool:
        """Return whether all `TIMING_CONDITIONS` were the same for all runs of some cells."""
        conditions = [[self.timing[cell][key] for key in TIMING_CONDITIONS] for cell in cells]
        mixed = any(isinstance(value, list) for of_cell in conditions for value in of_cell)
        return not mixed and all(of_cell == conditions[0] for of_cell in conditions)


def read_results(params: Params, index: Index | None = None) -> Results:
    """Read the results of the cells that the parameters name, and of no others.

    `index` is that of the images, which is read if it is not given. A UserError says if a cell has
    no results yet, a file is damaged, or cells were validated on different images.
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
        kind: read_table(PUBLISHED / f"{kind}.csv", ("cell", *COLUMNS[kind]))
        for kind in ("summary", "curves")
    }
    figures = {cell: _read_json(CELL_METRICS / f"{cell}.json", "cells") for cell in cells}
    cells = {name: replace(cell, lr=figures[name].get("lr")) for name, cell in cells.items()}
    timing = {name: _read_timing(cell) for name, cell in cells.items()}
    tables = {
        cell: _read_predictions(cell, figures[cell], len(timing[cell]["seconds_per_run"]))
        for cell in cells
    }
    curves = {
        name: _read_curves(name, set() if cell.mode == "probe" else set(tables[name]["seed"]))
        for name, cell in cells.items()
    }
    predictions = stack_tables(tables)
    index = index or read_index()
    return Results(
        params=params,
        cells=cells,
        figures=pd.DataFrame.from_dict(figures, orient="index"),
        timing=timing,
        curves=stack_tables(curves),
        predictions=predictions,
        counts=counts,
        published={
            kind: table[table["cell"].isin(comparable)] for kind, table in published.items()
        },
        correct={
            (cell, which): table[table["which"] == which].pivot(
                index="seed", columns="image", values="correct"
            )
            for cell, table in tables.items()
            for which in EPOCHS
        },
        index=index,
        design=_design(predictions, index, next(iter(figures.values())).get("folds", 0)),
    )


def _design(predictions: pd.DataFrame, index: Index, folds: int) -> Design:
    """Return the design; a UserError says if cells differ in their images, or all are one group."""
    images = {
        cell: frozenset(zip(rows["image"], rows["label"], strict=True))
        for cell, rows in predictions.groupby("cell")
    }
    if len(set(images.values())) > 1:
        raise UserError(
            f"These cells were not validated on the same images: {', '.join(map(str, images))}.\n"
            "Bring all up to date with: dvc repro"
        )
    names = sorted(predictions["image"].unique())
    of_image = {row.path: row.group for row in index.rows if row.group}
    in_group = [of_image.get(path_of(name, folds), f"/{name}") for name in names]
    found, groups = np.unique(in_group, return_inverse=True)
    if len(found) == 1 < len(names):
        raise UserError(
            "All validation images are of one group, which says nothing about others.\n"
            "Split the photographs into more groups, or leave the manifest's groups out."
        )
    return Design(groups if len(found) < len(names) else None, folds)


def path_of(image: str, folds: int) -> str:
    """Return the path in the index of an image that predictions name."""
    return image if folds else f"val/{image}"


def _read_timing(cell: Cell) -> dict[str, Any]:
    timing = _read_json(TIMING / f"{cell.name}.json", "timing")
    if cell.mode != "probe":
        return timing | {"versions": merge_versions(timing)}
    embedding = _read_json(TIMING / f"{cell.model}-embed.json", "embed")
    for name in RUN_TIMES:
        share = embedding[name.removesuffix("_per_run")] / max(1, len(timing[name]))
        timing[name] = [seconds + share for seconds in timing[name]]
    for key in TIMING_CONDITIONS:
        if embedding[key] != timing[key]:
            timing[key] = list(dict.fromkeys([*as_list(timing[key]), embedding[key]]))
    return timing | {"versions": merge_versions(timing, embedding)}


def as_list(value: Any) -> list[Any]:
    """Return a value of `Results.timing` as a list."""
    return value if isinstance(value, list) else [value]


def _read_curves(cell: str, seeds: set[int]) -> pd.DataFrame:
    path = CURVES / f"{cell}.csv"
    table = read_table(path, ("seed", *COLUMNS["curves"]))
    with _explain(path):
        if absent := sorted(seeds - set(table["seed"])):
            raise ValueError(f"no rows of seed {', '.join(map(str, absent))}")
    return table


def _read_predictions(cell: str, figures: dict[str, Any], timed: int) -> pd.DataFrame:
    """Read predictions; a UserError says if there are not one per image of each timed run."""
    path = PREDICTIONS / f"{cell}.csv"
    table = read_table(path, COLUMNS["predictions"])
    with _explain(path):
        images = table.groupby(["which", "seed"])["image"].agg(["size", "nunique"])
        if (images != table["image"].nunique()).any(axis=None):
            raise ValueError("not every run has one row per image")
        runs = table.groupby("which")["seed"].nunique().reindex(EPOCHS, fill_value=0)
        timed //= max(1, figures.get("folds", 0))
        if {*runs, timed} != {figures["seeds"] - figures["diverged"]}:
            raise ValueError(f"{cell} has different runs in predictions, timing and metrics")
    probabilities = table.filter(regex="^p_")
    of_label = probabilities.columns.get_indexer("p_" + table["label"])
    return table.drop(columns=probabilities).assign(
        confidence=probabilities.max(axis=1).astype(float),
        probability=probabilities.to_numpy(float)[np.arange(len(table)), of_label],
        correct=table["label"] == table["predicted"],
    )


def _read_json(path: Path, kind: str) -> dict[str, Any]:
    with _explain(path):
        content = read_json(path)
        if lacking := sorted(set(KEYS[kind]) - set(content)):
            raise ValueError(f"no {', '.join(lacking)}")
    return content


def read_table(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    """Read a CSV file; raise a UserError if it is damaged or lacks a required column."""
    with _explain(path):
        table = pd.read_csv(path, dtype=DTYPES, keep_default_na=False, na_values=[""])
        if lacking := sorted(set(columns) - set(table)):
            raise ValueError(f"no column {', '.join(lacking)}")
    texts = table.columns.intersection(TEXT_COLUMNS)
    return table.assign(
        **{name: table[name].map(without_apostrophe, na_action="ignore") for name in texts}
    )


def stack_tables(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the tables of all cells in one, with a first column ``cell``."""
    return pd.concat(tables, names=["cell"]).reset_index(level="cell").reset_index(drop=True)


def _explain(path: Path) -> AbstractContextManager[None]:
    shipped = PUBLISHED in path.parents
    remedy = "git checkout data" if shipped else "dvc checkout, or git checkout"
    return explain_damage(path, f"Restore it with: {remedy}")
