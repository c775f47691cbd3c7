"""Measure how time and memory grow with images, classes and replicates.

Whole processes, after `make demo` or `make test` has installed what they need; the photographs are
those that params.yaml names. Run it with:

    python benchmarks/growth.py > benchmarks/GROWTH.md
"""

import math
import os
import shutil
import sys
import tempfile
from datetime import date
from pathlib import Path

import numpy as np
from bench import CORES, ROOT, measured
from PIL import Image

from headswap.images.folders import find_images
from headswap.params import Cell
from headswap.runs import provenance

sys.path.insert(0, str(ROOT / "tests"))

from conftest import edit  # noqa: E402
from fake_cells import write_cell, write_embeddings, write_images  # noqa: E402

NETWORK = "mobilenet_v3_small"
MODELS = ("alexnet", "resnet18")


def lay_out(folder, images, **changes):
    """Make a project for one network and one epoch, on a folder of images; bring all it needs."""
    (folder / "data").mkdir(parents=True)
    shutil.copytree(ROOT / "data/published", folder / "data/published")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    usual = {
        "dataset": {"url": str(images)},
        "models": [NETWORK],
        "modes": ["frozen"],
        "seeds": [0, 1],
        "weights": "random",
        "train": {"epochs": 1},
        "probe": {"epochs": 1},
        "embed": {"views": 4},
    }
    edit(folder / "params.yaml", **usual | changes)
    measured(["headswap", "manifest", images, "--output", "data/manifest.csv"], folder)
    measured(["headswap", "fetch"], folder)
    measured(["headswap", "weights", NETWORK], folder)


def stages(folder, *commands):
    """Run stages one after another; return the seconds and the GiB of each."""
    return [measured(["headswap", *command.split()], folder)[1:] for command in commands]


def table(title, heading, commands, found):
    """Print a table of stages: a line a size, and how time grew in the last step.

    A power of 1 is linear growth.
    """
    print(f"\n## {title}\n")
    cells = [f"{command}, s | GiB" for command in commands]
    print(f"| {heading} | {' | '.join(cells)} |")
    print(f"|---:|{'---:|' * 2 * len(commands)}")
    for size, of_size in found.items():
        figures = [f"{seconds:.1f} | {memory:.2f}" for seconds, memory in of_size]
        print(f"| {size:,} | {' | '.join(figures)} |")
    *_, before, last = found
    powers = [
        f"{math.log(now[0] / then[0]) / math.log(last / before):.2f} | "
        for then, now in zip(found[before], found[last], strict=True)
    ]
    print(f"| power of the last step | {' | '.join(powers)} |", flush=True)


def of_images(folder):
    """Measure the stages with the photographs, 4 and 16 times as many (copies of them)."""
    measured(["headswap", "fetch"], ROOT)
    measured(["headswap", "verify"], ROOT)
    source, found = find_images(ROOT / "data/images"), {}
    commands = ("verify", f"embed {NETWORK}", f"train {NETWORK} frozen", f"probe {NETWORK}")
    for times in (1, 4, 16):
        images = folder / f"photographs-{times}"
        for name, path in source.items():
            (images / name).parent.mkdir(parents=True, exist_ok=True)
            for copy in range(times):
                os.link(path, images / f"{name[:-4]}-{copy}{path.suffix}")
        project = folder / f"images-{times}"
        lay_out(project, images)
        found[times * len(source)] = stages(project, *commands)
    table("Images", "photographs", commands, found)


def of_classes(folder):
    """Measure with 2 to 1,000 classes, of 4,000 small images in all."""
    random, found = np.random.default_rng(0), {}
    commands = ("verify", f"train {NETWORK} frozen", "compare")
    for classes in (2, 10, 100, 1000):
        images = folder / f"classes-{classes}"
        for number in range(4000):
            split, label = ("train", "val")[number % 2], number // 2 % classes
            path = images / split / f"class-{label:04d}" / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(256, size=(40, 40, 3), dtype=np.uint8)).save(path)
        project = folder / f"project-classes-{classes}"
        lay_out(project, images, image={"size": 32, "resize": 36})
        stages(project, "verify", f"embed {NETWORK}", f"probe {NETWORK}")
        found[classes] = stages(project, *commands)
    table("Classes", "classes", commands, found)


def of_replicates(folder):
    """Measure training and comparing with more and more seeds, on 4,000 small images."""
    found, commands = {}, (f"train {NETWORK} frozen", "compare")
    for replicates in (2, 8, 32):
        project = folder / f"replicates-{replicates}"
        seeds = list(range(replicates))
        small = {"size": 64, "resize": 72}
        lay_out(project, folder / "classes-2", seeds=seeds, image=small)
        stages(project, "verify", f"embed {NETWORK}", f"probe {NETWORK}")
        found[replicates] = stages(project, *commands)
    table("Replicates", "seeds", commands, found)


def of_comparison(folder):
    """Measure the comparison of six cells with five replicates, on made-up predictions."""
    random, found = np.random.default_rng(0), {}
    for images in (153, 612, 2448):
        project = folder / f"compared-{images}"
        (project / "data").mkdir(parents=True)
        shutil.copytree(ROOT / "data/published", project / "data/published")
        for name in ("params.yaml", "dvc.yaml"):
            shutil.copy(ROOT / name, project)
        os.chdir(project)
        write_images(images)
        for model in MODELS:
            features = random.normal(size=(images, 512)), random.normal(size=(images * 2, 512))
            write_embeddings(model, *features)
            for mode in ("finetune", "frozen", "probe"):
                write_cell(Cell(model, mode), random.random((5, images)) < 0.94)
        found[images] = stages(project, "compare")
    os.chdir(ROOT)
    table("Comparison of six cells", "validation images", ("compare",), found)


def main():
    """Print all tables as Markdown."""
    machine, made_by = provenance.machine(), provenance.versions()
    print(f"""# How time and memory grow

Made by `python benchmarks/growth.py` on {date.today()}: {machine["processor"]}, {CORES} cores, \
torch {made_by["torch"]}. Whole processes; memory is the sum over all of a stage's, at its peak.
{NETWORK} with random weights, 2 replicates side by side, 1 epoch; features of 4 views. The last \
line says by which power of the size the time grew in the last step: 1 is linear.""")
    with tempfile.TemporaryDirectory() as temporary:
        for measure in (of_images, of_classes, of_replicates, of_comparison):
            measure(Path(temporary))


if __name__ == "__main__":
    main()
