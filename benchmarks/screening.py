"""What a screening costs beside its networks: benchmarks/SCREENING.md.

    python benchmarks/screening.py FOLDER [--networks 30]

A tiny network under many names, on drawn photographs: what is measured is nearly all start-up.
Python's bytecode is taken as cached, as pip does it: run it twice where it was not.
"""

import argparse
import contextlib
import ctypes
import os
import resource
import shutil
import time
from pathlib import Path

from processes import BIN, CORES, ROOT, measure
from ruamel.yaml import YAML

from headswap.io import write_text
from headswap.runs.provenance import machine

NETWORK = """import torch


def tiny():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = torch.nn.Conv2d(3, 16, 7, stride=4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2)
        return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(64, 10))
"""
COMMANDS = (
    *("headswap weights", "dvc repro weights verify"),
    *("headswap runs", "dvc repro", "headswap compare"),
)


def main() -> None:
    """Measure each command, and write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--networks", type=int, default=30)
    arguments = parser.parse_args()
    folder = arguments.folder / "project"
    for name in ("src", "scripts", "data/published", ".dvc/plots"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("dvc.yaml", ".dvcignore", ".dvc/config", "data/manifest.csv"):
        shutil.copy(ROOT / name, folder / name)
    write_text(folder / "networks/own.py", NETWORK)
    names = [f"net_{number:02}" for number in range(arguments.networks)]
    yaml = YAML()
    tree = yaml.load(ROOT / "params-demo.yaml")
    tree |= {"models": names, "factories": dict.fromkeys(names, "own:tiny")}
    tree |= {"modes": [], "device": "cpu"}
    yaml.dump(tree, folder / "params.yaml")
    measure([BIN / "dvc", "config", "--local", "core.no_scm", "true"], folder)
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: a server outlives who started it
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    lines = []
    for command in COMMANDS:
        program, *words = command.split()
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        measure([BIN / program, *words], folder)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()
        after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        each = seconds / arguments.networks
        lines.append(f"| `{command}` | {seconds:.0f} | {each:.1f} | {wall:.0f} |")
        print(lines[-1], flush=True)
    write_text(
        ROOT / "benchmarks/SCREENING.md",
        "# What a screening costs beside its networks\n\n"
        f"{arguments.networks} tiny networks, `modes: []`, on generated photographs: seconds of "
        "the processor, for each network, and of the wall, on which other work on the machine "
        "tells. The second command fetches and verifies the photographs; the fourth embeds "
        "(the features are there), fits the probes and compares once. Python's bytecode is "
        "cached. Made by `python benchmarks/screening.py "
        f"FOLDER --networks {arguments.networks}` on {CORES} cores of {machine()['processor']}.\n\n"
        "| command | processor | a network | wall |\n|---|---:|---:|---:|\n"
        + "\n".join(lines)
        + "\n",
    )


if __name__ == "__main__":
    main()
