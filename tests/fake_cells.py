"""Write the files that training would write, for given correct predictions."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from headswap import params
from headswap.images.index import Row, write_index
from headswap.io import read_json, write_csv, write_json

ROOT = Path(__file__).parents[1]
CLASSES = ("ants", "bees")
PREPROCESSING = {
    "size": 224,
    "resize": 256,
    "interpolation": "bilinear",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "fit": "crop",
}
COSTS = {
    "alexnet": {"parameters": 57012034, "gmacs": 0.710, "depth": 8},
    "resnet18": {"parameters": 11177538, "gmacs": 1.814, "depth": 18},
}
TRAINED = {"alexnet": 8194, "resnet18": 1026}
TIMED_ON = {"processor": "a processor", "cores": 2, "device": "cpu", "workers": 2, "arithmetic": ""}
VERSIONS = dict.fromkeys(("python", "headswap", "torch", "torchvision", "pillow"), "1.0")
SECONDS = {"finetune": 80.0, "frozen": 40.0, "probe": 1.0}


def image_name(number, classes=CLASSES):
    """Return the name of a validation image; of two classes, the even ones are ants."""
    return f"{classes[number % len(classes)]}/{number:03d}.jpg"


def write_cell(
    cell, best, last=None, diverged=0, seconds=None, classes=CLASSES, curves=None, sure=0.8, folds=0
):
    """Write the files of a cell, a `params.Cell`.

    `best` and `last` are the correct predictions, shape (replicates, images); `seconds` are those
    of each run; `curves` are rows of seed, epoch, split, loss and accuracy; `sure` is the
    probability of each predicted class, of all images or of each.
    """
    best = np.asarray(best, dtype=bool)
    last = best if last is None else np.asarray(last, dtype=bool)
    model, mode = cell.model, cell.mode
    costs = COSTS[model]
    trained = costs["parameters"] if mode == "finetune" else TRAINED[model]
    write_json(
        f"metrics/cells/{cell.name}.json",
        {
            **costs,
            "trainable_parameters": trained,
            "seeds": len(best) + diverged,
            "diverged": diverged,
            "preprocessing": PREPROCESSING,
            **({"folds": folds} if folds else {}),
            "images_digest": "0123" * 16,
            "code_digest": "89ab" * 4,
        },
    )
    if seconds is None:
        seconds = [SECONDS[mode] * (1 + 0.01 * run) for run in range(len(best) * max(1, folds))]
    means = {}
    if len(seconds):
        means = {"seconds_per_run_mean": float(np.mean(seconds))}
    write_json(
        f"metrics/timing/{cell.name}.json",
        {
            "seconds_per_run": list(seconds),
            "wall_seconds_per_run": [2 * of_run for of_run in seconds],
            **means,
            **TIMED_ON,
            "revision": "0123456789abcdef",
            "dirty": False,
            "versions": VERSIONS,
        },
    )
    if mode == "probe":
        embedding = {"seconds": 20.0, "wall_seconds": 40.0, **TIMED_ON, "versions": VERSIONS}
        write_json(f"metrics/timing/{model}-embed.json", embedding)
    curves = (
        curves
        if curves is not None
        else [
            [seed, epoch, split, 0.5, 0.9]
            for seed in range(len(best))
            for epoch in range(2)
            for split in ("train", "val")
        ]
    )
    write_csv(
        f"plots/curves/{cell.name}.csv", ["seed", "epoch", "split", "loss", "accuracy"], curves
    )
    rows = []
    for which, correct in (("best", best), ("last", last)):
        for seed, of_seed in enumerate(correct):
            for image, is_correct in enumerate(of_seed):
                label = classes[image % len(classes)]
                predicted = label if is_correct else classes[(image + 1) % len(classes)]
                of_image = np.broadcast_to(sure, best.shape[1])[image]
                others = (1 - of_image) / (len(classes) - 1)
                probabilities = [of_image if name == predicted else others for name in classes]
                name = "val/" * bool(folds) + image_name(image, classes)
                fold = [image // (seed + 1) % folds] if folds else []
                rows.append([seed, *fold, 1, which, name, label, predicted, *probabilities])
    probabilities = [f"p_{name}" for name in classes]
    columns = ["seed", *["fold"] * bool(folds), "epoch", "which", "image", "label", "predicted"]
    columns += probabilities
    write_csv(f"plots/predictions/{cell.name}.csv", columns, rows)


def write_images(count, counts=None, classes=CLASSES):
    """Write `count` validation images, and the record of the set: the write-up's by default."""
    by_class = {f"{split}_{name}": 5 for split in ("train", "val") for name in classes}
    record = {**counts, **by_class} if counts else read_json("data/published/dataset.json")
    write_json("metrics/dataset.json", record)
    random = np.random.default_rng(0)
    names = [f"val/{image_name(number, classes)}" for number in range(count)]
    index_images({name: random.bytes(8).hex() for name in names})


def index_images(hashes, groups=None):
    """Write images of one colour, and their index with these perceptual hashes by their paths.

    `groups` are those of the images, by their paths.
    """
    shutil.rmtree("data/images", ignore_errors=True)
    rows = []
    for number, (name, phash) in enumerate(hashes.items()):
        path = Path("data/images", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (number * 5 % 256, 90, 200)).save(path)
        split, label, _ = name.split("/")
        group, size = (groups or {}).get(name, ""), path.stat().st_size
        rows.append(Row(name, split, label, group, 40, 30, size, "", phash, size, ""))
    write_index("data/images", rows)


def load_params(models, weights="imagenet"):
    """Return the parameters of the demo with other models; bring what the write-up published."""
    if not Path("data/published").exists():
        shutil.copytree(ROOT / "data/published", "data/published")
    changes = {"models": models, "factories": {}, "weights": weights}
    return params.load(ROOT / "params-demo.yaml").model_copy(update=changes)


def write_alexnet(images):
    """Write the files of AlexNet's three cells; return parameters that name them."""
    random = np.random.default_rng(0)
    chosen = load_params(["alexnet"])
    write_images(images)
    for cell, accuracy in zip(chosen.cells(), (0.8, 0.9, 0.95), strict=True):
        write_cell(cell, random.random((3, images)) < accuracy)
    return chosen
