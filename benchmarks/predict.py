"""Measure what `headswap predict` takes beside a plain loop, and without what makes it fast.

    python benchmarks/predict.py         # prints the table of benchmarks/PREDICT.md

The photographs are those of params.yaml; HEADSWAP_MIRROR may name a folder with their archive.
EfficientNet-Lite0 has its ImageNet weights, from packages of the test environment.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated
from unittest import mock

import typer
from ablation import ROOT, prepare

from headswap.runs.provenance import machine

NETWORKS = ("efficientnet_lite0", "resnet18")
MODULE = "headswap.predict.predict"


def freed_memory_returned():
    """Leave glibc's settings."""
    mock.patch(f"{MODULE}.keep_freed_memory", lambda: None).start()


def torch_threads():
    """Compute a batch at a time, with as many threads as torch chooses."""
    mock.patch(f"{MODULE}.threads_of_torch", lambda: ThreadPoolExecutor(1)).start()


def both():
    """Leave out both."""
    freed_memory_returned()
    torch_threads()


VARIANTS = {
    "predict": lambda: None,
    "without kept memory": freed_memory_returned,
    "with torch's threads": torch_threads,
    "without both": both,
    "plain loop": lambda: None,
}


def measure(model, variant, images):
    """Return the processor's and the wall's seconds for some photographs, after the first batch."""
    import torch
    import torchvision

    from headswap.images.preprocessing import Preprocessing
    from headswap.predict.model import Classifier
    from headswap.predict.predict import predict

    sys.path.insert(0, str(ROOT / "tests"))
    import my_networks

    network = getattr(my_networks, model, None) or getattr(torchvision.models, model)
    record = {"classes": [*map(str, range(1000))], "precision": "float32"}
    record["preprocessing"] = vars(Preprocessing())
    classifier = Classifier(network(), record)
    paths = sorted(Path("data/images").glob("*/*/*.jpg"))[:images]
    VARIANTS[variant]()

    def classify(some):
        if variant == "plain loop":
            plain_loop(network().eval(), some)
        else:
            for _ in predict([classifier], some, print):
                pass

    with torch.no_grad():
        classify(paths[:32])
        before, start = os.times(), time.perf_counter()
        classify(paths)
    after = os.times()
    seconds = after.user + after.system - before.user - before.system
    return seconds, time.perf_counter() - start


def plain_loop(network, paths):
    """Classify photographs as a tutorial does."""
    import torch
    from PIL import Image
    from torchvision import transforms

    steps = transforms.Compose(
        [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
    )
    for start in range(0, len(paths), 32):
        crops = [steps(Image.open(path).convert("RGB")) for path in paths[start : start + 32]]
        network(torch.stack(crops)).softmax(1)


def main(
    repeats: Annotated[int, typer.Option(help="Measurements of each; the median counts.")] = 3,
    images: Annotated[int, typer.Option(help="Photographs.")] = 160,
    only: Annotated[str, typer.Option("--measure", hidden=True)] = "",
):
    """Print the table."""
    if only:
        print(json.dumps(measure(*json.loads(only))))
        return
    taken = {}
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.chdir(folder):
            prepare(Path(folder))
        for _ in range(repeats):
            for model in NETWORKS:
                for variant in VARIANTS:
                    arguments = json.dumps([model, variant, images])
                    command = [sys.executable, Path(__file__).resolve(), "--measure", arguments]
                    done = subprocess.run(
                        command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True
                    )
                    seconds = json.loads(done.stdout.splitlines()[-1])
                    taken.setdefault((model, variant), []).append(seconds)
    on = machine()
    print("# What `headswap predict` takes\n")
    print(
        f"Seconds of the processor, and of the wall, for {images} photographs: medians of "
        f"{repeats}; in parentheses the processor's divided by those of `predict`. Made by `python "
        f"benchmarks/predict.py --repeats {repeats} --images {images}` on {on['cores']} cores of "
        f"{on['processor']}, at revision {str(on['revision'])[:12]}.\n"
    )
    print(f"| | {' | '.join(NETWORKS)} |\n| --- |{' ---: |' * len(NETWORKS)}")
    for variant in VARIANTS:
        cells = []
        for model in NETWORKS:
            processor, wall = map(statistics.median, zip(*taken[model, variant], strict=True))
            whole = statistics.median(seconds for seconds, _ in taken[model, "predict"])
            cells.append(f"{processor:.1f} ({processor / whole:.2f}), {wall:.1f}")
        print(f"| {variant} | {' | '.join(cells)} |")


if __name__ == "__main__":
    typer.run(main)
