"""Measure what one queue for all runs gains over training cell by cell.

Six cells of five runs, as in the default matrix, once by `dvc repro` alone and once by
`headswap runs` and `dvc repro`. On 2 cores the networks compute; on 8 and 32 slots, which a
small machine does not have, they sleep instead. On generated images, in folders of its own.

    python benchmarks/queue_of_runs.py > benchmarks/QUEUE.md
"""

import math
import os
import shutil
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
from processes import CORES, ROOT, measure

from headswap.runs import provenance

sys.path.insert(0, str(ROOT / "tests"))

from conftest import edit, project  # noqa: E402

NETWORKS = """
import time
import torch
from torch import nn

class Wait(nn.Module):
    def forward(self, images):
        if not self.training:
            time.sleep({sleep})
        return images

def network():
    torch.manual_seed(0)
    return nn.Sequential(Wait(), nn.Conv2d(3, 16, 7, stride=4), nn.ReLU(), {work}
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
"""
"""A network that computes, or in eval mode sleeps; so an epoch takes the time that is wanted."""
WORK = "*[nn.Conv2d(16, 16, 3, padding=1) for _ in range(40)],"
SLOTS = {
    2: {"sleep": 0.0, "work": WORK},
    8: {"sleep": 4.0, "work": ""},
    32: {"sleep": 24.0, "work": ""},
}
MODELS = ["a", "b", "c"]
RUNS = (10, 100, 1000)


def prepare(folder, settings):
    """Make a project whose images, weights and features are ready.

    A run of each cell was trained before, so that the memory that it takes is known: by the upper
    estimate for unknown ones, 32 do not fit into a small machine.
    """
    project(folder)
    (folder / "networks/naps.py").write_text(NETWORKS.format(**settings))
    edit(
        folder / "params.yaml",
        models=MODELS,
        factories={model: "naps:network" for model in MODELS},
        modes=["finetune", "frozen"],
        seeds=[0],
        train={"epochs": 1, "lr": 0.001},
    )
    measure(["dvc", "config", "core.no_scm", "true"], folder)
    measure(["dvc", "repro", "--quiet", "weights", "embed"], folder)
    measure(["headswap", "runs"], folder)
    edit(folder / "params.yaml", seeds=[0, 1, 2, 3, 4], train={"epochs": 3})


def seconds(folder, *commands):
    """Return how long some commands took in a copy of a project."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = shutil.copytree(folder, Path(temporary, "project"), symlinks=True)
        start = time.perf_counter()
        for command in commands:
            measure(command, copy)
        return time.perf_counter() - start


def many_runs():
    """Print how a queue of the smallest runs grows: `frozen` for one epoch of a few images."""
    print("""
## Many runs

Runs of `frozen` for one epoch of a few generated images, so that nearly all that is measured
is the queue, its processes and its display. Memory is that of all processes, at its peak. The last
line says by which power of the number the figure grew in the last step: 1 is linear.

| runs | `headswap runs`, s | s a run | GiB | `headswap status`, s | GiB \
| `dvc repro` of the cell, s | GiB |
|---:|---:|---:|---:|---:|---:|---:|---:|""")
    found = []
    for runs in RUNS:
        with tempfile.TemporaryDirectory() as temporary:
            folder = project(Path(temporary, "project"))
            edit(folder / "params.yaml", seeds=list(range(runs)), train={"epochs": 1})
            measure(["dvc", "config", "core.no_scm", "true"], folder)
            measure(["dvc", "repro", "--quiet", "weights"], folder)
            stage = "train@tiny-frozen"
            commands = ("headswap runs tiny-frozen", "headswap status", f"dvc repro -q {stage}")
            found.append([measure(command.split(), folder)[1:] for command in commands])
        (queue, most), status, collect = found[-1]
        others = " | ".join(
            f"{seconds:.1f} | {memory:.2f}" for seconds, memory in (status, collect)
        )
        print(
            f"| {runs:,} | {queue:.1f} | {queue / runs:.2f} | {most:.2f} | {others} |", flush=True
        )
    times = math.log(RUNS[-1] / RUNS[-2])
    powers = np.log(np.array(found[-1]) / found[-2]) / times
    cells = [f"{seconds:.2f} | {memory:.2f}" for seconds, memory in powers]
    print(f"| power | {cells[0].replace(' | ', ' |  | ')} | {' | '.join(cells[1:])} |")


def main():
    """Print the tables as Markdown."""
    os.environ.pop("HEADSWAP_MIRROR", None)
    made_by, machine = provenance.versions(), provenance.machine()
    rows = []
    for slots, settings in SLOTS.items():
        os.environ["HEADSWAP_WORKERS"] = str(slots)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary, "project")
            prepare(folder, settings)
            alone = seconds(folder, ["dvc", "repro", "--quiet"])
            queued = seconds(folder, ["headswap", "runs"], ["dvc", "repro", "--quiet"])
        what = "compute" if settings["work"] else "sleep"
        rows.append(f"| {slots} | {what} | {alone:.0f} | {queued:.0f} | {alone / queued:.2f} |")
    print(f"""# One queue for all runs

Made by `python benchmarks/queue_of_runs.py` on {date.today()}: {machine["processor"]}, \
{CORES} cores, Python {made_by["python"]}, torch {made_by["torch"]}. Six cells of five runs, and \
three probes; whole processes, seconds; both ways once, in turn.

| runs side by side | the networks | `dvc repro` | `headswap runs` and `dvc repro` | times as fast |
|---:|---|---:|---:|---:|""")
    print("\n".join(rows), flush=True)
    os.environ.pop("HEADSWAP_WORKERS")
    many_runs()


if __name__ == "__main__":
    main()
