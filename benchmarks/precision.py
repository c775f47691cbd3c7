"""Compare the accuracies that bfloat16 and float32 reach.

EfficientNet-Lite0, with its ImageNet weights from the test extra, is trained in all modes on the
images that params.yaml names, in both precisions and with the same seeds. Run it with:

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
from processes import CORES, ROOT, measure

from headswap.compare.intervals import Estimate, estimate_accuracy, estimate_difference
from headswap.runs import provenance

sys.path.insert(0, str(ROOT / "tests"))

from conftest import edit  # noqa: E402

NAME = "efficientnet_lite0"
PLACE = Path(tempfile.gettempdir(), "headswap-precision")
MODES = ("finetune", "frozen", "probe")


def train(folder, precision, seeds, epochs):
    """Train all cells in a project folder, which continues what an earlier call has left."""
    for name in ("data/manifest.csv", "tests/my_networks.py"):
        place = folder / ("data" if name.startswith("data") else "networks")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
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
        measure(["headswap", *stage.split()], folder)


def correct(folder, cell):
    """Return which images each replicate classified correctly at its last epoch."""
    predictions = pd.read_csv(folder / f"plots/predictions/{cell}.csv")
    last = predictions.query("which == 'last'")
    last = last.assign(correct=last["label"] == last["predicted"])
    return last.pivot(index="seed", columns="image", values="correct").to_numpy(float)


def in_percent(estimate: Estimate, sign=""):
    """Return an estimate and its interval as a text."""
    value, low, high = (
        format(100 * figure, f"{sign}.1f")
        for figure in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} ({low} to {high})"


def main(
    finetune: Annotated[int, typer.Option(help="Epochs of `finetune`.", min=1)] = 5,
    frozen: Annotated[int, typer.Option(help="Epochs of `frozen`.", min=1)] = 15,
    seeds: Annotated[int, typer.Option(help="Number of seeds of each cell.", min=2)] = 5,
    place: Annotated[Path, typer.Option(help="The folder of the projects; it is kept.")] = PLACE,
):
    """Print the table as Markdown."""
    machine, made_by = provenance.machine(), provenance.versions()
    folders = {name: place / name for name in ("float32", "bfloat16")}
    for precision, folder in folders.items():
        train(folder, precision, seeds, {"frozen": frozen, "finetune": finetune})
    lines = []
    for mode in MODES:
        float32, bfloat16 = (correct(folder, f"{NAME}-{mode}") for folder in folders.values())
        accuracies = [in_percent(estimate_accuracy(values)) for values in (float32, bfloat16)]
        lines.append([mode, *accuracies, in_percent(estimate_difference(bfloat16 - float32), "+")])
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
