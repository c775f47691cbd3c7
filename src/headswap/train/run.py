"""One run: a cell trained with one seed to its end. Torch is imported only where it is needed."""

import resource
import shutil
import sys
from typing import Any

from headswap.io import write_json
from headswap.params import Cell, Params
from headswap.progress import OnProgress
from headswap.runs.provenance import cache_key, machine
from headswap.runs.store import (
    delete_checkpoint,
    file_digests,
    file_lock,
    find_damage,
    is_finished,
    run_folder,
)
from headswap.snapshot import unchanged
from headswap.train.devices import device_name

RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes of the unit in which the system reports memory."""


def train_run(
    cell: Cell, params: Params, seed: int, key: dict[str, Any], on_progress: OnProgress
) -> None:
    """Train a run from its last finished epoch to its end, unless another process has finished it.

    `key` is the cell's cache key: a run is not kept if images, weights or code are not those of the
    key.
    """
    if cell.mode == "probe":
        from headswap.train.probe import train_probe as train
    else:
        from headswap.train.training import train_network as train
    folder = run_folder(cell, key, seed)
    with file_lock(folder.with_suffix(".lock"), on_progress):
        if find_damage(folder):
            shutil.rmtree(folder)
        if not is_finished(folder):
            with unchanged(key, lambda: cache_key(cell, params), written=folder):
                record, seconds = train(cell, params, seed, folder, on_progress)
            times = {
                "epochs": seconds,
                "memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT,
                **machine(device_name(params.device)),
            }
            write_json(folder / "timing.json", times)
            record = {**key, "seed": seed, **record, "files": file_digests(folder)}
            write_json(folder / "run.json", record)  # with which the run is finished
        delete_checkpoint(folder)  # also of a process that was killed at the end of the run
