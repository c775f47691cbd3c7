"""Where runs are kept: in ``runs/<cell>/<digest of the cache key>/seed-<seed>/``.

In a cross-validation those of a seed are in ``fold-<fold>/`` and ``all/`` below that.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from headswap.errors import UserError
from headswap.images.index import Index, Row
from headswap.io import atomic_write, digest, read_json, read_tensors, sha256
from headswap.params import ALL, Cell, Params
from headswap.paths import EMBEDDINGS, IMAGES, RUNS, WEIGHTS
from headswap.progress import OnProgress
from headswap.snapshot import differences

RECORD = "model.json"
"""In ``models/<cell>/``: all that using the cell's network needs."""
TRAINED = "trained.safetensors"
"""In the folder of a run, its trained tensors at the last epoch."""
PROGRESS = "progress.json"
"""In the folder of a run that is not finished: how far it is."""
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError)
"""What is raised when a file of a run is missing, damaged, or of another version."""
BASE_MEMORY = 2**30
"""Bytes for torch, decoded images (at most half) and the activations of a batch."""


def runs_root() -> Path:
    """Return the folder of all runs: ``runs/`` of the main checkout.

    DVC's queued and temporary experiments, and the worktrees of Git, share its finished runs.
    """
    here = Path.cwd()
    for folder in here.parents:
        if folder.name == ".dvc" and here.relative_to(folder).parts[:2] == ("tmp", "exps"):
            return folder.parent / RUNS
    with contextlib.suppress(OSError):
        link = Path((here / ".git").read_text().removeprefix("gitdir:").strip())
        main = link.parents[2]  # from <main>/.git/worktrees/<name>
        if link.parent.name == "worktrees" and (main / "dvc.yaml").exists():
            return main / RUNS
    return RUNS


def run_folder(cell: Cell, key: dict[str, Any], seed: int) -> Path:
    """Return the folder of one run."""
    return runs_root() / cell.name / digest(key) / f"seed-{seed}" / part_name(cell)


def part_name(cell: Cell) -> str:
    """Return what a run leaves out, as in its folder; empty on the manifest's split."""
    if cell.fold is None:
        return ""
    return "all" if cell.fold == ALL else f"fold-{cell.fold}"


def read_features(model: str) -> tuple[NDArray[np.float32], Index, dict[str, Any]]:
    """Return a network's features, shape (images, features), which images these are, and more.

    The metadata have ``inputs``, what the features are made from, and the ``backbone``.
    """
    tensors, metadata = read_tensors(EMBEDDINGS / f"{model}.safetensors")
    unknown: Any = (0, 0, 0, "", "", 0, "")  # width, height, bytes and digests
    rows = [Row(*of_image, *unknown) for of_image in metadata["rows"]]
    return tensors["features"], Index(IMAGES, rows), metadata


def index_of_run(index: Index, cell: Cell, params: Params, seed: int) -> Index:
    """Return which images a run trains and validates on, and no others."""
    if cell.fold is not None:
        index = index.leave_out(cell.fold, params.dataset.folds, seed)
    return index if cell.held_out is None else index.hold_out(cell.held_out)


@contextlib.contextmanager
def file_lock(path: Path, on_progress: OnProgress | None = None) -> Iterator[None]:
    """Hold a file lock, which ends with its process; do without on file systems that have none.

    Where another process holds it, `on_progress` is told, and this one waits; None: a UserError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder, lock = path.with_suffix(".pid"), FileLock(path)
    with contextlib.suppress(NotImplementedError):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            process = holder.read_text() if holder.exists() else "unknown"
            another = f"another process, number {process}, which is working on"
            if on_progress is None:
                raise UserError(
                    f"Wait for {another} {path.with_suffix('')},\n"
                    f"or stop it with `kill {process}`; then run the same command again."
                ) from None
            on_progress(None, note=f"waits for {another} it")
            lock.acquire()
    try:
        if lock.is_locked:
            holder.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Return whether a process holds a file lock."""
    try:
        with FileLock(path, timeout=0) if path.exists() else contextlib.nullcontext():
            return False
    except (NotImplementedError, OSError) as error:  # no locks here; another user's file
        return isinstance(error, Timeout)


def is_finished(folder: Path) -> bool:
    """Return whether a run was trained to its end: ``run.json`` is written last."""
    return (folder / "run.json").exists()


