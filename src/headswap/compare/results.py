"""Read what the other stages wrote about every cell."""

import itertools
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from headswap import paths
from headswap.compare.variance import Array, Design, replicate_prior
from headswap.compare.versions import merge_versions
from headswap.errors import UserError
from headswap.images.index import Index, read_index
from headswap.images.near_duplicates import near_duplicate_pairs
from headswap.io import explain_damage, read_json, without_apostrophe
from headswap.params import Cell, Params
from headswap.runs.temperature import cross_fit

Epoch = Literal["best", "last"]
EPOCHS: tuple[Epoch, ...] = get_args(Epoch)
Cost = Literal["parameters", "trainable_parameters", "gmacs", "depth"]
TIMING_CONDITIONS = {key: key for key in ("processor", "cores", "device", "workers", "arithmetic")}
TIMING_CONDITIONS["workers"] = "runs at a time at most:"  # by its key, in words of the report
TEXT_COLUMNS = ("cell", "split", "which", "image", "label", "predicted")
DTYPES = dict.fromkeys(TEXT_COLUMNS, str) | dict(seed=int, epoch=int, loss=float, accuracy=float)
"""Stated, because an empty table has no types and a class may be called ``01`` or ``None``."""
RUN_TIMES = ("seconds_per_run", "wall_seconds_per_run")
COLUMNS = {  # the required ones of each kind of table
    "summary": ("best_val_accuracy", "train_seconds"),
    "curves": ("epoch", "split", "loss", "accuracy"),
    "predictions": ("seed", "epoch", "which", "image", "label", "predicted"),
}


@dataclass(frozen=True)
class Results:
    """The results of all cells of a matrix, in the order of the parameters."""

    params: Params
    cells: dict[str, Cell]  # with their learning rates where these were chosen from a list
    figures: pd.DataFrame  # by cell: the content of metrics/cells/<cell>.json
    timing: dict[str, dict[str, Any]]
    """By cell the content of ``metrics/timing/<cell>.json``; that of a probe has its share of its
    features'. A value is a list where it was not the same for all; a version always is."""
    curves: pd.DataFrame
    predictions: pd.DataFrame
    """With ``confidence``, the predicted class's probability, at last epochs ``calibrated`` by a
    temperature that other images gave, ``probability``, the image's own class's, ``correct``."""
    counts: dict[str, int]  # of images: metrics/dataset.json
    published: dict[str, pd.DataFrame]  # the write-up's; empty if of other images or weights
    correct: dict[tuple[str, str], pd.DataFrame]  # by cell and epoch: see `pivot_correct`
    near_duplicates: pd.DataFrame  # see `find_near_duplicates`
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

        Replicates are of seeds that all cells finished, maybe none; a probe's run stands for each.
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

    def replicate_prior(self, which: Epoch = "last") -> Array | None:
        """Return what the cells say about the replicates (see `variance`)."""
        return replicate_prior((self.correct[cell, which] for cell in self.cells), self.design)

    def seconds(self, cell: str) -> pd.Series:
        """Return the seconds of each finished run, in `probe` with its share of the features."""
        return pd.Series(self.timing[cell]["seconds_per_run"], dtype=float)

    def timed_under_same_conditions(self, cells: Iterable[str]) -> bool:
        """Return whether all `TIMING_CONDITIONS` were the same for all runs of some cells."""
        first, *others = ([self.timing[cell][key] for key in TIMING_CONDITIONS] for cell in cells)
        mixed = any(isinstance(value, list) for value in first)
        return not mixed and all(of_cell == first for of_cell in others)


def read_results(params: Params, index: Index | None = None) -> Results:
    """Read the results of the parameters' cells; a UserError says what is missing or damaged."""
    cells = {cell.name: cell for cell in params.cells()}
    if missing := [cell for cell in cells if not (paths.CELL_METRICS / f"{cell}.json").exists()]:
        raise UserError(f"These cells have no results yet: {', '.join(missing)}.\nRun: dvc repro")
    keys = ("images", "train", "val")
    counts = _read_json(paths.DATASET_METRICS, keys)
    same = counts == _read_json(paths.PUBLISHED / "dataset.json", keys)
    same &= params.weights == "imagenet"
    comparable = [name for name in cells if same and cells[name].model not in params.factories]
    published = {
        kind: read_table(paths.PUBLISHED / f"{kind}.csv", ("cell", *COLUMNS[kind]))
        for kind in ("summary", "curves")
    }
    keys = ("seeds", "diverged", "preprocessing", *get_args(Cost))
    figures = {name: _read_json(paths.CELL_METRICS / f"{name}.json", keys) for name in cells}
    cells = {name: replace(cell, lr=figures[name].get("lr")) for name, cell in cells.items()}
    timing = {name: _read_timing(cell) for name, cell in cells.items()}
    tables = {name: _read_predictions(name, figures[name], timing[name]) for name in cells}
    curves = {name: _read_curves(cell, tables[name]["seed"]) for name, cell in cells.items()}
    predictions = stack_tables(tables)
    index, folds = index or read_index(), next(iter(figures.values())).get("folds", 0)
    pairs = itertools.product(tables, EPOCHS)
    return Results(
        params,
        cells,
        pd.DataFrame.from_dict(figures, orient="index"),
        timing,
        stack_tables(curves),
        predictions,
        counts,
        {name: rows[rows["cell"].isin(comparable)] for name, rows in published.items()},
        {(cell, which): pivot_correct(tables[cell], which) for cell, which in pairs},
        find_near_duplicates(index, folds),
        _design(predictions, index, folds),
    )


def pivot_correct(predictions: pd.DataFrame, which: str) -> pd.DataFrame:
    """Return whether each finished seed (row) classified each image (column) right."""
    rows = predictions[predictions["which"] == which]
    return rows.pivot(index="seed", columns="image", values="correct")


