"""The learning rate of a cell, chosen from a list by log loss inside its training images."""

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from headswap.images.index import read_index
from headswap.io import read_json
from headswap.params import Cell, Params
from headswap.runs.keys import cache_key
from headswap.runs.store import is_finished, run_folder

FEW = 100
"""Training images below which every quarter is held out in turn, instead of the first alone."""


def trials(cell: Cell, params: Params) -> dict[float, dict[Cell, int]]:
    """Return for each rate of a cell's list the cells that try it, each without a quarter.

    With them comes the number of images that they hold out. Nothing where the rate is one number.
    """
    rates = None if cell.mode == "probe" else params.recipe(cell).lr
    if not isinstance(rates, list):
        return {}
    sizes = Counter(read_index().quarters.values())
    held_out = sorted(sizes)[: None if sizes.total() < FEW else 1]
    return {
        rate: {replace(cell, lr=rate, held_out=quarter): sizes[quarter] for quarter in held_out}
        for rate in rates
    }


def log_losses(cell: Cell, params: Params) -> dict[float, float]:
    """Return the log loss of each rate at the last epoch, over all images that were held out.

    Infinite where a run diverged; empty where there is no list, or before all trials are finished.
    """
    losses = {}
    for rate, cells in trials(cell, params).items():
        folders = [run_folder(trial, cache_key(trial, params), 0) for trial in cells]
        if not all(is_finished(folder) for folder in folders):
            return {}
        of_cells = [_last_loss(read_json(folder / "run.json")) for folder in folders]
        losses[rate] = float(np.average(of_cells, weights=list(cells.values())))
    return losses


def _last_loss(run: dict[str, Any]) -> float:
    return run["curves"][-1][2] if run["diverged"] is None else math.inf


def planned(cell: Cell, params: Params) -> list[Cell]:
    """Return the cells that try a cell's rates, and last the cell with the one that is chosen."""
    cells = [trial for of_rate in trials(cell, params).values() for trial in of_rate]
    return [*cells, tuned(cell, params)]


def describe_choice(losses: dict[float, float]) -> str:
    """Say which learning rate was chosen.

    >>> describe_choice({0.001: 0.2, 0.01: 0.1})
    'learning rate 0.01 of 0.001 and 0.01, an end of the list: another beyond it may be better'
    """
    *rates, last = sorted(losses)
    best = min(losses, key=losses.__getitem__)
    text = f"learning rate {best:g} of {', '.join(f'{rate:g}' for rate in rates)} and {last:g}"
    is_end = best in (min(losses), last)
    return text + ", an end of the list: another beyond it may be better" * is_end


def tuned(cell: Cell, params: Params) -> Cell:
    """Return the cell with the rate of the lowest log loss; unchanged before all are tried."""
    losses = log_losses(cell, params)
    return replace(cell, lr=min(losses, key=losses.__getitem__)) if losses else cell
