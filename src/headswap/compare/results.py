"""What the cells' files say, read into one place."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from headswap.errors import UserError
from headswap.io import read_json
from headswap.params import Cell, Params

METRICS, PLOTS = Path("metrics"), Path("plots")
DTYPES = {
    **{"seed": int, "epoch": int, "loss": float, "accuracy": float},
    **dict.fromkeys(("cell", "split", "which", "image", "label", "predicted"), str),
}
"""Of the columns of the cells' tables, which may be empty."""
COSTS = ("parameters", "trainable_parameters", "gmacs", "depth", "activations")
TIMED_ON = ("processor", "cores", "device", "workers")
"""What a time depends on besides the cell; times are compared where these are the same."""
MADE_BY = ("headswap", "torch", "torchvision", "pillow", "python")
COLUMNS = {
    "summary": ("best_val_accuracy", "train_seconds"),
    "curves": ("epoch", "split", "loss", "accuracy"),
    "predictions": ("epoch", "which", "image", "label", "predicted"),
}
"""What each kind of table has at the least."""
KEYS = {
    "cells": (
        *("best_val_accuracy_mean", "last_val_accuracy_mean"),
        *("best_epoch_mean", "val_loss_last_mean", "seeds", "diverged", *COSTS),
    ),
    "timing": ("seconds_per_run", *TIMED_ON, "revision", "dirty", *MADE_BY),
    "embed": ("seconds", *TIMED_ON),
    "dataset": ("images", "train", "val", "in_both_splits"),
}
"""What each kind of JSON has at the least."""
PUBLISHED = Path("data/published")


@dataclass(frozen=True)
class Results:
    """All that is compared.

    Attributes
    ----------
    params : Params
    cells : dict of str to Cell
        The cells by their names, in the order of the parameters.
    figures : pandas.DataFrame
        A row a cell, by its name: all of ``metrics/cells/<cell>.json``.
    timing : dict of str to dict
        Of each cell ``metrics/timing/<cell>.json``; ``features_seconds`` is what a `probe` run's
        share of computing the features took.
    curves, predictions : pandas.DataFrame
        The cells' tables in one, with a first column ``cell``.
    counts : dict of str to int
        The images: ``metrics/dataset.json``.
    published : dict of str to pandas.DataFrame
        The write-up's ``summary`` and ``curves``, without networks that have a factory of one's
        own; empty if it used other images or weights.
    correct : dict of tuple of (str, str) to pandas.DataFrame of bool
        For each cell and epoch (``best`` or ``last``) which images its finished replicates got
        right: a row a seed, a column an image.
    """

    params: Params
    cells: dict[str, Cell]
    figures: pd.DataFrame
    timing: dict
    curves: pd.DataFrame
    predictions: pd.DataFrame
    counts: dict
    published: dict
    correct: dict

    def contrast(self, weights, which="best"):
        """Add up the hits of cells with weights, seed by seed and image by image.

        Parameters
        ----------
        weights : dict of str to float
            By cell.
        which : {"best", "last"}
            The epoch.

        Returns
        -------
        numpy.ndarray
            Shape (replicates, images); of the seeds that all the cells finished, maybe none.
        """
        correct = {cell: self.correct[cell, which] for cell in weights}
        seeds = sorted(set.intersection(*(set(of_cell.index) for of_cell in correct.values())))
        if not seeds:
            return np.empty((0, 0))
        return sum(
            weight * correct[cell].loc[seeds].to_numpy(dtype=float)
            for cell, weight in weights.items()
        )

    def seconds(self, cell):
        """Return how long a cell's finished runs took; a probe's with their share of features.

        Features are computed once, so their share has no spread.
        """
        timing = self.timing[cell]
        return pd.Series(timing["seconds_per_run"], dtype=float) + timing["features_seconds"]

    def timed_alike(self, cells):
        """Tell whether all runs of some cells had the same of all that `TIMED_ON` names."""
        seen = [tuple(self.timing[cell][key] for key in TIMED_ON) for cell in cells]
        mixed = any(isinstance(value, list) for of_cell in seen for value in of_cell)
        return not mixed and len(set(seen)) == 1


