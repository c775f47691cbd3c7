"""Measure headswap against the classic script, in turn, and against what the machine can do.

Whole processes are timed, on the photographs that params.yaml names, with random weights (a time
does not depend on their values). Both do the same epochs with validation after each; headswap
trains as many replicates side by side as there are cores, so its time is divided by those. What a
full run takes follows from a short one: its time, and the seconds of the epochs that it lacks.

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
from datetime import date
from pathlib import Path
from typing import Annotated

import psutil
import typer
from ruamel.yaml import YAML

from headswap import params, provenance
from headswap.files import read_json

ROOT = Path(__file__).resolve().parent.parent
CLASSIC = ROOT / "benchmarks/classic.py"
RESULTS = ROOT / "benchmarks/RESULTS.md"
BIN = Path(sys.executable).parent
CORES = len(os.sched_getaffinity(0))
REPLICATES, FULL = 5, 15
"""Replicates and epochs of the real experiment."""

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

    Memory is the sum of the processes' proportional set sizes in GiB, five times a second.
    """
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
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


def project(folder, epochs, precision):
    """Lay out a project for headswap that trains with random weights; bring its images."""
    yaml = YAML()
    chosen = yaml.load(ROOT / "params.yaml")
    chosen["weights"], chosen["precision"] = "random", precision
    chosen["seeds"] = list(range(REPLICATES))
    folder.mkdir()
    (folder / "data").mkdir()
    shutil.copy(ROOT / "data/manifest.csv", folder / "data")
    yaml.dump(chosen, folder / "params.yaml")
    for command in (["fetch"], ["verify"], *(["weights", model] for model in chosen["models"])):
        measured(["headswap", *command], folder)
    chosen["train"]["epochs"], chosen["seeds"] = epochs, list(range(CORES))
    yaml.dump(chosen, folder / "params.yaml")


def classic(folder, model, mode, epochs, workers):
    """Run the classic script; return its seconds, those of an epoch, and its peak memory."""
    options = ["--epochs", str(epochs), "--workers", str(workers)]
    output, seconds, memory = measured([sys.executable, CLASSIC, model, mode, *options], folder)
    return seconds, statistics.mean(json.loads(output.splitlines()[-1])), memory


def ours(folder, model, mode):
    """Train a cell with headswap, one run a core; return the same, of one replicate."""
    shutil.rmtree(folder / "runs", ignore_errors=True)
    _, seconds, memory = measured(["headswap", "train", model, mode], folder)
    epoch = read_json(folder / f"metrics/timing/{model}-{mode}.json")["seconds_per_epoch_mean"]
    return seconds / CORES, epoch / CORES, memory


def probes(folder, models):
    """Embed and probe with all replicates; return for each model the seconds of the two stages."""
    yaml = YAML()
    chosen = yaml.load(folder / "params.yaml")
    chosen["seeds"] = list(range(REPLICATES))
    yaml.dump(chosen, folder / "params.yaml")
    shutil.rmtree(folder / "runs", ignore_errors=True)
    return {
        model: [measured(["headswap", stage, model], folder)[1] for stage in ("embed", "probe")]
        for model in models
    }


def best_worker_count(folder):
    """Return the number of loader processes with which the classic script is fastest here."""
    seconds = {
        workers: classic(folder, "alexnet", "frozen", 1, workers)[0] for workers in (0, 1, 2, 4)
    }
    return min(seconds, key=seconds.get), seconds


def arithmetic(costs, mode, images):
    """Return what an epoch needs at the least: GFLOP, and GB of weights moved.

    A multiply-accumulate is two operations; learning needs the products of the forward pass three
    times. A step in batches of four moves all the weights for the forward pass; in `finetune`
    also for the gradients of inputs (read) and of weights (written), and in SGD with momentum
    weights and momentum read and written, gradients read.
    """
    train, val, steps = images["train"], images["val"], images["train"] / 4
    passes, moves = (3, 8) if mode == "finetune" else (1, 1)
    gflop = 2 * costs["gmacs"] * (passes * train + val)
    return gflop, costs["parameters"] * 4 * moves * steps / 1e9


def spread(values, digits=1):
    """Return the median of values, and their range."""
    middle = statistics.median(values)
    if len(values) == 1:
        return f"{middle:.{digits}f}"
    return f"{middle:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def full(seconds, epoch, epochs):
    """Return what a run of all epochs takes, from a short one."""
    return seconds + (FULL - epochs) * epoch


def main(
    epochs: Annotated[int, typer.Option(help="Of each run.", min=1)] = 2,
    repeats: Annotated[int, typer.Option(help="Of each cell, in turn.", min=1)] = 3,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16, for headswap.")] = "float32",
):
    """Measure, print, and write RESULTS.md."""
    limits = ceilings()
    chosen = params.load(ROOT / "params.yaml")
    cells = [(model, mode) for model in chosen.models for mode in chosen.modes]
    runs = {cell: [] for cell in cells}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "project")
        project(folder, epochs, precision)
        workers, tried = best_worker_count(folder)
        for _ in range(repeats):
            for model, mode in cells:
                runs[model, mode].append(
                    (classic(folder, model, mode, epochs, workers), ours(folder, model, mode))
                )
                print(model, mode, *runs[model, mode][-1], flush=True)
        of_probes = probes(folder, chosen.models)
        images = read_json(folder / "metrics/dataset.json")
        costs = {cell: read_json(folder / f"metrics/cells/{'-'.join(cell)}.json") for cell in cells}
    RESULTS.write_text(
        report(limits, workers, tried, runs, of_probes, costs, images, epochs, repeats, precision)
    )
    print(RESULTS.read_text())


