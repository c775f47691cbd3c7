"""The runs of several cells as one queue."""

import difflib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from headswap.errors import UserError
from headswap.params import Cell, Params
from headswap.runs.cells import task_name, unfinished_runs
from headswap.runs.keys import cache_key
from headswap.runs.store import (
    expected_seconds,
    fill_missing_seconds,
    runs_folder,
    runs_root,
)
from headswap.runs.tuning import planned_runs, planned_trials
from headswap.runs.workers import Task


def chosen_cells(params: Params, names: Sequence[str] = ()) -> list[Cell]:
    """Return the cells with some names, or all for none, in the order of the stages."""
    cells = {cell.name: cell for cell in params.cells()}
    for name in names:
        if name not in cells:
            close = difflib.get_close_matches(name, cells, 1)
            hint = f"did you mean {close[0]}? " if close else ""
            known = f"{hint}the cells are {', '.join(cells)}"
            raise UserError(f"{name} is not a cell of params.yaml; {known}.")
    chosen = [cells[name] for name in cells if name in names or not names]
    return sorted(chosen, key=lambda cell: cell.mode == "probe")  # as the stages in dvc.yaml


def changed_cells(cells: list[Cell]) -> tuple[list[Cell], list[str]]:
    """Return those of some cells whose stage DVC calls changed, all of them without DVC.

    Left out are probes whose features are to be computed first; the second list names their models.
    Raises a UserError if a stage that they need is not up to date.
    """
    if not Path(".dvc").is_dir():
        return cells, []
    # Of all stages: with the stages as targets, DVC looks at what each depends on once per target.
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"`dvc status` failed:\n{done.stderr.strip()}")
    changed = set(json.loads(done.stdout))
    needed = {"fetch", "verify"} | {f"weights@{cell.model}" for cell in cells}
    if missing := " ".join(sorted(changed & needed)):
        raise UserError(f"Not up to date: {missing}.\nRun first: dvc repro {missing}")
    probed = [cell.model for cell in cells if cell.mode == "probe"]
    models = [model for model in probed if f"embed@{model}" in changed]
    waiting = [Cell(model, "probe") for model in models]
    return [cell for cell in cells if cell.stage in changed and cell not in waiting], models


def queued_runs(cells: list[Cell], params: Params) -> tuple[list[Task], list[str]]:
    """Return the unfinished runs of some cells, trials of learning rates first.

    Then the names of the runs that are to be queued after these, with the rates that are chosen.
    """
    seconds = fill_missing_seconds({cell: expected_seconds(cell) for cell in cells})
    first, others, waiting = list[Task](), list[Task](), list[str]()
    for cell in cells:
        if runs := unfinished_runs(planned_trials(cell, params), params):
            first += [replace(run, seconds=seconds[cell]) for run in runs]
            waiting += [task_name(run, seed) for run, seed in params.runs(cell)]
        else:
            runs = unfinished_runs(planned_runs(cell, params), params)
            others += [replace(run, seconds=seconds[cell]) for run in runs]
    return first + others, waiting


def unused_folders(params: Params) -> list[Path]:
    """Return the folders under ``runs/`` that no cell of the parameters would take a run from.

    Parts of features that an interrupted `embed` left count as used while their model is listed.
    """
    used = {
        runs_folder(run, cache_key(run, params))
        for cell in params.cells()
        for run, _ in planned_trials(cell, params) + planned_runs(cell, params)
    }
    for model in params.models:
        used |= set(runs_root().glob(f"{model}-embed/*/"))
    return sorted(set(runs_root().glob("*/*/")) - used)
