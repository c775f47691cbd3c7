"""How far all runs are, for another terminal: from what is in ``runs/``, without torch."""

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import psutil

from headswap.errors import UserError, pluralize
from headswap.io import read_csv, read_json
from headswap.params import Cell, Params, recorded_stages
from headswap.paths import EMBEDDINGS, IMAGES, METRICS, MODELS, WEIGHTS
from headswap.progress import seconds_left
from headswap.runs import store
from headswap.runs.queue import chosen_cells, plan_runs
from headswap.runs.workers import worker_count

ROUGH_SECONDS = {"finetune": 0.09, "frozen": 0.035, "probe": 0.0002}
"""Of an image and an epoch, on one core: AlexNet's and ResNet-18's means in docs/runs."""


@dataclass
class _CellStatus:
    cell: Cell
    epochs: int
    missing: list[str]  # what has to be made before it can be trained
    done: list[int]  # for each run its number of finished epochs
    seconds: float | None = None  # the time that an epoch takes; None if that is not known
    finished: int = 0
    running: int = 0

    def __str__(self) -> str:
        text = f"{self.finished}/{len(self.done)} runs"
        if self.missing:
            return f"{text}  waiting for {' and '.join(self.missing)}"
        begun = [done for done in self.done if 0 < done < self.epochs]
        if begun := [*begun, *[0] * (self.running - len(begun))]:
            text += f"  epoch {', '.join(map(str, begun))} of {self.epochs}"
            text += ", interrupted" * (not self.running)
        return text


def status_lines(params: Params) -> list[str]:
    """Return a line for each cell, and one or two for the whole."""
    cells, whole = _status(params)
    width = max(len(status.cell.name) for status in cells)
    lines = [f"{status.cell.name:{width}}  {status}" for status in cells]
    left = "No run is being trained now. To go on: dvc repro" * (not any(s.running for s in cells))
    if not whole:
        left = "Next: dvc repro"
        count = pluralize(len(cells), "cell")
        whole = f"All {sum(len(s.done) for s in cells)} runs of {count} are finished."
        with suppress(*store.UNREADABLE):
            manifest = params.dataset.manifest
            now = hashlib.md5(Path(manifest).read_bytes()).hexdigest()
            deps = recorded_stages().get("verify", {}).get("deps", [])
            same = all(dep["md5"] == now for dep in deps if dep["path"] == manifest)
            table = {row["cell"]: int(row["seeds"]) for row in read_csv(METRICS / "comparison.csv")}
            if same and table == {c.name: len(params.run_seeds(c)) for c in params.cells()}:
                left = "They are compared; nothing is left to do."
    return list(filter(None, [*lines, whole, _dvc_at_work() or left]))


def pipeline_summary(params: Params) -> str:
    """Return the line of `status_lines` for the whole, empty if all runs are finished."""
    with suppress(UserError, OSError):  # about another cell's file, or the manifest: said elsewhere
        return _status(params)[1]
    return ""


def _status(params: Params) -> tuple[list[_CellStatus], str]:
    """Return how far the cells are, and a line for the whole, empty if all runs are finished."""
    cells = [_cell_status(cell, params) for cell in chosen_cells(params)]
    finished, runs = sum(cell.finished for cell in cells), sum(len(cell.done) for cell in cells)
    if finished == runs:
        return cells, ""
    ended = sum(cell.finished == len(cell.done) for cell in cells)
    summary, about = f"cell {ended + 1} of {len(cells)}, run {finished + 1} of {runs}", "about"
    if not any(s.seconds for s in cells if s.cell.mode != "probe" or not params.modes):
        about, manifest = "very roughly", Path(params.dataset.manifest)
        images = manifest.read_bytes().count(b"\n") if manifest.is_file() else 0
        for status in cells:
            status.seconds = status.seconds or images * ROUGH_SECONDS[status.cell.mode]
    known = store.fill_missing_seconds({status.cell: status.seconds for status in cells})
    workers = max(worker_count(), sum(status.running for status in cells))
    epochs = ([(status.epochs - n, known[status.cell]) for n in status.done] for status in cells)
    seconds = sum(seconds_left(of_cell, workers) for of_cell in epochs)
    hours, minutes = divmod(round(seconds / 60), 60)
    left = f"{hours} h {minutes} min" if hours else f"{minutes} min"
    left = left if seconds >= 90 else f"{max(1, round(seconds))} s"
    return cells, f"{summary}, {about} {left} left"


def _dvc_at_work() -> str:
    """Say what a DVC command is making now, here or for an experiment, from DVC's own lock file."""
    for pattern in ("rwlock", "exps/*/.dvc/tmp/rwlock", "exps/standalone/*/.dvc/tmp/rwlock"):
        for path in Path(".dvc/tmp").glob(pattern):
            with suppress(*store.UNREADABLE):
                folder = path.absolute().parents[2]
                for output, holder in read_json(path)["write"].items():
                    if psutil.pid_exists(holder["pid"]):
                        where = "" if folder == Path.cwd() else ", of an experiment"
                        return f"DVC is making {os.path.relpath(output, folder)}{where}."
    return ""


def _cell_status(cell: Cell, params: Params) -> _CellStatus:
    file = f"{cell.model}.safetensors"
    needed = {"images": IMAGES, "weights": WEIGHTS / file}
    if cell.mode == "probe":
        needed = {"features": EMBEDDINGS / file}
    missing = [name for name, path in needed.items() if not path.exists()]
    status = _CellStatus(cell, params.epochs(cell), missing, [0] * len(params.runs(cell)))
    if missing:
        return status
    runs, seconds = sum(plan_runs(cell, params), []), []
    status.done = [0] * len(runs)
    for number, run in enumerate(runs):
        # In `models/` is what a clone pulled. Any file may vanish or change while it is read.
        with suppress(*store.UNREADABLE):
            pulled = MODELS / run.cell.name / f"run-{run.name}.json"
            if store.is_finished(run.folder) or (
                pulled.exists() and run.key.items() <= read_json(pulled).items()
            ):
                status.finished, status.done[number] = status.finished + 1, status.epochs
                timing = read_json(run.folder / "timing.json")
                seconds += [epoch["wall"] for epoch in timing["epochs"]]
            else:
                status.running += store.is_locked(run.folder.with_suffix(".lock"))
                progress = read_json(run.folder / store.PROGRESS)
                status.done[number] = progress["done"]
                seconds += [progress["seconds"]] * (progress["done"] > 0)
    status.seconds = fmean(seconds) if seconds else store.expected_seconds(cell)
    return status