def report(limits, workers, tried, runs, of_probes, costs, images, epochs, repeats, precision):
    """Return the results as Markdown."""
    machine, made_by = provenance.machine(), provenance.versions()
    peak, bandwidth = limits["1 thread on every core"][0], limits["1 thread on every core"][2]
    lines = [
        "# headswap against the classic script",
        "",
        f"Made by `python benchmarks/bench.py --epochs {epochs} --repeats {repeats} --precision "
        f"{precision}` on {date.today()}: {machine['processor']}, {machine['cores']} cores, "
        f"{machine['system']}, Python {platform.python_version()}, torch {made_by['torch']}, "
        f"torchvision {made_by['torchvision']}. Median and range of {repeats} repeats, each of the "
        f"classic script and of headswap in turn; whole processes, of {epochs} "
        f"epoch{'s' if epochs > 1 else ''}.",
        "",
        f"The classic script used {workers} loader processes, with which it was fastest ("
        + ", ".join(f"{number}: {seconds:.1f} s" for number, seconds in tried.items())
        + f"). headswap trained {CORES} replicates side by side; its times are those of one, the "
        "whole divided by their number. Memory is the sum over all processes.",
        "",
        f"| cell | classic, s | headswap, s | ratio | ratio of an epoch | ratio at {FULL} epochs "
        "| classic, GiB | headswap, GiB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    totals = {"short": [], "full": [], "classic": 0.0, "ours": 0.0}
    for (model, mode), pairs in runs.items():
        theirs, us = zip(*pairs, strict=True)
        ratios = [
            [their[0] / our[0] for their, our in pairs],
            [their[1] / our[1] for their, our in pairs],
            [full(*their[:2], epochs) / full(*our[:2], epochs) for their, our in pairs],
        ]
        lines.append(
            f"| {model} {mode} | {spread([run[0] for run in theirs])} "
            f"| {spread([run[0] for run in us])} | "
            + " | ".join(spread(of_kind, 2) for of_kind in ratios)
            + f" | {max(run[2] for run in theirs):.2f} | {max(run[2] for run in us):.2f} |"
        )
    for number in range(repeats):
        theirs, us = zip(*(pairs[number] for pairs in runs.values()), strict=True)
        totals["short"].append(sum(run[0] for run in theirs) / sum(run[0] for run in us))
        at_full = [sum(full(*run[:2], epochs) for run in side) for side in (theirs, us)]
        totals["full"].append(at_full[0] / at_full[1])
    lines += [
        f"| all {len(runs)} | | | {spread(totals['short'], 2)} | | {spread(totals['full'], 2)} "
        "| | |",
        "",
        "## The probes",
        "",
        f"Features of {FULL} views and {REPLICATES} replicates of the probe (whole processes), "
        f"against {REPLICATES} replicates of the classic script's frozen cell at {FULL} epochs.",
        "",
        "| network | embed, s | probe, s | classic frozen, s | ratio |",
        "|---|---:|---:|---:|---:|",
    ]
    both = [0.0, 0.0]
    for model, (embed, probe) in of_probes.items():
        theirs = REPLICATES * statistics.median(
            full(*pair[0][:2], epochs) for pair in runs[model, "frozen"]
        )
        both = [both[0] + theirs, both[1] + embed + probe]
        lines.append(
            f"| {model} | {embed:.1f} | {probe:.1f} | {theirs:.0f} "
            f"| {theirs / (embed + probe):.1f} |"
        )
    rounds = -(-REPLICATES // CORES) * CORES
    matrix = both[1] + sum(
        rounds * statistics.median(full(*pair[1][:2], epochs) for pair in pairs)
        for pairs in runs.values()
    )
    lines += [
        f"| both | | | {both[0]:.0f} | {both[0] / both[1]:.1f} |",
        "",
        f"The whole matrix ({REPLICATES} replicates, {FULL} epochs, {len(runs)} trained cells and "
        f"{len(of_probes)} probes) so takes {matrix / 60:.0f} minutes here.",
        "",
        "## How far from the machine's limit",
        "",
        "| | float32, GFLOP/s | bfloat16, GFLOP/s | copying, GB/s |",
        "|---|---:|---:|---:|",
        *(
            f"| {name} | " + " | ".join(f"{value:.1f}" for value in values) + " |"
            for name, values in limits.items()
        ),
        "",
        "The least an epoch can take on one core while the others work too: its products at the "
        "measured speed of large matrices, and then its weights' way through memory.",
        "",
        "| cell | GFLOP | GB of weights | least, s | measured, s | share of the limit |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for (model, mode), pairs in runs.items():
        gflop, gigabytes = arithmetic(costs[model, mode], mode, images)
        least = gflop / peak + gigabytes / bandwidth
        took = CORES * statistics.median(pair[1][1] for pair in pairs)
        lines.append(
            f"| {model} {mode} | {gflop:.0f} | {gigabytes:.1f} | {least:.1f} | {took:.1f} "
            f"| {least / took:.0%} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
