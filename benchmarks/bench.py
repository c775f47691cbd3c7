"""Measure headswap against the classic script, in turn, and against what the machine can do.

Whole processes are timed, on the photographs that params.yaml names, with random weights (a time
does not depend on their values). Both do the same epochs with validation after each, the classic
script in float32, headswap in each precision; headswap trains as many replicates side by side as
there are cores, so its time is divided by those. What a full run takes follows from a short one:
its time, and the seconds of the epochs that it lacks.

    make bench                                   # or, to say how much:
    python benchmarks/bench.py --epochs 1 --repeats 3

writes benchmarks/RESULTS.md.
"""

import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated

import psutil
import typer

from headswap import params
from headswap.io import read_json
from headswap.runs import provenance
from headswap.runs.workers import ENVIRONMENT

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from conftest import edit  # noqa: E402

CLASSIC = ROOT / "benchmarks/classic.py"
RESULTS = ROOT / "benchmarks/RESULTS.md"
BIN = Path(sys.executable).parent
CORES = len(os.sched_getaffinity(0))
REPLICATES, FULL = 5, 15
"""Replicates and epochs of the real experiment."""
PRECISIONS = ("float32", "bfloat16")


@dataclass
class Run:
    """A whole process.

    Attributes
    ----------
    seconds, epoch : float
        Wall-clock seconds of all, and of its last epoch.
    memory : float
        The most that it and its children held, GiB.
    """

    seconds: float
    epoch: float
    memory: float

    def full(self, epochs):
        """Return what all epochs would have taken, from a run of `epochs`."""
        return self.seconds + (FULL - epochs) * self.epoch


@dataclass
class Measurements:
    """What was measured, and how: see `main`.

    Attributes
    ----------
    epochs, repeats
        As asked for.
    limits : dict
        See `ceilings`.
    loaders : dict of int to float
        Seconds of the classic script by the number of its loader processes.
    classic : dict of (str, str) to list of Run
        For each model and mode, one a repeat.
    ours : dict of str to dict
        For each precision the same of headswap.
    probes : dict of str to dict of str to list of float
        For each precision and model the seconds of ``embed`` and of ``probe``.
    costs : dict of (str, str) to dict
        What headswap wrote of a cell.
    images : dict of str to int
        In each split.
    views : int
        Of each training image, for the probes.
    """

    epochs: int
    repeats: int
    limits: dict
    loaders: dict
    classic: dict
    ours: dict
    probes: dict
    costs: dict
    images: dict
    views: int


CEILING = """
import sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
def best(work, tries=5):
    work()
    times = []
    for _ in range(tries):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)
for precision in (torch.float32, torch.bfloat16):
    a, b = torch.randn(2, 1536, 1536).to(precision)
    print(2 * 1536**3 / best(lambda: a @ b, 5 if precision == torch.float32 else 2) / 1e9)
source, target = torch.ones(2, 2**26)
print(2 * source.nbytes / best(lambda: target.copy_(source)) / 1e9)
"""
"""Prints GFLOP/s of products in float32 and in bfloat16, and GB/s of copying 256 MiB."""


def ceilings():
    """Return what the machine can do: for one thread, all threads, and one thread on every core.

    Returns
    -------
    dict of str to list of float
        GFLOP/s in float32, GFLOP/s in bfloat16, GB/s. For one thread on every core: the mean.
    """

    def start(threads):
        return subprocess.Popen(
            [sys.executable, "-c", CEILING, str(threads)], stdout=subprocess.PIPE, text=True
        )

    def figures(process):
        return [float(line) for line in process.communicate()[0].split()]

    alone, together = figures(start(1)), figures(start(CORES))
    side_by_side = [figures(process) for process in [start(1) for _ in range(CORES)]]
    means = [statistics.mean(of_all) for of_all in zip(*side_by_side, strict=True)]
    return {"1 thread": alone, f"{CORES} threads": together, "1 thread on every core": means}


