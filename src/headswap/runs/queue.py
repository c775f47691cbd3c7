"""Which runs there are: of a cell, with the trials of its learning rates, and of all as one queue.

The rate of a run is chosen from a list by log loss inside its training images.
"""

import difflib
import json
import math
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from headswap.errors import UserError
from headswap.images.index import read_index
from headswap.io import read_json
from headswap.params import Cell, Params
from headswap.paths import RUNS
from headswap.progress import console
from headswap.runs.provenance import cache_key
from headswap.runs.store import (
    changes_since_last_run,
    expected_memory,
    expected_seconds,
    fill_missing_seconds,
    find_damage,
    index_of_run,
    is_finished,
    part_name,
    run_folder,
    runs_root,
)
from headswap.runs.workers import TRAIN_RUN, Task

FEW = 100
"""Training images below which every quarter is held out in turn, instead of the first alone."""


class Run(NamedTuple):
    """A run that was trained, or is to be."""

    cell: Cell
    seed: int
    key: dict[str, Any]
    folder: Path
    log_losses: dict[float, float]
    """Of each learning rate at its last epoch, infinite where it diverged.

    Empty where the rate is one number, or before all of a list were tried.
    """

    @property
    def title(self) -> str:
        """Its name for the terminal, such as ``resnet18-frozen seed 0 fold 1``."""
        return f"{self.cell.name} seed {self.name.replace('-', ' ')}"

    @property
    def name(self) -> str:
        """Its name in its cell's model folder, such as ``0`` or ``0-fold-1``."""
        return "-".join(filter(None, (str(self.seed), part_name(self.cell))))


def plan_runs(cell: Cell, params: Params) -> tuple[list[Run], list[Run]]:
    """Return the runs that try a cell's learning rates, and its own, with the chosen rates."""
    keys = dict[Cell, dict[str, Any]]()

    def planned(run: Cell, seed: int, log_losses: dict[float, float] | None = None) -> Run:
        whole = replace(run, fold=None)
        key = keys[whole] = keys.get(whole) or cache_key(whole, params)
        return Run(run, seed, key, run_folder(run, key, seed), log_losses or {})

    rates = None if cell.mode == "probe" else params.recipe(cell).lr
    if not isinstance(rates, list):
        return [], [planned(*run) for run in params.runs(cell)]
    index, runs = read_index(), list[Run]()
    tried = dict[tuple[Cell, int], tuple[list[Run], dict[float, float]]]()
    for run, seed in params.runs(cell):
        trial_seed = 0 if run.fold is None else seed  # on the manifest's split one for all seeds
        if (run, trial_seed) not in tried:
            sizes = Counter(index_of_run(index, run, params, seed).quarters.values())
            cells = [
                replace(run, lr=rate, held_out=quarter)
                for rate in rates
                for quarter in sorted(sizes)[: None if sizes.total() < FEW else 1]
            ]
            trials = [planned(trial, trial_seed) for trial in cells]
            tried[run, trial_seed] = trials, _log_losses(trials, sizes)
        _, losses = tried[run, trial_seed]
        best = min(losses, key=losses.__getitem__, default=None)
        runs.append(planned(replace(run, lr=best), seed, losses))
    return [trial for trials, _ in tried.values() for trial in trials], runs


def _log_losses(trials: list[Run], sizes: Mapping[Any, int]) -> dict[float, float]:
    """Return the log loss of each rate over all images that its trials hold out."""
    losses: dict[Any, list[tuple[float, int]]] = defaultdict(list)
    for trial in trials:
        if not is_finished(trial.folder):
            return {}
        record = read_json(trial.folder / "run.json")
        loss = record["curves"][-1][2] if record["diverged"] is None else math.inf
        losses[trial.cell.lr].append((loss, sizes[trial.cell.held_out]))
    pairs = {rate: np.array(of_rate).T for rate, of_rate in losses.items()}
    return {rate: float(np.average(of, weights=by)) for rate, (of, by) in pairs.items()}


def unfinished_runs(runs: list[Run], params: Params, seconds: float = 1) -> list[Task]:
    """Return a task for each run that is not finished, or damaged; print why none is reused."""
    tasks = []
    for run in runs:
        if damage := find_damage(run.folder):
            what = f"{', '.join(damage)} missing or damaged"
            console.print(f"{run.folder}: {what}; the run is trained again.")
        if damage or not is_finished(run.folder):
            arguments = run.cell, params, run.seed, run.key
            about = expected_memory(run.cell), params.epochs(run.cell), seconds
            tasks.append(Task(run.title, TRAIN_RUN, arguments, *about))
    if runs and len(tasks) == len(runs) and (changes := changes_since_last_run(run.cell, run.key)):
        unused = f"the finished runs in {RUNS / run.cell.name} are not used"
        console.print(f"{run.cell.name}: {unused}: {'; '.join(changes)}.")
    return tasks


def queued_runs(cells: list[Cell], params: Params) -> tuple[list[Task], list[str]]:
    """Return the unfinished runs of some cells, trials of learning rates first.

    Then the names of the runs that are to be queued after these, with the rates that are chosen.
    """
    seconds = fill_missing_seconds({cell: expected_seconds(cell) for cell in cells})
    first, others, waiting = list[Task](), list[Task](), list[str]()
    for cell in cells:
        trials, runs = plan_runs(cell, params)
        if tasks := unfinished_runs(trials, params, seconds[cell]):
            first += tasks
            waiting += [run.title for run in runs]
        else:
            others += unfinished_runs(runs, params, seconds[cell])
    return first + others, waiting


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
    waiting = [c for c in cells if c.mode == "probe" and f"embed@{c.model}" in changed]
    ready = [cell for cell in cells if cell.stage in changed and cell not in waiting]
    return ready, [cell.model for cell in waiting]


def unused_folders(params: Params) -> list[Path]:
    """Return the folders under ``runs/`` that no cell of the parameters would take a run from.

    Parts of features that an interrupted `embed` left count as used while their model is listed.
    """
    plans = [plan_runs(cell, params) for cell in params.cells()]
    used = {parent for plan in plans for run in sum(plan, []) for parent in run.folder.parents}
    for model in params.models:
        used |= set(runs_root().glob(f"{model}-embed/*/"))
    return sorted(set(runs_root().glob("*/*/")) - used)
