"""How far all runs are, for another terminal: from what is in ``runs/``, without torch."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import psutil

from headswap.errors import UserError
from headswap.io import read_csv, read_json
from headswap.params import Cell, Params
from headswap.paths import EMBEDDINGS, IMAGES, METRICS, MODELS, WEIGHTS
from headswap.progress import seconds_left
from headswap.runs.queue import chosen_cells, plan_runs
from headswap.runs.store import (
    PROGRESS,
    UNREADABLE,
    expected_seconds,
    fill_missing_seconds,
    is_finished,
    is_locked,
)
from headswap.runs.workers import worker_count


@dataclass
class _CellStatus:
    cell: Cell
    missing: list[str]
    """What has to be made before it can be trained: ``images``, ``weights``, ``features``."""
    epochs: int
    done: list[int]
    """For each run its number of finished epochs."""
    seconds: float | None
    """The time that an epoch takes; None if that is not known."""
    finished: int = 0
    running: int = 0


def status_lines(params: Params) -> list[str]:
    """Return a line for each cell, and one or two for the whole."""
    cells = [_cell_status(cell, params) for cell in chosen_cells(params)]
    width = max(len(status.cell.name) for status in cells)
    lines = [f"{status.cell.name:{width}}  {_describe(status)}" for status in cells]
    whole, left = _summary(cells), "No run is being trained now. To go on: dvc repro"
    if not whole:
        runs = sum(len(cell.done) for cell in cells)
        whole, left = f"All {runs} runs of {len(cells)} cells are finished.", "Next: dvc repro"
        if _is_compared(params):
            left = "They are compared; nothing is left to do."
    if any(cell.running for cell in cells):
        left = ""
    return list(filter(None, [*lines, whole, _dvc_at_work() or left]))


def pipeline_summary(params: Params) -> str:
    """Return the line of `status_lines` for the whole, empty if all runs are finished."""
    try:
        return _summary([_cell_status(cell, params) for cell in chosen_cells(params)])
    except UserError:  # about a file of another cell, reported when that cell is trained
        return ""


def _summary(cells: list[_CellStatus]) -> str:
    """Say how far the whole is, and about how long the rest takes, if that is known."""
    finished, runs = sum(cell.finished for cell in cells), sum(len(cell.done) for cell in cells)
    if finished == runs:
        return ""
    ended = sum(cell.finished == len(cell.done) for cell in cells)
    summary = f"cell {ended + 1} of {len(cells)}, run {finished + 1} of {runs}"
    of_networks = [status.seconds for status in cells if status.cell.mode != "probe"]
    if of_networks and not any(of_networks):
        return summary
    seconds = fill_missing_seconds({status.cell: status.seconds for status in cells})
    workers = max(worker_count(), sum(status.running for status in cells))
    left = sum(
        seconds_left([(status.epochs - n, seconds[status.cell]) for n in status.done], workers)
        for status in cells
    )
    return f"{summary}, about {_duration(left)} left"


def _is_compared(params: Params) -> bool:
    """Return whether the comparison has all cells of the parameters, with all of their seeds."""
    with contextlib.suppress(*UNREADABLE):
        seeds = {row["cell"]: int(row["seeds"]) for row in read_csv(METRICS / "comparison.csv")}
        return seeds == {cell.name: len(params.run_seeds(cell)) for cell in params.cells()}
    return False


def _dvc_at_work() -> str:
    """Say what a DVC command is making now, here or for an experiment, from DVC's own lock file."""
    names = ("rwlock", "exps/*/.dvc/tmp/rwlock", "exps/standalone/*/.dvc/tmp/rwlock")
    for path in [path for name in names for path in Path(".dvc/tmp").glob(name)]:
        with contextlib.suppress(*UNREADABLE):
            folder = path.absolute().parents[2]
            for output, holder in read_json(path)["write"].items():
                if psutil.pid_exists(holder["pid"]):
                    where = "" if folder == Path.cwd() else ", of an experiment"
                    return f"DVC is making {os.path.relpath(output, folder)}{where}."
    return ""


def _cell_status(cell: Cell, params: Params) -> _CellStatus:
    needed = {"images": IMAGES, "weights": WEIGHTS / f"{cell.model}.safetensors"}
    if cell.mode == "probe":
        needed = {"features": EMBEDDINGS / f"{cell.model}.safetensors"}
    missing = [name for name, path in needed.items() if not path.exists()]
    status = _CellStatus(cell, missing, params.epochs(cell), [0] * len(params.runs(cell)), None)
    if missing:
        return status
    trials, runs = plan_runs(cell, params)
    status.done, seconds = [], []
    for run in trials + runs:
        done = 0
        # In `models/` is what a clone pulled. Any file may vanish or change while it is read.
        with contextlib.suppress(*UNREADABLE):
            pulled = MODELS / run.cell.name / f"run-{run.name}.json"
            if is_finished(run.folder) or (
                pulled.exists() and run.key.items() <= read_json(pulled).items()
            ):
                status.finished, done = status.finished + 1, status.epochs
                timing = read_json(run.folder / "timing.json")
                seconds += [epoch["wall"] for epoch in timing["epochs"]]
            else:
                status.running += is_locked(run.folder.with_suffix(".lock"))
                progress = read_json(run.folder / PROGRESS)
                done = progress["done"]
                seconds += [progress["seconds"]] * (done > 0)
        status.done.append(done)
    status.seconds = fmean(seconds) if seconds else expected_seconds(cell)
    return status


def _describe(cell: _CellStatus) -> str:
    text = f"{cell.finished}/{len(cell.done)} runs"
    if cell.missing:
        return f"{text}  waiting for {' and '.join(cell.missing)}"
    begun = [done for done in cell.done if 0 < done < cell.epochs]
    begun += [0] * (cell.running - len(begun))
    if begun:
        text += f"  epoch {', '.join(map(str, begun))} of {cell.epochs}"
        text += ", interrupted" * (not cell.running)
    return text


def _duration(seconds: float) -> str:
    """Return a time to read.

    >>> _duration(42.2), _duration(1500), _duration(9000)
    ('42 s', '25 min', '2 h 30 min')
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
