"""What the cells' files say, read into one place."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from .errors import Problem
from .files import read_json
from .params import Params

METRICS, PLOTS = Path("metrics"), Path("plots")
DTYPES = {
    **{"seed": int, "epoch": int, "loss": float, "accuracy": float},
    **dict.fromkeys(("cell", "split", "which", "image", "label", "predicted"), str),
}
"""Of the columns of the cells' tables, which may be empty."""
COLUMNS = {
    "summary": ("best_val_accuracy", "train_seconds"),
    "curves": ("epoch", "split", "loss", "accuracy"),
    "predictions": ("epoch", "which", "image", "label", "predicted"),
}
"""What each kind of table has at the least."""
PUBLISHED = Path("data/published")


@dataclass(frozen=True)
class Results:
    """All that is compared.

    Attributes
    ----------
    params : Params
    cells : list of str
        In the order of the parameters.
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
    hits : dict of tuple of (str, str) to pandas.DataFrame of bool
        For each cell and epoch (``best`` or ``last``) which images its finished replicates got
        right: a row a seed, a column an image.
    """

    params: Params
    cells: list
    figures: pd.DataFrame
    timing: dict
    curves: pd.DataFrame
    predictions: pd.DataFrame
    counts: dict
    published: dict
    hits: dict

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
        hits = {cell: self.hits[cell, which] for cell in weights}
        seeds = sorted(set.intersection(*(set(of_cell.index) for of_cell in hits.values())))
        if not seeds:
            return np.empty((0, 0))
        return sum(
            weight * hits[cell].loc[seeds].to_numpy(dtype=float) for cell, weight in weights.items()
        )

    def seconds(self, cell):
        """Return how long a cell's finished runs took; a probe's with their share of features."""
        timing = self.timing[cell]
        return pd.Series(timing["seconds_per_run"], dtype=float) + timing["features_seconds"]


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
    Problem
        If a cell has not been trained yet, a file is damaged, or cells saw different images.
    """
    cells = params.cells()
    missing = [cell for cell in cells if not (METRICS / f"cells/{cell}.json").exists()]
    if missing:
        raise Problem(f"These cells have no results yet: {', '.join(missing)}.\nRun: dvc repro")
    counts = _read(METRICS / "dataset.json")
    same = params.weights == "imagenet" and counts == _read(PUBLISHED / "dataset.json")
    published = {
        kind: _read(PUBLISHED / f"{kind}.csv", ("cell", *COLUMNS[kind]))
        for kind in ("summary", "curves")
    }
    figures = {cell: _read(METRICS / f"cells/{cell}.json") for cell in cells}
    predictions = _stacked(cells, "predictions")
    _check_images(predictions)
    return Results(
        params=params,
        cells=cells,
        figures=pd.DataFrame.from_dict(figures, orient="index"),
        timing={cell: _timing(cell) for cell in cells},
        curves=_stacked(cells, "curves"),
        predictions=predictions,
        counts=counts,
        published={
            name: table[same & ~table["cell"].str.rpartition("-")[0].isin(params.factories)]
            for name, table in published.items()
        },
        hits={
            (cell, which): _hits(predictions, cell, which)
            for cell in cells
            for which in ("best", "last")
        },
    )


def _hits(predictions, cell, which):
    rows = predictions[(predictions["cell"] == cell) & (predictions["which"] == which)]
    right = rows.assign(hit=rows["label"] == rows["predicted"])
    return right.pivot(index="seed", columns="image", values="hit")


def _timing(cell):
    """Return a cell's times, with what the features of a probe cost each of its runs."""
    timing = _read(METRICS / f"timing/{cell}.json")
    model, _, mode = cell.rpartition("-")
    share = 0.0
    if mode == "probe":
        embedding = _read(METRICS / f"timing/{model}-embed.json")
        share = embedding["seconds"] / max(1, len(timing["seconds_per_run"]))
    return {**timing, "features_seconds": share}


def _check_images(predictions):
    """Raise a Problem unless all cells were held against the same images, labelled alike."""
    seen = {
        cell: frozenset(rows[["image", "label"]].itertuples(index=False))
        for cell, rows in predictions.groupby("cell")
    }
    if len(set(seen.values())) > 1:
        raise Problem(
            f"These cells were not validated on the same images: {', '.join(seen)}.\n"
            "Bring all up to date with: dvc repro"
        )


def _read(path, columns=None):
    """Read a cell's JSON, or the table with at least the given columns.

    Raises
    ------
    Problem
        If it is missing or damaged.
    """
    try:
        if columns is None:
            return read_json(path)
        table = pd.read_csv(path, dtype=DTYPES, keep_default_na=False, na_values=[""])
        if lacking := set(columns) - set(table):
            raise ValueError(f"no column {', '.join(sorted(lacking))}")
        return table
    except (OSError, ValueError) as error:  # those of pandas and of JSON among them
        raise Problem(
            f"{path} cannot be read: {error}\nRestore it with: dvc checkout, or git checkout"
        ) from error


def _stacked(cells, kind):
    """Return the tables of all cells in one, with a first column ``cell``."""
    tables = {cell: _read(PLOTS / kind / f"{cell}.csv", ("seed", *COLUMNS[kind])) for cell in cells}
    return pd.concat(tables, names=["cell"]).reset_index(level="cell").reset_index(drop=True)
