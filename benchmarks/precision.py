"""Ask whether bfloat16 finds what float32 finds.

EfficientNet-Lite0 with its ImageNet weights (of the test extra) on the photographs that params.yaml
names: `finetune`, `frozen`, and the probe of params.yaml, both ways, with the same seeds. Run it
with:

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

from headswap.compare import intervals as statistics
from headswap.compare.results import right
from headswap.io import read_json
from headswap.train import provenance

sys.path.insert(0, str(ROOT / "tests"))

from conftest import edit  # noqa: E402

NAME = "efficientnet_lite0"
PLACE = Path(tempfile.gettempdir(), "headswap-precision")
MODES = ("finetune", "frozen", "probe")


def train(folder, precision, seeds, epochs):
    """Train all cells in a project of their own, from where an earlier try has left off."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "data/manifest.csv", folder / "data")
    shutil.copy(ROOT / "tests/my_networks.py", folder)
    shutil.copy(ROOT / "params.yaml", folder)
    edit(
        folder / "params.yaml",
        models=[NAME],
        factories={NAME: f"my_networks:{NAME}"},
        modes=[mode for mode in MODES if mode != "probe"],
        precision=precision,
        seeds=list(range(seeds)),
    )
    stages = [f"probe {NAME}", *(f"train {NAME} {mode}" for mode in epochs)]
    if not (folder / f"data/embeddings/{NAME}.safetensors").exists():
        stages = ["fetch", "verify", f"weights {NAME}", f"embed {NAME}", *stages]
    for stage in stages:
        mode = stage.rpartition(" ")[2]
        edit(folder / "params.yaml", train={"epochs": epochs.get(mode, 1)})
        measured(["headswap", *stage.split()], folder)


def correct(folder, cell):
    """Return which images each replicate got right at its last epoch."""
    rows = pd.read_csv(folder / f"plots/predictions/{cell}.csv")
    return right(rows, "last").to_numpy(float)


def main(
    finetune: Annotated[int, typer.Option(help="Epochs of `finetune`.", min=1)] = 5,
    frozen: Annotated[int, typer.Option(help="Epochs of `frozen`.", min=1)] = 15,
    seeds: Annotated[int, typer.Option(help="Of each cell.", min=2)] = 5,
    place: Annotated[Path, typer.Option(help="Of the projects, which are kept.")] = PLACE,
):
    """Print the table as Markdown."""
    machine, made_by = provenance.machine(), provenance.versions()
    folders = {name: place / name for name in ("float32", "bfloat16")}
    for precision, folder in folders.items():
        train(folder, precision, seeds, {"frozen": frozen, "finetune": finetune})
    lines = []
    for mode in MODES:
        cell = f"{NAME}-{mode}"
        row = [mode]
        for folder in folders.values():
            figures = read_json(folder / f"metrics/cells/{cell}.json")
            mean, low, high = (
                100 * figures[f"last_val_accuracy_{part}"] for part in ("mean", "ci_low", "ci_high")
            )
            row.append(f"{mean:.1f} ({low:.1f} to {high:.1f})")
        gap = statistics.contrast(
            100 * (correct(folders["bfloat16"], cell) - correct(folders["float32"], cell)), 100
        )
        lines.append([*row, f"{gap.value:+.1f} ({gap.low:+.1f} to {gap.high:+.1f})"])
    print(f"""# bfloat16 against float32

Accuracy of EfficientNet-Lite0 at the last epoch, in %, mean of {seeds} replicates, and the \
difference in points, paired by image and seed, each with its 95 % interval. `finetune` was \
trained for {finetune} epochs, `frozen` for {frozen}. Made by `python benchmarks/precision.py \
--finetune {finetune} --frozen {frozen} --seeds {seeds}` on {date.today()}: \
{machine["processor"]}, {CORES} cores, torch {made_by["torch"]}.

| mode | float32 | bfloat16 | bfloat16 − float32 |
|---|---:|---:|---:|""")
    for line in lines:
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    typer.run(main)