def measured(command, folder):
    """Run a command; return its output, wall-clock seconds, and the peak memory of all it starts.

    What headswap sets for its own processes is not set for it, whatever the shell has.

    Memory is the sum of the processes' proportional set sizes in GiB, five times a second.
    """
    environment = {key: value for key, value in os.environ.items() if key not in ENVIRONMENT}
    environment["PATH"] = f"{BIN}:{os.environ['PATH']}"
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    peak, over = [0], threading.Event()

    def watch():
        while not over.wait(0.2):
            peak[0] = max(peak[0], _memory(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - started
    over.set()
    watcher.join()
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed in {folder}:\n{output}")
    return output, seconds, peak[0] / 2**30


def _memory(pid):
    total = 0
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
    return total


def project(folder, epochs):
    """Lay out a project for headswap that trains with random weights; bring its images."""
    (folder / "data").mkdir(parents=True)
    shutil.copy(ROOT / "data/manifest.csv", folder / "data")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    edit(folder / "params.yaml", weights="random", train={"epochs": epochs})
    models = params.load(folder / "params.yaml").models
    for command in (["fetch"], ["verify"], *(["weights", model] for model in models)):
        measured(["headswap", *command], folder)


def classic(folder, model, mode, epochs, workers):
    """Run the classic script."""
    options = ["--epochs", str(epochs), "--workers", str(workers)]
    output, seconds, memory = measured([sys.executable, CLASSIC, model, mode, *options], folder)
    return Run(seconds, json.loads(output.splitlines()[-1])[-1], memory)


def ours(folder, model, mode, precision):
    """Train a cell with headswap, one replicate a core; return the times of one."""
    edit(folder / "params.yaml", precision=precision, seeds=list(range(CORES)))
    shutil.rmtree(folder / "runs", ignore_errors=True)
    _, seconds, memory = measured(["headswap", "train", model, mode], folder)
    kept = [read_json(path) for path in folder.glob(f"runs/{model}-{mode}/*/*/timing.json")]
    epoch = statistics.mean(sum(run["epochs"][-1].values()) for run in kept)
    return Run(seconds / CORES, epoch / CORES, memory)


def probes(folder, models, precision):
    """Embed and probe with all replicates; return for each model the seconds of the two stages."""
    edit(folder / "params.yaml", precision=precision, seeds=list(range(REPLICATES)))
    shutil.rmtree(folder / "runs", ignore_errors=True)
    return {
        model: [measured(["headswap", stage, model], folder)[1] for stage in ("embed", "probe")]
        for model in models
    }


def loader_counts(folder):
    """Return the classic script's seconds by the number of its loader processes."""
    return {
        workers: classic(folder, "alexnet", "frozen", 1, workers).seconds
        for workers in (0, 1, 2, 4)
    }


def arithmetic(found, model, mode):
    """Return what the last epoch needs at the least: GFLOP, and GB of weights moved.

    A multiply-accumulate is two operations; learning needs the products of the forward pass three
    times. A step in batches of four reads all the weights for the forward pass, and in `finetune`
    again for the gradients of inputs. Frozen AlexNet, having no batch norm, has the same features
    of the validation images in every epoch, and needs them in the first.
    """
    costs, train, steps = found.costs[model, mode], found.images["train"], found.images["train"] / 4
    known = (model, mode) == ("alexnet", "frozen") and found.epochs > 1
    val = 0 if known else found.images["val"]
    passes, reads = (3, 2) if mode == "finetune" else (1, 1)
    gflop = 2 * costs["gmacs"] * (passes * train + val)
    return gflop, costs["parameters"] * 4 * reads * steps / 1e9


def spread(values, digits=1):
    """Return the median of values, and their range."""
    middle = statistics.median(values)
    if len(values) == 1:
        return f"{middle:.{digits}f}"
    return f"{middle:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main(
    epochs: Annotated[int, typer.Option(help="Of each run.", min=1)] = 2,
    repeats: Annotated[int, typer.Option(help="Of each cell, in turn.", min=1)] = 3,
    precision: Annotated[
        list[str], typer.Option(help="float32 or bfloat16, for headswap; may be given twice.")
    ] = PRECISIONS,
):
    """Measure, print, and write RESULTS.md."""
    limits = ceilings()
    chosen = params.load(ROOT / "params.yaml")
    cells = [(model, mode) for model in chosen.models for mode in chosen.modes]
    theirs = {cell: [] for cell in cells}
    us = {name: {cell: [] for cell in cells} for name in precision}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "project")
        project(folder, epochs)
        loaders = loader_counts(folder)
        fastest = min(loaders, key=loaders.get)
        for _ in range(repeats):
            for cell in cells:
                theirs[cell].append(classic(folder, *cell, epochs, fastest))
                print(*cell, "classic", theirs[cell][-1], flush=True)
                for name in precision:
                    us[name][cell].append(ours(folder, *cell, name))
                    print(*cell, name, us[name][cell][-1], flush=True)
        found = Measurements(
            epochs,
            repeats,
            limits,
            loaders,
            theirs,
            us,
            probes={name: probes(folder, chosen.models, name) for name in precision},
            costs={
                cell: read_json(folder / f"metrics/cells/{'-'.join(cell)}.json") for cell in cells
            },
            images=read_json(folder / "metrics/dataset.json"),
            views=chosen.embed.views,
        )
    lines = [*introduction(found), *of_machine(found)]
    for name in precision:
        lines += [*ratios(found, name), *of_probes(found, name), *limit(found, name)]
    text = "\n".join(lines)
    RESULTS.write_text(text + "\n")
    print(text)


