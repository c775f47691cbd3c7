"""Where runs are kept: in ``runs/<cell>/<digest of the key>/seed-<seed>/[fold-<fold> or all]``."""

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

RECORD = "model.json"  # in models/<cell>/: all that using the cell's network needs
TRAINED = "trained.safetensors"  # in a run's folder: its trained tensors at the last epoch
PROGRESS = "progress.json"  # in a run's folder until it is finished: how far it is
BASE_MEMORY = 2**30  # bytes for torch, decoded images (at most half), activations of a batch
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError)  # missing, or damaged


def runs_root() -> Path:
    """Return ``runs/`` of the main checkout, which DVC's experiments and Git's worktrees share."""
    main, _, experiment = str(Path.cwd()).partition("/.dvc/tmp/exps/")
    if experiment:
        return Path(main, RUNS)
    with contextlib.suppress(OSError):
        link = Path(Path(".git").read_text().removeprefix("gitdir:").strip())
        project = link.parents[2]  # from <project>/.git/worktrees/<name>
        if link.parent.name == "worktrees" and (project / "dvc.yaml").exists():
            return project / RUNS
    return RUNS


def run_folder(cell: Cell, key: dict[str, Any], seed: int) -> Path:
    """Return the folder of one run."""
    return runs_root() / cell.name / digest(key) / f"seed-{seed}" / part_name(cell)


def part_name(cell: Cell) -> str:
    """Return what a run leaves out, as in its folder; empty on the manifest's split."""
    return {None: "", ALL: "all"}.get(cell.fold, f"fold-{cell.fold}")


def read_features(model: str) -> tuple[NDArray[np.float32], Index, dict[str, Any]]:
    """Return features, shape (images, features), their images, ``inputs`` and ``backbone``."""
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
    """Hold a file lock; if another process has it, wait, or without `on_progress`: a UserError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = path.with_suffix(".pid")
    if is_locked(path):
        process = holder.read_text() if holder.exists() else "unknown"
        another = f"another process, number {process}, which is working on"
        if on_progress is None:
            remedy = f"or stop it with `kill {process}`; then run the same command again."
            raise UserError(f"Wait for {another} {path.with_suffix('')},\n{remedy}")
        on_progress(None, note=f"waits for {another} it")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(NotImplementedError):  # the file system has no locks
            stack.enter_context(FileLock(path))
            holder.write_text(str(os.getpid()))
        yield


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


def _of_past_runs(cell: Cell, value: Callable[[Any], float]) -> list[float]:
    """Compute a value from each ``timing.json`` of a cell, whatever its parameters and version."""
    found = []
    for path in (runs_root() / cell.name).glob("*/seed-*/**/timing.json"):
        with contextlib.suppress(*UNREADABLE):
            found.append(value(read_json(path)))
    return found


def expected_memory(cell: Cell) -> int:
    """Return the bytes of memory of the cell's past runs at their peak, else an upper estimate."""
    if peaks := _of_past_runs(cell, lambda timing: float(timing["memory_bytes"])):
        return round(max(peaks))
    weights = WEIGHTS / f"{cell.model}.safetensors"
    size = weights.stat().st_size if weights.exists() and cell.mode != "probe" else 0
    # Parameters, gradients, two of the optimizer, a checkpoint, what convolutions need.
    return BASE_MEMORY + 6 * size


def expected_seconds(cell: Cell) -> float | None:
    """Return the mean time of an epoch in a cell's past runs; None if there are none."""
    seconds = _of_past_runs(cell, lambda timing: fmean(e["wall"] for e in timing["epochs"]))
    return fmean(seconds) if seconds else None


def fill_missing_seconds(known: Mapping[Cell, float | None]) -> dict[Cell, float]:
    """Replace an unknown time of an epoch by the mean of its kind; if none is known, by ratios."""
    times = [(cell.mode == "probe", s) for cell, s in known.items() if s is not None]
    network = fmean([s for is_probe, s in times if not is_probe] or [1])
    # In docs/runs, probes are 100 to 1,400 times as fast as networks.
    means = {"probe": fmean([s for is_probe, s in times if is_probe] or [network / 400])}
    return {c: means.get(c.mode, network) if s is None else s for c, s in known.items()}


def changes_since_last_run(cell: Cell, key: dict[str, Any]) -> list[str]:
    """Return what differs, as ``train.lr was 0.01, is 0.02``, from the latest finished run."""
    finished = (runs_root() / cell.name).glob("*/seed-*/**/run.json")
    for path in sorted(finished, key=lambda path: path.stat().st_mtime, reverse=True):
        with contextlib.suppress(*UNREADABLE):
            run = read_json(path)
            changes = differences({name: run.get(name) for name in key}, key)
            return [change.replace("recipe.", "train.") for change in changes]
    return []
