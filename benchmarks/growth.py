"""Time and memory of every command with the number of photographs: benchmarks/GROWTH.md.

    python benchmarks/growth.py FOLDER [--sizes 1000 10000 100000] [--classes 20 100]

Small photographs of noise, a tiny network, one epoch. What FOLDER has of an earlier call is kept.
"""

import argparse
import contextlib
import ctypes
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from processes import BIN, CORES, ROOT, measure
from ruamel.yaml import YAML

from headswap.io import read_json, write_json, write_text
from headswap.runs.provenance import machine

COMMANDS = {
    "manifest": "headswap manifest photos --val 0.3 --use",
    "check": "headswap check",
    "check again": "headswap check",
    "fetch": "dvc repro fetch",
    "verify": "dvc repro verify",
    "weights": "dvc repro weights",
    "embed": "dvc repro embed",
    "frozen": "dvc repro train",
    "probe": "dvc repro probe",
    "compare": "dvc repro compare",
    "all": "dvc repro",
    "nothing to do": "dvc repro",
    "status": "headswap status",
}


def wait_for_orphans() -> None:
    """Wait for the processes that a command left, so that their time counts."""
    with contextlib.suppress(ChildProcessError):
        for _ in range(50):
            time.sleep(0.1 * (os.waitpid(-1, os.WNOHANG)[0] == 0))


def make_project(folder: Path, photographs: int, classes: int) -> None:
    """Copy the pipeline to a folder, with photographs of noise in folders of classes."""
    for name in ("src", "scripts", "data/published", ".dvc/plots"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config", "data/manifest.csv"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "networks").mkdir()
    shutil.copy(ROOT / "tests/my_networks.py", folder / "networks")
    yaml = YAML()
    tree = yaml.load(ROOT / "params-demo.yaml")
    tree |= {"models": ["tiny"], "factories": {"tiny": "my_networks:tiny"}}
    tree |= {"modes": ["frozen"], "seeds": [0], "device": "cpu"}
    tree["train"] |= {"epochs": 1, "batch_size": 64}
    tree["image"] |= {"size": 32, "resize": 32}
    yaml.dump(tree, folder / "params.yaml")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    random = np.random.default_rng(0)
    for number in range(photographs):
        label = number % classes
        path = folder / f"photos/class_{label:03}/{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (4, 4, 3), np.uint8)
        pixels[0, 0] = (label * 2, 255 - label * 2, 128)
        Image.fromarray(pixels).resize((40, 40), Image.Resampling.NEAREST).save(path)


def main() -> None:
    """Measure what is not yet known, and write the record."""
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: orphans become this one's children
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--classes", type=int, nargs="+", default=[20, 100])
    arguments = parser.parse_args()
    rows = []
    for classes in arguments.classes:
        for size in arguments.sizes:
            folder = arguments.folder / f"{size}-{classes}"
            record = folder / "measured.json"
            if not record.exists():
                shutil.rmtree(folder, ignore_errors=True)
                make_project(folder, size, classes)
                write_json(record, {})
            measured = read_json(record)
            for name, command in COMMANDS.items():
                if name in measured:
                    continue
                program, *words = command.split()
                before = sum(os.times()[2:4])
                _, _, memory = measure([BIN / program, *words], folder)
                wait_for_orphans()
                seconds = sum(os.times()[2:4]) - before
                print(f"{size} {classes} {name}: {seconds:.1f} s, {memory:.2f} GiB", flush=True)
                write_json(record, measured := measured | {name: (seconds, memory)})
            for name, (seconds, memory) in read_json(record).items():
                rows.append((classes, name, size, seconds, memory))
    table = pd.DataFrame(rows, columns=["classes", "command", "photographs", "seconds", "GiB"])
    lines = []
    for (classes, name), of in table.groupby(["classes", "command"], sort=False):
        texts = {"classes": classes, "command": name}
        for figure in ("seconds", "GiB"):
            for row in of.to_dict("records"):
                texts[f"{figure}, {row['photographs']:,}"] = f"{row[figure]:.3g}"
            first, last = of.iloc[-2:].iloc[0], of.iloc[-1]
            growth = math.log(last[figure] / first[figure])
            if size_ratio := math.log(last["photographs"] / first["photographs"]):
                texts[f"exponent of {figure}"] = f"{growth / size_ratio:.2f}"
        lines.append(texts)
    arguments_given = " ".join(sys.argv[2:])
    write_text(
        ROOT / "benchmarks/GROWTH.md",
        "# How time and memory grow with the number of photographs\n\n"
        "Processor seconds and the peak memory of all processes of each command, on photographs of "
        "40 pixels, a tiny network and one epoch; exponents are between the two largest sets "
        "measured: 1 is proportional. `all` is the first `dvc repro` after single stages, with "
        "`check` in it. Empty: not measured. "
        f"Made by `python benchmarks/growth.py FOLDER {arguments_given}`"
        + f" on {CORES} cores of {machine('')['processor']}.\n\n"
        + pd.DataFrame(lines).fillna("").to_markdown(index=False, disable_numparse=True)
        + "\n",
    )


if __name__ == "__main__":
    main()