def introduction(found):
    """Return how it was measured, as lines of Markdown."""
    machine, made_by = provenance.machine(), provenance.versions()
    tried = ", ".join(f"{number}: {seconds:.1f} s" for number, seconds in found.loaders.items())
    asked = "".join(f" --precision {name}" for name in found.ours) if len(found.ours) == 1 else ""
    return [
        "# headswap against the classic script",
        "",
        f"Made by `python benchmarks/bench.py --epochs {found.epochs} --repeats {found.repeats}"
        f"{asked}` on {date.today()}: {machine['processor']}, {machine['cores']} cores, "
        f"{machine['system']}, Python {platform.python_version()}, torch {made_by['torch']}, "
        f"torchvision {made_by['torchvision']}. Median and range of {found.repeats} repeats, each "
        "of the classic script (in float32) and of headswap in turn; whole processes, which train "
        f"for {found.epochs} epoch{'s' if found.epochs > 1 else ''}.",
        "",
        "The classic script used as many loader processes as were fastest with AlexNet frozen "
        f"({tried}). headswap trained {CORES} replicates side by side; its times are those of "
        "one, the whole divided by their number. Memory is the sum over all processes.",
        "",
    ]


def of_machine(found):
    """Return what the machine can do, as lines of Markdown."""
    return [
        "## The machine's limits",
        "",
        "| | float32, GFLOP/s | bfloat16, GFLOP/s | copying, GB/s |",
        "|---|---:|---:|---:|",
        *(
            f"| {name} | {' | '.join(f'{value:.1f}' for value in values)} |"
            for name, values in found.limits.items()
        ),
    ]


