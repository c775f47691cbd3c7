"""Pass all of torchvision's classification networks through every stage: benchmarks/NETWORKS.md.

    python benchmarks/networks.py FOLDER [PATTERN]

On 8 drawn images, from random weights, one epoch in each mode, on images of 64 pixels where the
network takes them, else of its own size. Results are kept in FOLDER, where a second call goes on.
"""

import contextlib
import gc
import io
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from headswap.cli import app
from headswap.data.synthetic import draw_insect
from headswap.io import read_json, write_json, write_text

ROOT = Path(__file__).parents[1]
SMALL = {"size": 64, "resize": 64}
OWN = {"size": "auto", "resize": "auto"}


def headswap(*arguments: str) -> None:
    """Run a command in this process."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            app(arguments, prog_name="headswap")
        except SystemExit as ended:
            if ended.code:
                raise RuntimeError(ended.code) from None


def make_project(folder: Path) -> None:
    """Copy the pipeline to a folder, with a few drawn images."""
    for name in ("src", "scripts", "networks", "data/published"):
        shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True)
    for name in ("dvc.yaml", ".dvcignore", "data/manifest.csv"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copy(ROOT / "params-demo.yaml", folder / "params.yaml")
    os.chdir(folder)
    for split in ("train", "val"):
        for label in ("ants", "bees"):
            for number in range(2):
                path = Path("photos", split, label, f"{number}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                random = np.random.default_rng([len(split), number])
                draw_insect(label, random).save(path)
    edit(seeds=[0])
    headswap("manifest", "photos", "--use")
    headswap("fetch")
    headswap("verify")


def edit(**changes: object) -> None:
    """Change some parameters."""
    yaml = YAML()
    tree = yaml.load(Path("params.yaml"))
    tree.update(changes)
    tree["train"].update({"epochs": 1, "batch_size": 2})
    yaml.dump(tree, Path("params.yaml"))


def try_network(name: str) -> dict[str, object]:
    """Return what a network costs, or why it cannot be used."""
    image = SMALL
    edit(models=[name], image=image)
    start = time.process_time()
    stages = [("weights",), ("embed",), ("probe",), ("train", "finetune"), ("train", "frozen")]
    for stage, *mode in stages:
        try:
            headswap(stage, name, *mode)
        except (Exception, SystemExit) as error:
            if stage != "weights" or image == OWN:
                return {"network": name, "failed": f"{stage} {' '.join(mode)}: {error}"}
            image = OWN
            edit(image=image)
            try:
                headswap(stage, name)
            except (Exception, SystemExit) as again:
                return {"network": name, "failed": f"{stage}: {again}"}
    record = read_json(f"models/{name}-finetune/model.json")
    figures = read_json(f"metrics/cells/{name}-finetune.json")
    return {
        "network": name,
        "head": record["backbone"]["head"],
        "pixels": record["preprocessing"]["size"],
        "parameters": figures["parameters"],
        "seconds": round(time.process_time() - start, 1),
    }


def main(folder: Path, pattern: str = "") -> None:
    """Try what was not tried yet, then write the record of all."""
    import torchvision

    os.environ["HEADSWAP_WORKERS"] = "0"
    results = folder.resolve() / "results"
    results.mkdir(parents=True, exist_ok=True)
    make_project(folder.resolve())
    for name in torchvision.models.list_models(module=torchvision.models):
        path = results / f"{name}.json"
        if pattern in name and not path.exists():
            write_json(path, try_network(name))
            print(read_json(path), flush=True)
            for used in ("runs", "models", "data/weights", "data/embeddings"):
                shutil.rmtree(used, ignore_errors=True)
            gc.collect()
    table = pd.DataFrame([read_json(path) for path in sorted(results.glob("*.json"))])
    text = (
        __doc__.partition("\n\n    python")[0] + "\n\n" + table.fillna("").to_markdown(index=False)
    )
    write_text(ROOT / "benchmarks/NETWORKS.md", f"# All of torchvision's networks\n\n{text}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
