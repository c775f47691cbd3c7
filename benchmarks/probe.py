"""Time the probe: the choice of the penalty, and the last fit.

Synthetic features have the spectrum of real ones; the real ones are of EfficientNet-Lite0, with its
ImageNet weights of the test extra. Run it, after `dvc repro verify` has laid out the images:

    python benchmarks/probe.py > benchmarks/PROBE.md
"""

import itertools
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from headswap.images.index import read_index
from headswap.images.preprocessing import Preprocessing
from headswap.runs import provenance
from headswap.train.dataset import decode, evaluation_transform, normalize
from headswap.train.probe import fit_probe
from headswap.train.training import compute_features

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from my_networks import efficientnet_lite0  # noqa: E402

BATCH = 32


def synthetic(images, features, classes, distance):
    """Return features whose variances fall as those of EfficientNet-Lite0 do, and labels."""
    random = np.random.default_rng(0)
    deviations = np.arange(1, features + 1) ** -0.45
    labels = random.integers(classes, size=images)
    centers = random.normal(size=(classes, features)) * deviations * distance
    drawn = centers[labels] + random.normal(size=(images, features)) * deviations
    drawn = drawn @ np.linalg.qr(random.normal(size=(features, features)))[0]
    return np.maximum(drawn / drawn.std(), 0).astype(np.float32), labels


def real():
    """Return features and labels of the training images."""
    index = read_index(ROOT / "data/images")
    backbone = efficientnet_lite0()
    backbone.set_submodule("_fc", torch.nn.Identity())
    paths = [index.folder / name for name in index.names["train"]]
    starts = range(0, len(paths), BATCH)
    values = Preprocessing()
    crops = map(evaluation_transform(values), map(decode, paths))
    batches = (normalize([*itertools.islice(crops, BATCH)], values) for _ in starts)
    features = compute_features(backbone, batches).numpy()
    return features, np.array(index.labels("train"))


def timed(function, *arguments):
    """Return what a function returns, and the seconds of the one core that it used."""
    start = time.process_time()
    with threadpool_limits(1):
        return function(*arguments), time.process_time() - start


def time_fits(problems):
    """Print how long the whole search and the last fit take."""
    print("| images | features | classes | seconds | C | values of C tried | held-out accuracy |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for features, labels in problems:
        classes = labels.max() + 1
        fit, seconds = timed(fit_probe, features, labels, classes, 0)
        accuracy = next(step.accuracy for step in fit.path if step.C == fit.C)
        shape = " | ".join(map(str, (*features.shape, classes)))
        print(f"| {shape} | {seconds:.1f} | {fit.C:.3g} | {len(fit.path)} | {accuracy:.1%} |")
        sys.stdout.flush()


def main():
    """Print the table."""
    torch.set_num_threads(1)
    made_by = ", ".join(f"{name} {version(name)}" for name in ("scipy", "numpy"))
    print(
        "# The probe\n\nMade by `python benchmarks/probe.py` on "
        f"{provenance.machine()['processor']}, {made_by}. Seconds are of one core.\n"
    )
    middle, large = synthetic(10_000, 1_280, 20, 0.12), synthetic(10_000, 2_048, 100, 0.15)
    time_fits([real(), middle, large])


if __name__ == "__main__":
    main()
