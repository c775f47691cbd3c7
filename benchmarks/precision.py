"""Ask whether bfloat16 finds what float32 finds.

EfficientNet-Lite0 with its ImageNet weights (of the test extra) on the photographs that params.yaml
names: `frozen`, and the probe of params.yaml, both ways, with the same seeds. Run it with:

    python benchmarks/precision.py > benchmarks/PRECISION.md
"""

import shutil
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from bench import CORES, ROOT, measured
from ruamel.yaml import YAML

from headswap import provenance, statistics
from headswap.files import read_json

NAME = "efficientnet_lite0"
CELLS = (f"{NAME}-frozen", f"{NAME}-probe")


def train(folder, precision, epochs, seeds):
    """Train both cells in a project of their own."""
    yaml = YAML()
    chosen = yaml.load(ROOT / "params.yaml")
    chosen |= {"models": [NAME], "factories": {NAME: f"my_networks:{NAME}"}, "modes": ["frozen"]}
    chosen |= {"precision": precision, "seeds": list(range(seeds))}
    chosen["train"]["epochs"] = epochs
    (folder / "data").mkdir(parents=True)
    shutil.copy(ROOT / "data/manifest.csv", folder / "data")
    shutil.copy(ROOT / "tests/my_networks.py", folder)
    yaml.dump(chosen, folder / "params.yaml")
    for stage in ("fetch", "verify", f"weights {NAME}", f"embed {NAME}", f"probe {NAME}"):
        measured(["headswap", *stage.split()], folder)
    measured(["headswap", "train", NAME, "frozen"], folder)


def hits(folder, cell):
    """Return which images each replicate got right at its last epoch."""
    rows = pd.read_csv(folder / f"plots/predictions/{cell}.csv", dtype={"label": str})
    rows = rows[rows["which"] == "last"]
    rows = rows.assign(hit=rows["label"] == rows["predicted"])
    return rows.pivot(index="seed", columns="image", values="hit").to_numpy(float)


def main(
    epochs: Annotated[int, typer.Option(help="Of `frozen`.", min=1)] = 15,
    seeds: Annotated[int, typer.Option(help="Of both cells.", min=2)] = 5,
):
    """Print the table as Markdown."""
    machine, made_by = provenance.machine(), provenance.versions()
    with tempfile.TemporaryDirectory() as temporary:
        folders = {name: Path(temporary, name) for name in ("float32", "bfloat16")}
        for precision, folder in folders.items():
            train(folder, precision, epochs, seeds)
            print(precision, "is done", file=sys.stderr)
        lines = []
        for cell in CELLS:
            row = [cell]
            for folder in folders.values():
                figures = read_json(folder / f"metrics/cells/{cell}.json")
                mean, low, high = (
                    100 * figures[f"last_val_accuracy_{part}"]
                    for part in ("mean", "ci_low", "ci_high")
                )
                row.append(f"{mean:.1f} ({low:.1f} to {high:.1f})")
            gap = statistics.contrast(
                100 * (hits(folders["bfloat16"], cell) - hits(folders["float32"], cell)), 100
            )
            lines.append([*row, f"{gap.value:+.1f} ({gap.low:+.1f} to {gap.high:+.1f})"])
    print(f"""# bfloat16 against float32

Accuracy at the last epoch, in %, mean of {seeds} replicates, and the difference in points, paired \
by image and seed, each with its 95 % interval. `frozen` was trained for {epochs} epochs. Made by \
`python benchmarks/precision.py --epochs {epochs} --seeds {seeds}` on {date.today()}: \
{machine["processor"]}, {CORES} cores, torch {made_by["torch"]}.

| cell | float32 | bfloat16 | bfloat16 − float32 |
|---|---:|---:|---:|""")
    for line in lines:
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    typer.run(main)