def file_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a run that has no clock in it, by its name."""
    return {path.name: sha256(path) for path in sorted(folder.glob("*.safetensors"))}


def find_damage(folder: Path) -> list[str]:
    """Return the names of an ended run's files that are missing or not as they were written."""
    if not folder.exists() or (folder / "checkpoint.pt").exists():
        return []
    found = file_digests(folder)
    try:
        run = read_json(folder / "run.json")
        damaged = [name for name, digest in run["files"].items() if found.get(name) != digest]
        epochs = len({epoch for epoch, *_ in run["curves"]})
    except UNREADABLE:
        return ["run.json"] if found or (folder / "timing.json").exists() else []
    with contextlib.suppress(*UNREADABLE):
        if len(read_json(folder / "timing.json")["epochs"]) >= epochs:
            return damaged
    return [*damaged, "timing.json"]


def delete_checkpoint(folder: Path) -> None:
    """Delete the checkpoint of a finished run, and the note of how far it was."""
    for file in (*folder.glob("*.pt"), *folder.glob(PROGRESS)):
        file.unlink()


def with_progress_file(folder: Path, on_progress: OnProgress) -> OnProgress:
    """Return an `on_progress` that also writes each finished epoch into the run's folder."""
    since = time.monotonic()

    def on_recorded_progress(done: float | None, figures: Any = None, note: str = "") -> None:
        nonlocal since
        if figures:
            since, before = time.monotonic(), since
            with atomic_write(folder / PROGRESS, durable=False) as temporary:
                temporary.write_text(json.dumps({"done": done, "seconds": since - before}))
        on_progress(done, figures, note)

    return on_recorded_progress


def values_of_past_runs(cell: Cell, value: Callable[[Any], float]) -> list[float]:
    """Compute a value from each ``timing.json`` of a cell, whatever its parameters and version."""
    found = []
    for path in (runs_root() / cell.name).glob("*/seed-*/**/timing.json"):
        with contextlib.suppress(*UNREADABLE):
            found.append(value(read_json(path)))
    return found


def expected_memory(cell: Cell) -> int:
    """Return the bytes of memory of the cell's past runs at their peak, else an upper estimate.

    That is six times the weights (parameters, gradients, two of the optimizer, a checkpoint that
    is being written, what convolutions need), and `BASE_MEMORY`.
    """
    if peaks := values_of_past_runs(cell, lambda timing: float(timing["memory_bytes"])):
        return round(max(peaks))
    weights = WEIGHTS / f"{cell.model}.safetensors"
    size = weights.stat().st_size if weights.exists() and cell.mode != "probe" else 0
    return BASE_MEMORY + 6 * size


def expected_seconds(cell: Cell) -> float | None:
    """Return the mean time of an epoch in a cell's past runs; None if there are none."""
    seconds = values_of_past_runs(cell, lambda timing: fmean(e["wall"] for e in timing["epochs"]))
    return fmean(seconds) if seconds else None


def fill_missing_seconds(known: Mapping[Cell, float | None]) -> dict[Cell, float]:
    """Replace an unknown time of an epoch (None) by the mean of the other probes, or networks.

    If none of these is known either, only the ratios mean something.
    """
    of_probes, of_networks = (
        [s for cell, s in known.items() if s is not None and (cell.mode == "probe") == is_probe]
        for is_probe in (True, False)
    )
    network = fmean(of_networks or [1])
    # In docs/runs, probes are 100 to 1,400 times as fast as networks.
    means = {"probe": fmean(of_probes or [network / 400])}
    return {c: means.get(c.mode, network) if s is None else s for c, s in known.items()}


def changes_since_last_run(cell: Cell, key: dict[str, Any]) -> list[str]:
    """Return what differs between a cache key and that of the cell's latest finished run.

    Such as ``train.lr was 0.01, is 0.02`` or ``other code``; nothing if there is no finished run.
    """
    finished = (runs_root() / cell.name).glob("*/seed-*/**/run.json")
    for path in sorted(finished, key=lambda path: path.stat().st_mtime, reverse=True):
        with contextlib.suppress(*UNREADABLE):
            run = read_json(path)
            changes = differences({name: run.get(name) for name in key}, key)
            return [change.replace("recipe.", "train.") for change in changes]
    return []
