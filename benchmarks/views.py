"""Ask whether a probe that learns from a pool of views finds what one with fresh views finds.

EfficientNet-Lite0 with its ImageNet weights (of the test extra) on the photographs in data/images.
For pools of 1, 4, 16 and 64 views of each training image, and for views that are new in every
epoch of every replicate, the probe of params.yaml is trained with each seed. Run it, after
`dvc repro verify` has laid out the images, with:

    python benchmarks/views.py > benchmarks/VIEWS.md
"""

import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from headswap import params
from headswap.compare import intervals as statistics
from headswap.train import backbones as networks
from headswap.train import loop as training
from headswap.train import pretrained as weights
from headswap.train import provenance
from headswap.train.dataset import Photographs
from headswap.train.features import Embeddings, features, view
from headswap.train.seeds import generator

ROOT = Path(__file__).resolve().parent.parent
NAME = "efficientnet_lite0"
POOLS = (1, 4, 16, 64)
CHOSEN = params.load(ROOT / "params.yaml").model_copy(
    update={"models": [NAME], "factories": {NAME: f"my_networks:{NAME}"}}
)
POOL = [("pool", number) for number in range(max(POOLS))]
FRESH = [(seed, epoch) for seed in CHOSEN.seeds for epoch in range(CHOSEN.probe.epochs)]


class Fresh(Embeddings):
    """Features of views that are new in every epoch of every replicate."""

    def train(self, seed, epoch, batch_size):
        """Yield an epoch's batches, in an order of its own."""
        whole = self._train
        self._train = whole[[FRESH.index((seed, epoch))]]
        yield from super().train(seed, epoch, batch_size)
        self._train = whole


def compute(path, names):
    """Return features by name: ``val``, or the (seed, number) of a view of each training image."""
    torch.set_num_threads(1)
    network, head = weights.pretrained(NAME, CHOSEN, path)
    networks.replace(network, head, torch.nn.Identity())
    network.to(memory_format=torch.channels_last)
    photographs = Photographs(CHOSEN.image, ROOT / "data/images")
    precisely = training.products("float32", "cpu")
    computed = {}
    for name in names:
        batches = (
            (inputs for inputs, _ in photographs.val())
            if name == "val"
            else view(photographs, f"benchmark {name[0]}", name[1])
        )
        computed[name] = features(network, batches, precisely, "cpu")
    return computed


def probe(feed, seed):
    """Return whether a probe is right on each validation image at its best and its last epoch."""
    head = networks.new_head(feed.features, len(feed.classes), generator(seed, "head"))
    history = training.train(head, feed, CHOSEN.probe, seed)
    labels = feed.labels["val"]
    return [
        (epoch["probabilities"].argmax(1) == labels).numpy()
        for epoch in (history.best, history.last)
    ]


def main():
    """Compute all features, train all probes, print the table."""
    sys.path.insert(0, str(ROOT / "tests"))
    os.environ["PYTHONPATH"] = str(ROOT / "tests")
    torch.set_num_threads(1)
    photographs = Photographs(CHOSEN.image, ROOT / "data/images")
    names, cores = ["val", *POOL, *FRESH], len(os.sched_getaffinity(0))
    correct = {}
    with tempfile.TemporaryDirectory() as folder:
        weights.provide(NAME, CHOSEN, Path(folder, f"{NAME}.safetensors"))
        with ProcessPoolExecutor(cores, get_context("spawn")) as workers:
            parts = workers.map(compute, [folder] * cores, [names[i::cores] for i in range(cores)])
            computed = {name: tensor for part in parts for name, tensor in part.items()}
        for pool in (*POOLS, "fresh"):
            views = FRESH if pool == "fresh" else POOL[:pool]
            weights.save(
                Path(folder, f"{pool}.safetensors"),
                {
                    "train": torch.stack([computed[view] for view in views]),
                    "val": computed["val"],
                    **{f"{split}_labels": photographs.labels[split] for split in ("train", "val")},
                },
                classes=photographs.classes,
                names=photographs.names,
                backbone={},
            )
            feed = (Fresh if pool == "fresh" else Embeddings)(Path(folder, f"{pool}.safetensors"))
            correct[pool] = np.array([probe(feed, seed) for seed in CHOSEN.seeds], dtype=float)
    print(report(correct))


def report(correct):
    """Return the table as Markdown; `hits` has shape (replicates, 2, images) for each pool."""
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
            gap = statistics.contrast(100 * (of_pool[:, which] - correct["fresh"][:, which]), 100)
            row.append(
                "–" if pool == "fresh" else f"{gap.value:+.1f} ({gap.low:+.1f} to {gap.high:+.1f})"
            )
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
