"""One run: a cell trained with one seed to its end. Torch is imported only where it is needed."""

import resource
import shutil
import sys
from typing import Any

from headswap.io import write_json
from headswap.params import Cell, Params
from headswap.progress import OnProgress
from headswap.runs import store
from headswap.runs.provenance import cache_key, machine
from headswap.snapshot import unchanged
from headswap.train.devices import device_name


def train_run(
    cell: Cell, params: Params, seed: int, key: dict[str, Any], on_progress: OnProgress
) -> None:
    """Finish a run, from its last epoch on; of others than the inputs in `key` it is not kept."""
    if cell.mode == "probe":
        from headswap.train.probe import train_probe as train
    else:
        from headswap.train.training import train_network as train
    folder = store.run_folder(cell, key, seed)
    with store.file_lock(folder.with_suffix(".lock"), on_progress):
        if store.find_damage(folder):
            shutil.rmtree(folder)
        if not store.is_finished(folder):
            with unchanged(key, lambda: cache_key(cell, params), written=folder):
                record, seconds = train(cell, params, seed, folder, on_progress)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            memory *= 1 if sys.platform == "darwin" else 1024  # elsewhere it is in KiB
            times = {"epochs": seconds, "memory_bytes": memory}
            write_json(folder / "timing.json", times | machine(device_name(params.device)))
            record = {**key, "seed": seed, **record, "files": store.file_digests(folder)}
            write_json(folder / "run.json", record)  # with which the run is finished
        for file in (*folder.glob("*.pt"), *folder.glob(store.PROGRESS)):
            file.unlink()  # also of a process that was killed at the end of the run