def read(params):
    """Read the cells that the parameters name; others leave no trace.

    Parameters
    ----------
    params : Params
        Whose ``models`` and ``modes`` name the cells.

    Returns
    -------
    Results

    Raises
    ------
    UserError
        If a cell has not been trained yet, a file is damaged, or cells saw different images.
    """
    cells = {cell.name: cell for cell in params.cells()}
    missing = [cell for cell in cells if not (METRICS / f"cells/{cell}.json").exists()]
    if missing:
        raise UserError(f"These cells have no results yet: {', '.join(missing)}.\nRun: dvc repro")
    counts = _json(METRICS / "dataset.json", "dataset")
    same = params.weights == "imagenet" and counts == _json(PUBLISHED / "dataset.json", "dataset")
    published = {
        kind: _table(PUBLISHED / f"{kind}.csv", ("cell", *COLUMNS[kind]))
        for kind in ("summary", "curves")
    }
    comparable = [name for name, cell in cells.items() if cell.model not in params.factories]
    figures = {cell: _json(METRICS / f"cells/{cell}.json", "cells") for cell in cells}
    timing = {cell.name: _timing(cell) for cell in params.cells()}
    predictions = _stacked(cells, "predictions")
    for cell in cells:
        _check_runs(cell, predictions, figures[cell], timing[cell])
    _check_images(predictions)
    return Results(
        params=params,
        cells=cells,
        figures=pd.DataFrame.from_dict(figures, orient="index"),
        timing=timing,
        curves=_stacked(cells, "curves"),
        predictions=predictions,
        counts=counts,
        published={
            name: table[same & table["cell"].isin(comparable)] for name, table in published.items()
        },
        correct={
            (cell, which): right(predictions[predictions["cell"] == cell], which)
            for cell in cells
            for which in ("best", "last")
        },
    )


def right(predictions, which):
    """Return which images a cell's replicates got right: a row a seed, a column an image.

    Parameters
    ----------
    predictions : pandas.DataFrame
        The cell's table.
    which : {"best", "last"}
        The epoch.

    Returns
    -------
    pandas.DataFrame of bool
    """
    rows = predictions[predictions["which"] == which]
    rows = rows.assign(hit=rows["label"] == rows["predicted"])
    return rows.pivot(index="seed", columns="image", values="hit")


def confidence(results, cell):
    """Return each predicted class's probability at the best epoch, and whether it was right."""
    rows = results.predictions
    rows = rows[(rows["cell"] == cell) & (rows["which"] == "best")]
    probabilities = rows.filter(regex="^p_").max(axis=1)
    return probabilities.to_numpy(), (rows["label"] == rows["predicted"]).to_numpy()


def _timing(cell):
    """Return a cell's times, with what the features of a probe cost each of its runs.

    Where features and runs were timed on different things, both are listed.
    """
    timing = _json(METRICS / f"timing/{cell.name}.json", "timing")
    share = 0.0
    if cell.mode == "probe":
        embedding = _json(METRICS / f"timing/{cell.model}-embed.json", "embed")
        share = embedding["seconds"] / max(1, len(timing["seconds_per_run"]))
        for key in TIMED_ON:
            if embedding[key] != timing[key]:
                timing[key] = [timing[key], embedding[key]]
    return {**timing, "features_seconds": share}


def _check_runs(cell, predictions, figures, timing):
    """Raise a UserError unless each finished run of a cell has a row an image and a time."""
    path = PLOTS / f"predictions/{cell}.csv"
    rows = predictions[predictions["cell"] == cell]
    runs = rows.groupby(["which", "seed"])["image"].agg(["size", "nunique"])
    finished = figures["seeds"] - figures["diverged"]
    numbers = {len(runs.loc[[which]]) if which in runs.index else 0 for which in ("best", "last")}
    if (runs != rows["image"].nunique()).any(axis=None):
        raise _damaged(path, "not every run has one row an image")
    if {*numbers, len(timing["seconds_per_run"])} != {finished}:
        raise _damaged(path, f"it, the times and the metrics of {cell} speak of other runs")


def _check_images(predictions):
    """Raise a UserError unless all cells were held against the same images, labelled alike."""
    seen = {
        cell: frozenset(rows[["image", "label"]].itertuples(index=False))
        for cell, rows in predictions.groupby("cell")
    }
    if len(set(seen.values())) > 1:
        raise UserError(
            f"These cells were not validated on the same images: {', '.join(seen)}.\n"
            "Bring all up to date with: dvc repro"
        )


def _json(path, kind):
    """Read a JSON file with at least the keys of its kind; raise a UserError if it is damaged."""
    try:
        content = read_json(path)
        if lacking := sorted(set(KEYS[kind]) - set(content)):
            raise ValueError(f"no {', '.join(lacking)}")
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(path, error) from error
    return content


def _table(path, columns):
    """Read a table with at least the given columns; raise a UserError if it is damaged."""
    try:
        table = pd.read_csv(path, dtype=DTYPES, keep_default_na=False, na_values=[""])
        if lacking := sorted(set(columns) - set(table)):
            raise ValueError(f"no column {', '.join(lacking)}")
    except (OSError, ValueError) as error:  # those of pandas among them
        raise _damaged(path, error) from error
    return table


def _damaged(path, why):
    return UserError(
        f"{path} cannot be read: {why}\nRestore it with: dvc checkout, or git checkout"
    )


def _stacked(cells, kind):
    """Return the tables of all cells in one, with a first column ``cell``."""
    columns = ("seed", *COLUMNS[kind])
    tables = {cell: _table(PLOTS / kind / f"{cell}.csv", columns) for cell in cells}
    whole = pd.concat(tables, names=["cell"]).copy()  # in one piece, even of 1,000 columns
    return whole.reset_index(level="cell").reset_index(drop=True)
