"""Embeddings: what the head sees of an image when the backbone is truly frozen."""

import gc
import shutil
import time
from pathlib import Path

import torch
from torch import nn

from headswap.io import digest, read_tensors, sha256, write_json
from headswap.paths import EMBEDDINGS, RUNS, WEIGHTS
from headswap.train import backbones as networks
from headswap.train import pretrained as weights
from headswap.train.dataset import VAL_BATCH, Photographs, normalise
from headswap.train.loop import pick, products
from headswap.train.provenance import code_digest, images_digest, machine, versions
from headswap.train.seeds import generator
from headswap.train.workers import Job, how_many, only_one, side_by_side

TIMING = Path("metrics/timing")
gc.freeze()  # all that came with torch: neither forked workers nor a process's end look through it


class Embeddings:
    """The features of a data set, in place of its images.

    Parameters
    ----------
    path : path-like
        What `provide` wrote.

    Attributes
    ----------
    classes : list of str
        Sorted; a label is a place in it.
    names : dict of str to list of str
        For each split the images' paths, sorted.
    labels : dict of str to torch.Tensor
        For each split int64, shape (images,).
    backbone : dict
        Its costs (see `networks.describe`), without a head.
    features : int
        Numbers for each image.
    """

    def __init__(self, path):
        tensors, metadata = read_tensors(path, "pt")
        self.classes, self.names = metadata["classes"], metadata["names"]
        self.backbone = metadata["backbone"]
        self.labels = {"train": tensors["train_labels"], "val": tensors["val_labels"]}
        # Copied out of the mapped file: where a tensor begins in memory decides how MKL sums.
        self._train, self._val = tensors["train"], tensors["val"].clone()
        self.features = self._val.shape[1]

    def train(self, seed, epoch, batch_size):
        """Yield an epoch's batches, each image in one view of the pool: see `Photographs.train`."""
        views, images, _ = self._train.shape
        order = torch.randperm(images, generator=generator(seed, "order", epoch))
        pick_view = generator(seed, "augmentation", epoch)
        view = torch.randint(views, (images,), generator=pick_view)
        for chunk in order.split(batch_size):
            yield self._train[view[chunk], chunk], self.labels["train"][chunk]

    def val(self):
        """Yield the validation images in one batch."""
        yield self._val, self.labels["val"]


def write_features(model, params, on_progress):
    """Compute a backbone's features, several views side by side; write them and the time it took.

    Parameters
    ----------
    model : str
        A model of ``params.yaml``.
    params : Params
        All parameters.
    tell : callable
        Called with the model's name and a dict after each view.

    Raises
    ------
    UserError
        If a worker fails; the views that are done are kept.
    """
    identity = {
        **params.model_dump(include={"embed": {"seed"}, "image": True, "precision": True}),
        "device": pick(params.device),
        "images": images_digest(),
        "weights": sha256(WEIGHTS / f"{model}.safetensors"),
        "code": code_digest(),
        "versions": versions(),
    }
    folder = RUNS / f"{model}-embed" / digest(identity)
    parts = ["val", "train", *map(str, range(params.embed.views))]
    todo = [part for part in parts if not (folder / f"{part}.safetensors").exists()]
    shares = [todo[worker :: how_many()] for worker in range(how_many())]
    jobs = [
        Job(f"{model} views", "headswap.train.features.embed", (model, params, share, folder))
        for share in shares
        if share
    ]
    with only_one(folder.with_name("lock")):
        side_by_side(jobs, on_progress)
        _gather(model, params, folder, parts)
        shutil.rmtree(folder)


def embed(model, params, parts, folder, *, on_progress):
    """Compute some parts, and keep each in a file of its own.

    A part is a split, its images centred, or the number of an augmented view of ``train``.
    """
    torch.set_num_threads(1)
    device = pick(params.device)
    network = _backbone(model, params)
    network.to(device=device, memory_format=torch.channels_last)
    photographs = Photographs(params.image)
    for part in parts:
        started = time.perf_counter()
        if part == "val":
            batches = (inputs for inputs, _ in photographs.val())
        elif part == "train":
            batches = photographs.train_centred()
        else:
            batches = view(photographs, params.embed.seed, int(part))
        computed = features(network, batches, products(params.precision, device), device)
        seconds = time.perf_counter() - started
        weights.save(folder / f"{part}.safetensors", {"features": computed}, seconds=seconds)
        on_progress()


def _backbone(model, params):
    network, head = weights.pretrained(model, params)
    networks.replace(network, head, nn.Identity())
    return network


@torch.no_grad()  # autocast keeps what it has cast, which in inference mode it does not
def features(backbone, batches, precisely, device):
    """Return what a backbone, left as it is, makes of images: float32, shape (images, features)."""
    backbone.eval()
    with precisely:
        return torch.cat([backbone(batch.to(device)).float().cpu() for batch in batches])


def view(photographs, seed, number):
    """Yield one augmented view of every training image, in batches."""
    images = range(len(photographs.names["train"]))
    for start in range(0, len(images), VAL_BATCH):
        chunk = images[start : start + VAL_BATCH]
        yield normalise([photographs.view(index, seed, number) for index in chunk])


def _gather(model, params, folder, parts):
    """Put the parts together into one file, which `Embeddings` reads, and their times."""
    photographs = Photographs(params.image)
    kept = {part: read_tensors(folder / f"{part}.safetensors", "pt") for part in parts}
    features_of = {part: tensors["features"] for part, (tensors, _) in kept.items()}
    seconds = sum(metadata["seconds"] for _, metadata in kept.values())
    made_on = {"precision": params.precision, **machine(pick(params.device)), **versions()}
    write_json(TIMING / f"{model}-embed.json", {"seconds": round(seconds, 3), **made_on})
    weights.save(
        EMBEDDINGS / f"{model}.safetensors",
        {
            "train": torch.stack([features_of[str(view)] for view in range(params.embed.views)]),
            "train_centred": features_of["train"],
            "val": features_of["val"],
            "train_labels": photographs.labels["train"],
            "val_labels": photographs.labels["val"],
        },
        classes=photographs.classes,
        names=photographs.names,
        backbone=networks.describe(_backbone(model, params), params.image.size),
    )
