"""Ask whether a probe that learns from a pool of views finds what one with fresh views finds.

EfficientNet-Lite0 with its ImageNet weights (of the test extra) on the photographs in data/images.
For pools of 1, 4, 16 and 64 views of each training image, and for views that are new in every
epoch of every replicate, the probe of params.yaml is trained with each seed. Run it, after
`dvc repro verify` has laid out the images, with:

    python benchmarks/views.py > benchmarks/VIEWS.md
"""

import contextlib
import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from headswap import params
from headswap.compare.intervals import estimate_difference
from headswap.images.preprocessing import Preprocessing
from headswap.runs import provenance
from headswap.train.dataset import FeatureDataset, ImageDataset
from headswap.train.features import compute_features
from headswap.train.loop import make_autocast, train
from headswap.train.networks import new_head, replace_layer
from headswap.train.seeds import generator
from headswap.train.weights import load_pretrained, save_tensors, write_weights

ROOT = Path(__file__).resolve().parent.parent
NAME = "efficientnet_lite0"
POOLS = (1, 4, 16, 64)
CHOSEN = params.load(ROOT / "params.yaml").model_copy(
    update={"models": [NAME], "factories": {NAME: f"my_networks:{NAME}"}}
)
POOL = [("pool", number) for number in range(max(POOLS))]
FRESH = [(seed, epoch) for seed in CHOSEN.seeds for epoch in range(CHOSEN.probe.epochs)]


class Fresh(FeatureDataset):
    """Features of views that are new in every epoch of every replicate."""

    def train_batches(self, seed, epoch, batch_size):
        """Yield the batches of an epoch, in an order of its own."""
        all_views = self._train
        self._train = all_views[[FRESH.index((seed, epoch))]]
        yield from super().train_batches(seed, epoch, batch_size)
        self._train = all_views


def compute(path, names):
    """Return features by name: ``val``, or the (seed, number) of a view of each training image."""
    torch.set_num_threads(1)
    os.chdir(path)
    network, head = load_pretrained(NAME, CHOSEN, Path())
    replace_layer(network, head, torch.nn.Identity())
    network.to(memory_format=torch.channels_last)
    dataset = ImageDataset(Preprocessing(), ROOT / "data/images")
    autocast = make_autocast("float32", "cpu")
    computed = {}
    for name in names:
        batches = (
            (inputs for inputs, _ in dataset.val_batches())
            if name == "val"
            else dataset.augmented_batches(f"benchmark {name[0]}", name[1])
        )
        computed[name] = compute_features(network, batches, autocast, "cpu")
    return computed


def probe(dataset, seed):
    """Return which images a probe classifies correctly at its best and at its last epoch."""
    head = new_head(dataset.features, len(dataset.classes), generator(seed, "head"))
    history = train(head, dataset, CHOSEN.probe, seed)
    labels = dataset.labels["val"]
    return [
        (epoch["probabilities"].argmax(1) == labels).numpy()
        for epoch in (history.best, history.last)
    ]


def main():
    """Compute all features, train all probes, print the table."""
    torch.set_num_threads(1)
    dataset = ImageDataset(Preprocessing(), ROOT / "data/images")
    names, cores = ["val", *POOL, *FRESH], len(os.sched_getaffinity(0))
    correct = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("networks").mkdir()
        shutil.copy(ROOT / "tests/my_networks.py", "networks")
        write_weights(NAME, CHOSEN, Path(folder, f"{NAME}.safetensors"))
        with ProcessPoolExecutor(cores, get_context("spawn")) as workers:
            parts = workers.map(compute, [folder] * cores, [names[i::cores] for i in range(cores)])
            computed = {name: tensor for part in parts for name, tensor in part.items()}
        for pool in (*POOLS, "fresh"):
            views = FRESH if pool == "fresh" else POOL[:pool]
            save_tensors(
                Path(folder, f"{pool}.safetensors"),
                {
                    "train": torch.stack([computed[view] for view in views]),
                    "val": computed["val"],
                    **{f"{split}_labels": dataset.labels[split] for split in ("train", "val")},
                },
                classes=dataset.classes,
                names=dataset.names,
                backbone={},
            )
            kind = Fresh if pool == "fresh" else FeatureDataset
            features = kind(Path(folder, f"{pool}.safetensors"))
            correct[pool] = np.array([probe(features, seed) for seed in CHOSEN.seeds], dtype=float)
    print(report(correct))


def report(correct):
    """Return the table as Markdown; `correct` has shape (replicates, 2, images) for each pool."""
    machine, made_by = provenance.machine(), provenance.versions()
    lines = [
        "# A pool of views, or fresh views in every epoch",
        "",
        "The probe of EfficientNet-Lite0 on the photographs: accuracy on the validation set, mean "
        f"and standard deviation of {len(correct['fresh'])} replicates in %, and the difference to "
        "fresh views in points with its 95 % interval, paired by image and seed.",
        f"Made by `python benchmarks/views.py` on {machine['processor']}, torch "
        f"{made_by['torch']}.",
        "",
        "| views | best epoch | difference | last epoch | difference |",
        "|---:|---:|---:|---:|---:|",
    ]
    for pool, of_pool in correct.items():
        row = [str(pool)]
        for which in (0, 1):
            accuracies = 100 * of_pool[:, which].mean(axis=1)
            row.append(f"{accuracies.mean():.1f} ± {accuracies.std(ddof=1):.1f}")
            gap = estimate_difference(100 * (of_pool[:, which] - correct["fresh"][:, which]), 100)
            row.append(
                "–" if pool == "fresh" else f"{gap.value:+.1f} ({gap.low:+.1f} to {gap.high:+.1f})"
            )
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
