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
from headswap.runs.store import index_of_run, is_finished, run_folder

FEW = 100
"""Training images below which every quarter is held out in turn, instead of the first alone."""


def trials(cell: Cell, params: Params, seed: int) -> dict[float, dict[Cell, int]]:
    """Return for each rate of a run's list the cells that try it, each without a quarter.

    With them comes the number of images that they hold out. Nothing where the rate is one number.
    """
    rates = None if cell.mode == "probe" else params.recipe(cell).lr
    if not isinstance(rates, list):
        return {}
    sizes = Counter(index_of_run(read_index(), cell, params, seed).quarters.values())
    held_out = sorted(sizes)[: None if sizes.total() < FEW else 1]
    return {
        rate: {replace(cell, lr=rate, held_out=quarter): sizes[quarter] for quarter in held_out}
        for rate in rates
    }


def trial_seed(cell: Cell, seed: int) -> int:
    """Return the seed with which a run's rates are tried: on the manifest's split the same."""
    return 0 if cell.fold is None else seed


def log_losses(cell: Cell, params: Params, seed: int) -> dict[float, float]:
    """Return the log loss of each rate at the last epoch, over all images that were held out.

    Infinite where a run diverged; empty where there is no list, or before all trials are finished.
    """
    losses = {}
    seed = trial_seed(cell, seed)
    for rate, cells in trials(cell, params, seed).items():
        folders = [run_folder(trial, cache_key(trial, params), seed) for trial in cells]
        if not all(is_finished(folder) for folder in folders):
            return {}
        of_cells = [_last_loss(read_json(folder / "run.json")) for folder in folders]
        losses[rate] = float(np.average(of_cells, weights=list(cells.values())))
    return losses


def _last_loss(run: dict[str, Any]) -> float:
    return run["curves"][-1][2] if run["diverged"] is None else math.inf


def planned_trials(cell: Cell, params: Params) -> list[tuple[Cell, int]]:
    """Return the runs with their seeds that try a cell's learning rates."""
    runs = {
        (trial, trial_seed(run, seed)): None
        for run, seed in params.runs(cell)
        for of_rate in trials(run, params, trial_seed(run, seed)).values()
        for trial in of_rate
    }
    return list(runs)


def planned_runs(cell: Cell, params: Params) -> list[tuple[Cell, int]]:
    """Return a cell's runs with their seeds, each with the learning rate that is chosen for it."""
    return [(tuned(run, params, seed), seed) for run, seed in params.runs(cell)]


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


def tuned(cell: Cell, params: Params, seed: int) -> Cell:
    """Return a run's cell with the rate of the lowest log loss; unchanged before all are tried."""
    losses = log_losses(cell, params, seed)
    return replace(cell, lr=min(losses, key=losses.__getitem__)) if losses else cell
