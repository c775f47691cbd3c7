"""How far all runs are, for another terminal: from what is in ``runs/``, without torch."""

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from headswap.errors import UserError
from headswap.io import read_csv, read_json
from headswap.params import Cell, Params
from headswap.paths import EMBEDDINGS, IMAGES, METRICS, MODELS, WEIGHTS
from headswap.progress import seconds_left
from headswap.runs.keys import cache_key
from headswap.runs.locks import is_locked
from headswap.runs.queue import chosen_cells
from headswap.runs.store import (
    PROGRESS,
    UNREADABLE,
    expected_seconds,
    fill_missing_seconds,
    is_finished,
    run_folder,
    run_name,
)
from headswap.runs.tuning import planned_runs, planned_trials
from headswap.runs.workers import worker_count


@dataclass(frozen=True)
class _CellStatus:
    cell: Cell
    missing: list[str]
    """What has to be made before it can be trained: ``images``, ``weights``, ``features``."""
    epochs: int
    done: list[int]
    """For each run its number of finished epochs."""
    finished: int
    running: int
    seconds: float | None
    """The time that an epoch takes; None if that is not known."""


def status_lines(params: Params) -> list[str]:
    """Return a line for each cell, and one or two for the whole."""
    cells = [_cell_status(cell, params) for cell in chosen_cells(params)]
    width = max(len(status.cell.name) for status in cells)
    lines = [f"{status.cell.name:{width}}  {_describe(status)}".rstrip() for status in cells]
    finished, runs = sum(cell.finished for cell in cells), sum(len(cell.done) for cell in cells)
    if finished < runs:
        whole, left = _summary(cells), "No run is being trained now. To go on: dvc repro"
    else:
        whole, left = f"All {runs} runs of {len(cells)} cells are finished.", "Next: dvc repro"
        if _is_compared(params):
            left = "They are compared; nothing is left to do."
    if at_work := _dvc_at_work():
        return [*lines, whole, at_work]
    return [*lines, whole] if any(cell.running for cell in cells) else [*lines, whole, left]


def _is_compared(params: Params) -> bool:
    """Return whether the comparison has all cells of the parameters, with all of their seeds."""
    with contextlib.suppress(*UNREADABLE):
        seeds = {row["cell"]: int(row["seeds"]) for row in read_csv(METRICS / "comparison.csv")}
        return seeds == {cell.name: len(params.run_seeds(cell)) for cell in params.cells()}
    return False


def pipeline_summary(params: Params) -> str:
    """Return the line of `status_lines` for the whole, empty if all runs are finished."""
    try:
        cells = [_cell_status(cell, params) for cell in chosen_cells(params)]
    except UserError:  # about a file of another cell, reported when that cell is trained
        return ""
    return "" if all(cell.finished == len(cell.done) for cell in cells) else _summary(cells)


def _summary(cells: list[_CellStatus]) -> str:
    finished, runs = sum(cell.finished for cell in cells), sum(len(cell.done) for cell in cells)
    ended = sum(cell.finished == len(cell.done) for cell in cells)
    summary = f"cell {ended + 1} of {len(cells)}, run {finished + 1} of {runs}"
    if seconds := _seconds_left(cells):
        summary += f", about {_duration(seconds)} left"
    return summary


def _dvc_at_work() -> str:
    """Say what a DVC command is making now, here or for an experiment, from DVC's own lock file."""
    for name in ("rwlock", "exps/*/.dvc/tmp/rwlock", "exps/standalone/*/.dvc/tmp/rwlock"):
        for path in Path(".dvc/tmp").glob(name):
            with contextlib.suppress(*UNREADABLE):
                folder = path.absolute().parents[2]
                for output, holder in read_json(path)["write"].items():
                    if psutil.pid_exists(holder["pid"]):
                        output = os.path.relpath(output, folder)
                        where = "" if folder == Path.cwd() else ", of an experiment"
                        return f"DVC is making {output}{where}."
    return ""


def _cell_status(cell: Cell, params: Params) -> _CellStatus:
    missing, epochs, runs = _missing(cell), params.epochs(cell), len(params.runs(cell))
    if missing:
        return _CellStatus(cell, missing, epochs, [0] * runs, 0, 0, None)
    done, seconds, finished, running = [], [], 0, 0
    keys = dict[Cell, dict[str, Any]]()
    for run, seed in planned_trials(cell, params) + planned_runs(cell, params):
        whole = replace(run, fold=None)
        key = keys[whole] = keys.get(whole) or cache_key(whole, params)
        folder, of_run = run_folder(run, key, seed), 0
        # The files of a run may vanish or change while they are read.
        with contextlib.suppress(*UNREADABLE):
            if is_finished(folder) or _is_collected(run, key, seed):
                finished, of_run = finished + 1, epochs
                seconds += [epoch["wall"] for epoch in read_json(folder / "timing.json")["epochs"]]
            else:
                running += is_locked(folder.with_suffix(".lock"))
                progress = read_json(folder / PROGRESS)
                of_run = progress["done"]
                seconds += [progress["seconds"]] * (of_run > 0)
        done.append(of_run)
    mean = float(np.mean(seconds)) if seconds else expected_seconds(cell)
    return _CellStatus(cell, [], epochs, done, finished, running, mean)


def _missing(cell: Cell) -> list[str]:
    """Return what has to be made before a cell can be trained."""
    needed = {"images": IMAGES, "weights": WEIGHTS / f"{cell.model}.safetensors"}
    if cell.mode == "probe":
        needed = {"features": EMBEDDINGS / f"{cell.model}.safetensors"}
    return [name for name, path in needed.items() if not path.exists()]


def _is_collected(cell: Cell, key: dict[str, Any], seed: int) -> bool:
    """Return whether a run is in ``models/``, where a clone that pulled the results has it."""
    path = MODELS / cell.name / f"run-{run_name(cell, seed)}.json"
    return path.exists() and key.items() <= read_json(path).items()


def _describe(cell: _CellStatus) -> str:
    text = f"{cell.finished}/{len(cell.done)} runs"
    if cell.missing:
        return f"{text}  waiting for {' and '.join(cell.missing)}"
    begun = [done for done in cell.done if 0 < done < cell.epochs]
    begun += [0] * (cell.running - len(begun))
    if begun:
        text += f"  epoch {', '.join(map(str, begun))} of {cell.epochs}"
        if not cell.running:
            text += ", interrupted"
    return text


def _seconds_left(cells: list[_CellStatus]) -> float:
    """Return about how long the rest takes, cell after cell; 0 if that is not known."""
    seconds = fill_missing_seconds({status.cell: status.seconds for status in cells})
    workers = max(worker_count(), sum(status.running for status in cells))
    networks = [status for status in cells if status.cell.mode != "probe"]
    is_known = any(status.seconds is not None for status in networks)
    if not is_known and any(status.finished < len(status.done) for status in networks):
        return 0
    return sum(
        seconds_left([(status.epochs - n, seconds[status.cell]) for n in status.done], workers)
        for status in cells
    )


def _duration(seconds: float) -> str:
    """Return a time to read.

    >>> _duration(42.2), _duration(1500), _duration(9000)
    ('42 s', '25 min', '2 h 30 min')
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