def ratios(found, precision):
    """Return the table of the cells, as lines of Markdown."""
    lines = [
        "",
        f"## headswap in {precision}",
        "",
        f"| cell | classic, s | headswap, s | ratio | ratio of an epoch | ratio at {FULL} epochs "
        "| classic, GiB | headswap, GiB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for cell, us in found.ours[precision].items():
        theirs = found.classic[cell]
        pairs = list(zip(theirs, us, strict=True))
        of_kind = [
            [their.seconds / our.seconds for their, our in pairs],
            [their.epoch / our.epoch for their, our in pairs],
            [their.full(found.epochs) / our.full(found.epochs) for their, our in pairs],
        ]
        lines.append(
            f"| {' '.join(cell)} | {spread([run.seconds for run in theirs])} "
            f"| {spread([run.seconds for run in us])} "
            f"| {' | '.join(spread(values, 2) for values in of_kind)} "
            f"| {max(run.memory for run in theirs):.2f} | {max(run.memory for run in us):.2f} |"
        )
    short, full = [], []
    for repeat in range(found.repeats):
        theirs, us = (
            [runs[repeat] for runs in side.values()]
            for side in (found.classic, found.ours[precision])
        )
        short.append(sum(run.seconds for run in theirs) / sum(run.seconds for run in us))
        all_epochs = [sum(run.full(found.epochs) for run in side) for side in (theirs, us)]
        full.append(all_epochs[0] / all_epochs[1])
    count = len(found.classic)
    lines.append(f"| all {count} | | | {spread(short, 2)} | | {spread(full, 2)} | | |")
    return lines


def of_probes(found, precision):
    """Return the table of the probes and the time of the whole matrix, as lines of Markdown."""
    lines = [
        "",
        f"The probes in {precision}: features of {found.views} views and {REPLICATES} replicates "
        f"(whole processes), against {REPLICATES} replicates of the classic script's frozen cell "
        f"at {FULL} epochs.",
        "",
        "| network | embed, s | probe, s | classic frozen, s | ratio |",
        "|---|---:|---:|---:|---:|",
    ]
    sums = [0.0, 0.0]
    for model, (embed, probe) in found.probes[precision].items():
        frozen = [run.full(found.epochs) for run in found.classic[model, "frozen"]]
        theirs, us = REPLICATES * statistics.median(frozen), embed + probe
        sums = [sums[0] + theirs, sums[1] + us]
        lines.append(f"| {model} | {embed:.1f} | {probe:.1f} | {theirs:.0f} | {theirs / us:.1f} |")
    cells, rounds = found.ours[precision].values(), -(-REPLICATES // CORES)
    matrix = sums[1] + rounds * CORES * sum(
        statistics.median(run.full(found.epochs) for run in runs) for runs in cells
    )
    return [
        *lines,
        f"| both | | | {sums[0]:.0f} | {sums[0] / sums[1]:.1f} |",
        "",
        f"The whole matrix ({REPLICATES} replicates, {FULL} epochs, {len(cells)} trained "
        f"cells and {len(found.probes[precision])} probes) so takes "
        f"{matrix / 60:.0f} minutes here.",
    ]


def limit(found, precision):
    """Return how near each cell comes to what the machine can do, as lines of Markdown."""
    lines = [
        "",
        f"The least that an epoch can take in {precision} on one core while the others work too: "
        "its products at the measured speed of large matrices, and then its weights' way through "
        "memory. *Ratio at the limit* is how many times the classic script's speed would be "
        "reached by a program that took no more.",
        "",
        "| cell | GFLOP | GB of weights | least, s | measured, s | share of the limit "
        "| ratio at the limit |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    peaks = found.limits["1 thread on every core"]
    peak, size = (peaks[1], 0.5) if precision == "bfloat16" else (peaks[0], 1)
    sums = [0.0, 0.0, 0.0]
    for (model, mode), runs in found.ours[precision].items():
        gflop, gigabytes = arithmetic(found, model, mode)
        least = gflop / peak + size * gigabytes / peaks[2]
        took = CORES * statistics.median(run.epoch for run in runs)
        classic = CORES * statistics.median(run.epoch for run in found.classic[model, mode])
        sums = [total + part for total, part in zip(sums, (least, took, classic), strict=True)]
        lines.append(
            f"| {model} {mode} | {gflop:.0f} | {size * gigabytes:.1f} | {least:.1f} | {took:.1f} "
            f"| {least / took:.0%} | {classic / least:.1f} |"
        )
    least, took, classic = sums
    lines.append(
        f"| all {len(found.classic)} | | | {least:.1f} | {took:.1f} | {least / took:.0%} "
        f"| {classic / least:.1f} |"
    )
    return lines


if __name__ == "__main__":
    typer.run(main)