def _design(predictions: pd.DataFrame, index: Index, folds: int) -> Design:
    cells = predictions["cell"].unique()
    if (predictions.groupby(["image", "label"])["cell"].nunique() < len(cells)).any():
        text = f"These cells were not validated on the same images: {', '.join(cells)}."
        raise UserError(f"{text}\nBring all up to date with: dvc repro")
    names = sorted(predictions["image"].unique())
    of_image = {row.path: row.group for row in index.rows}
    design = design_of([of_image.get(path_of(name, folds), "") for name in names], folds)
    if design.units(len(names)) == 1 < len(names):
        text = "All validation images are of one group, which says nothing about others."
        raise UserError(f"{text}\nSet dataset.folds, or split them into more groups.")
    return design


def design_of(groups: Collection[str], folds: int = 0) -> Design:
    """Return the design of images with these groups; those with an empty one are alone."""
    named = [group or f"/{place:09}" for place, group in enumerate(groups)]
    found, numbers = np.unique(named, return_inverse=True)
    return Design(numbers if len(found) < len(named) else None, folds)


def find_near_duplicates(index: Index, folds: int) -> pd.DataFrame:
    """Return the pairs of a validation and a training image that are near-duplicates.

    ``val`` and ``train`` are their paths (with folds, of any two); ``bits`` of 64 bits differ.
    """
    val, train = ([row for row in index.rows if row.split == split] for split in ("val", "train"))
    if folds:
        val = train = [*val, *train]
    others = None if folds else [row.phash for row in train]
    pairs = near_duplicate_pairs([row.phash for row in val], others)
    found = [(val[first], train[second], bits) for first, second, bits in pairs]
    rows = [
        (one.path, other.path, bits)
        for one, other, bits in found
        if not (folds and one.group and one.group == other.group)  # these share a fold
    ]
    table = pd.DataFrame(rows, columns=["val", "train", "bits"])
    return table.sort_values(["bits", "val", "train"], ignore_index=True)


def path_of(image: str, folds: int) -> str:
    """Return the path in the index of an image that predictions name."""
    return image if folds else f"val/{image}"


def _read_timing(cell: Cell) -> dict[str, Any]:
    keys = (*TIMING_CONDITIONS, "versions")
    needed = (*RUN_TIMES, *keys, "revision", "dirty")
    timing = _read_json(paths.TIMING / f"{cell.name}.json", needed)
    if cell.mode != "probe":
        return timing | {"versions": merge_versions(timing)}
    needed = ("seconds", "wall_seconds", *keys)
    embedding = _read_json(paths.TIMING / f"{cell.model}-embed.json", needed)
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


def _read_curves(cell: Cell, seeds: Iterable[int]) -> pd.DataFrame:
    table = read_table(path := paths.CURVES / f"{cell.name}.csv", ("seed", *COLUMNS["curves"]))
    with _explain(path):
        if (absent := sorted(set(seeds) - set(table["seed"]))) and cell.mode != "probe":
            raise ValueError(f"no rows of seed {', '.join(map(str, absent))}")
    return table


def _read_predictions(cell: str, figures: dict[str, Any], timing: dict[str, Any]) -> pd.DataFrame:
    table = read_table(path := paths.PREDICTIONS / f"{cell}.csv", COLUMNS["predictions"])
    with _explain(path):
        images = table.groupby(["which", "seed"])["image"].agg(["size", "nunique"])
        if (images != table["image"].nunique()).any(axis=None):
            raise ValueError("not every run has one row per image")
        runs = table.groupby("which")["seed"].nunique().reindex(EPOCHS, fill_value=0)
        timed = len(timing["seconds_per_run"]) // max(1, figures.get("folds", 0))
        if {*runs, timed} != {figures["seeds"] - figures["diverged"]}:
            raise ValueError(f"{cell} has different runs in predictions, timing and metrics")
    columns = table.filter(regex="^p_").columns
    of_label = columns.get_indexer("p_" + table["label"])
    probabilities = table[columns].to_numpy(float)
    last, images = table["which"] == "last", pd.factorize(table["image"], sort=True)[0]
    calibrated = probabilities.copy()
    calibrated[last] = cross_fit(probabilities[last], of_label[last], images[last])
    return table.drop(columns=columns).assign(
        confidence=probabilities.max(axis=1, initial=0),
        calibrated=calibrated.max(axis=1, initial=0),
        probability=probabilities[np.arange(len(table)), of_label],
        correct=table["label"] == table["predicted"],
    )


def _read_json(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    with _explain(path):
        if lacking := sorted(set(keys) - set(content := read_json(path))):
            raise ValueError(f"no {', '.join(lacking)}")
    return content


def read_table(path: Path, columns: Iterable[str], file: Any = None) -> pd.DataFrame:
    """Read a CSV file, or an open one; a UserError says if it is damaged or lacks a column."""
    with _explain(path):
        table = pd.read_csv(file or path, dtype=DTYPES, keep_default_na=False, na_values=[""])
        if lacking := sorted(set(columns) - set(table)):
            raise ValueError(f"no column {', '.join(lacking)}")
    for name in table.columns.intersection(TEXT_COLUMNS):
        table[name] = table[name].map(without_apostrophe, na_action="ignore")
    return table


def stack_tables(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the tables of all cells in one, with a first column ``cell``."""
    return pd.concat(tables, names=["cell"]).reset_index(level="cell").reset_index(drop=True)


def _explain(path: Path) -> AbstractContextManager[None]:
    shipped = paths.PUBLISHED in path.parents
    remedy = "git checkout data" if shipped else "dvc checkout, or git checkout"
    return explain_damage(path, f"Restore it with: {remedy}")
