"""Which runs there are: of a cell, with trials of its learning rates, and of all as one queue."""

import difflib
import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from headswap.dvc import changed_stages
from headswap.errors import UserError
from headswap.images.index import read_index
from headswap.io import read_json
from headswap.params import Cell, Params
from headswap.paths import RUNS
from headswap.progress import console
from headswap.runs import store
from headswap.runs.provenance import cache_key
from headswap.runs.workers import Task


class Run(NamedTuple):
    """A run that was trained, or is to be."""

    cell: Cell
    seed: int
    key: dict[str, Any]
    folder: Path
    log_losses: dict[float, float]  # of listed learning rates, if all were tried; inf: it diverged

    @property
    def name(self) -> str:
        """Its name in its cell's model folder, such as ``0`` or ``0-fold-1``."""
        return f"{self.seed}-{store.part_name(self.cell)}".removesuffix("-")

    @property
    def title(self) -> str:
        """Its name for the terminal, such as ``resnet18-frozen seed 0 fold 1``."""
        return f"{self.cell.name} seed {self.name.replace('-', ' ')}"


def plan_runs(cell: Cell, params: Params) -> tuple[list[Run], list[Run]]:
    """Return the runs that try a cell's learning rates, and its own, with the chosen rates."""
    key_of = functools.cache(functools.partial(cache_key, params=params))

    def planned(run: Cell, seed: int, log_losses: dict[float, float] | None = None) -> Run:
        key = key_of(replace(run, fold=None))
        return Run(run, seed, key, store.run_folder(run, key, seed), log_losses or {})

    rates = None if cell.mode == "probe" else params.recipe(cell).lr
    if not isinstance(rates, list):
        return [], [planned(*run) for run in params.runs(cell)]
    index = read_index()

    @functools.cache
    def tried(run: Cell, seed: int) -> tuple[list[Run], dict[float, float]]:
        sizes = Counter(store.index_of_run(index, run, params, seed).quarters.values())
        if len(sizes) == 1:
            text = f"{cell.name}: all of its training images are of one group, so none can be held"
            raise UserError(f"{text} out.\nSet lr to one number in params.yaml, then: dvc repro")
        # Of few training images every quarter is held out in turn, else the first alone.
        quarters = sorted(sizes)[: None if sizes.total() < 100 else 1]
        trials, losses = list[Run](), {}
        for rate in rates:
            of_rate = [planned(replace(run, lr=rate, held_out=q), seed) for q in quarters]
            trials += of_rate
            if all(store.is_finished(trial.folder) for trial in of_rate):
                records = [read_json(trial.folder / "run.json") for trial in of_rate]
                at_end = [r["curves"][-1][2] if r["diverged"] is None else inf for r in records]
                losses[rate] = float(np.average(at_end, weights=[sizes[q] for q in quarters]))
        return trials, losses if len(losses) == len(rates) else {}

    trials, runs = dict[Path, Run](), list[Run]()
    for run, seed in params.runs(cell):
        # On the manifest's split the trials are the same for all seeds.
        of_run, losses = tried(run, 0 if run.fold is None else seed)
        trials |= {trial.folder: trial for trial in of_run}
        best = min(losses, key=losses.__getitem__, default=None)
        runs.append(planned(replace(run, lr=best), seed, losses))
    return list(trials.values()), runs


def unfinished_runs(runs: list[Run], params: Params, seconds: float = 1) -> list[Task]:
    """Return a task for each run that is not finished, or damaged; print why none is reused."""
    tasks = []
    for run in runs:
        if damage := ", ".join(store.find_damage(run.folder)):
            console.print(f"{run.folder}: {damage} missing or damaged; the run is trained again.")
        if damage or not store.is_finished(run.folder):
            arguments = run.cell, params, run.seed, run.key
            about = store.expected_memory(run.cell), params.epochs(run.cell), seconds
            tasks.append(Task(run.title, "headswap.train.run:train_run", arguments, *about))
    changes = store.changes_since_last_run(run.cell, run.key) if len(tasks) == len(runs) > 0 else []
    if changes:
        unused = f"the finished runs in {RUNS / run.cell.name} are not used"
        console.print(f"{run.cell.name}: {unused}: {'; '.join(changes)}.")
    return tasks


def queued_runs(cells: list[Cell], params: Params) -> tuple[list[Task], list[str]]:
    """Return the unfinished runs, trials of learning rates first; the names of those that wait."""
    seconds = store.fill_missing_seconds({cell: store.expected_seconds(cell) for cell in cells})
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
    for name in set(names) - set(cells):
        close = difflib.get_close_matches(name, cells, 1)
        known = f"did you mean {close[0]}?" if close else f"the cells are {', '.join(cells)}."
        raise UserError(f"{name} is not a cell of params.yaml; {known}")
    chosen = [cells[name] for name in cells if name in names or not names]
    return sorted(chosen, key=lambda cell: cell.mode == "probe")  # as the stages in dvc.yaml


def changed_cells(cells: list[Cell]) -> tuple[list[Cell], list[str]]:
    """Return the cells that DVC calls changed; of probes without features, only the models."""
    # Of all stages: with the stages as targets, DVC looks at what each depends on once per target.
    if (changed := changed_stages()) is None:
        return cells, []
    needed = {"fetch", "verify"} | {f"weights@{cell.model}" for cell in cells}
    if missing := " ".join(sorted(changed & needed)):
        raise UserError(f"Not up to date: {missing}.\nRun first: dvc repro {missing}")
    waiting = [c for c in cells if c.mode == "probe" and f"embed@{c.model}" in changed]
    ready = [cell for cell in cells if cell.stage in changed and cell not in waiting]
    return ready, [cell.model for cell in waiting]


def unused_folders(params: Params) -> list[Path]:
    """Return the folders under ``runs/`` that no run or features of the parameters would be in."""
    root, plans = store.runs_root(), [plan_runs(cell, params) for cell in params.cells()]
    used = {parent for plan in plans for run in sum(plan, []) for parent in run.folder.parents}
    used |= {part for model in params.models for part in root.glob(f"{model}-embed/*/")}
    return sorted(set(root.glob("*/*/")) - used)
