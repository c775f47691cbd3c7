"""Measure what each piece of `headswap.train.speed` gains, by leaving it out.

For each trained cell of AlexNet and ResNet-18, in each precision, the CPU seconds of an epoch are
measured with all pieces and without one of them, in a process of its own each, in turn. A process
trains two epochs on some of the photographs, with random weights, and counts the second, because
caches are filled in the first.

    python benchmarks/ablation.py        # prints the table of benchmarks/ABLATION.md

The photographs are those of params.yaml; HEADSWAP_MIRROR may name a folder with their archive.
"""

import contextlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated
from unittest import mock

import typer

from headswap import params
from headswap.runs.provenance import machine
from headswap.runs.workers import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[1]
CELLS = [
    params.Cell(model, mode) for model in ("alexnet", "resnet18") for mode in ("finetune", "frozen")
]
PRECISIONS = ("float32", "bfloat16")


@contextlib.contextmanager
def without_low_rank():
    """Let the optimizer take all steps."""
    from headswap.train.speed.low_rank import LowRankUpdates

    def none(network, optimizer, batch_size):
        return LowRankUpdates(network, optimizer, batch_size=10**9)  # no layer is as large

    with mock.patch("headswap.train.loop.LowRankUpdates", none):
        yield


@contextlib.contextmanager
def without_cached_validation():
    """Compute the whole network for each validation."""
    from headswap.train.loop import evaluate

    def always(network, autocast):
        return lambda batches, labels: evaluate(network, batches, autocast)

    with mock.patch("headswap.train.loop.CachedValidation", always):
        yield


@contextlib.contextmanager
def without_cast_weights():
    """Let autocast cast frozen weights in each forward pass."""
    with mock.patch("headswap.train.loop.cast_frozen_weights", lambda network: None):
        yield


@contextlib.contextmanager
def without_cached_images():
    """Decode each image whenever it is used."""
    from headswap.train.dataset import ImageCache

    with mock.patch.object(ImageCache.__init__, "__defaults__", (0,)):
        yield


PIECES = {
    "low-rank gradients": (without_low_rank, lambda cell, _: cell.mode == "finetune"),
    "cached validation": (without_cached_validation, lambda cell, _: cell.mode == "frozen"),
    "cast frozen weights": (
        without_cast_weights,
        lambda cell, precision: cell.mode == "frozen" and precision == "bfloat16",
    ),
    "cached images": (without_cached_images, lambda cell, _: True),
}
"""For each piece a context that leaves it out, and where it can act."""


def measure(cell, precision, piece, images):
    """Return the CPU seconds of the second epoch of a run, in this process."""
    import torch

    from headswap.images.preprocessing import preprocessing
    from headswap.train import loop
    from headswap.train.dataset import ImageDataset
    from headswap.train.training import build_network

    torch.set_num_threads(1)
    chosen = params.load()
    times = []

    def on_progress(done, figures=None, note=""):
        if done % 1 == 0:
            now = os.times()
            times.append(now.user + now.system)

    recipe = chosen.train.model_copy(update={"epochs": 2})
    chosen = chosen.model_copy(update={"precision": precision, "train": recipe, "device": "cpu"})
    with PIECES[piece][0]() if piece else contextlib.nullcontext():
        dataset = ImageDataset(preprocessing(cell.model, chosen.image))
        network = build_network(cell, chosen, dataset, 0)
        validation = round(images * len(dataset.labels["val"]) / len(dataset.labels["train"]))
        sizes = {"train": images, "val": validation}
        few = SimpleNamespace(
            labels={split: dataset.labels[split][:number] for split, number in sizes.items()},
            train_batches=lambda *args: itertools.islice(
                dataset.train_batches(*args), images // recipe.batch_size
            ),
            val_batches=lambda: first(dataset.val_batches(), validation),
        )
        loop.train(
            network,
            few,
            recipe,
            0,
            precision=precision,
            checkpoint=Path(tempfile.mkdtemp(dir=".")) / "checkpoint.pt",
            on_progress=on_progress,
        )
    return times[1] - times[0]


def first(batches, images):
    """Yield batches with as many images."""
    for inputs, labels in batches:
        if images > 0:
            yield inputs[:images], labels[:images]
        images -= len(labels)


def measure_in_process(folder, cell, precision, piece, images):
    """Return what `measure` returns in a process of its own."""
    environment = {**os.environ, **ENVIRONMENT}
    arguments = [cell.model, cell.mode, precision, piece or "", str(images)]
    command = [sys.executable, __file__, "--measure", json.dumps(arguments)]
    done = subprocess.run(
        command, env=environment, cwd=folder, check=True, stdout=subprocess.PIPE, text=True
    )
    return float(done.stdout)


def prepare(folder):
    """Bring photographs and random weights into a folder."""
    for name in ("params.yaml", "dvc.yaml", "data/manifest.csv"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace("weights: imagenet", "weights: random"))
    models = dict.fromkeys(cell.model for cell in CELLS)
    for command in (["fetch"], ["verify"], *(["weights", model] for model in models)):
        subprocess.run(
            [sys.executable, "-m", "headswap", *command],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )


def main(
    repeats: Annotated[int, typer.Option(help="Measurements of each; the median counts.")] = 3,
    images: Annotated[int, typer.Option(help="Training images in an epoch.")] = 84,
    mode: Annotated[str, typer.Option(help="Measure the cells of this mode only.")] = "",
    measure_only: Annotated[str, typer.Option("--measure", hidden=True)] = "",
):
    """Print the table."""
    if measure_only:
        model, mode, precision, piece, images = json.loads(measure_only)
        print(measure(params.Cell(model, mode), precision, piece, int(images)))
        return
    seconds = {}
    cells = [cell for cell in CELLS if mode in ("", cell.mode)]
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        for _ in range(repeats):
            for cell, precision in itertools.product(cells, PRECISIONS):
                acting = [piece for piece in PIECES if PIECES[piece][1](cell, precision)]
                for piece in [None, *acting]:
                    measured = measure_in_process(folder, cell, precision, piece, images)
                    seconds.setdefault((cell, precision, piece), []).append(measured)
    print("\n".join(report(seconds, cells, repeats, images)))


def report(seconds, cells, repeats, images):
    """Yield the lines of the table."""
    on = machine()
    columns = [(cell, precision) for cell in cells for precision in PRECISIONS]
    yield "# What each piece of `headswap.train.speed` gains"
    yield ""
    yield (
        f"CPU seconds of an epoch of {images} training images without the piece, divided by those "
        f"with all pieces: median of {repeats} pairs. 1.10 means that the piece saves a tenth of "
        "the time; – that it cannot act there. "
        f"Made by `python benchmarks/ablation.py --repeats {repeats} --images {images}` on "
        f"{on['processor']}, one thread, at revision {str(on['revision'])[:12]}."
    )
    yield ""
    yield f"| without | {' | '.join(f'{cell.name} {precision}' for cell, precision in columns)} |"
    yield f"| --- |{' ---: |' * len(columns)}"
    for piece in PIECES:
        ratios = []
        for cell, precision in columns:
            pairs = zip(
                seconds.get((cell, precision, piece), []),
                seconds[cell, precision, None],
                strict=False,
            )
            values = [without / whole for without, whole in pairs]
            ratios.append(f"{statistics.median(values):.2f}" if values else "–")
        yield f"| {piece} | {' | '.join(ratios)} |"
    whole = (statistics.median(seconds[cell, precision, None]) for cell, precision in columns)
    yield f"| all pieces, seconds | {' | '.join(f'{value:.2f}' for value in whole)} |"


if __name__ == "__main__":
    typer.run(main)
