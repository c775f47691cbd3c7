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
from typing import Any

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


def edit(**changes: Any) -> None:
    """Change some parameters."""
    yaml = YAML()
    tree = yaml.load(Path("params.yaml"))
    tree["image"].update(changes.pop("image", {}))
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
    known = torchvision.models.list_models(module=torchvision.models)
    for name in known:
        path = results / f"{name}.json"
        if pattern in name and not path.exists():
            write_json(path, try_network(name))
            print(read_json(path), flush=True)
            for used in ("runs", "models", "data/weights", "data/embeddings"):
                shutil.rmtree(used, ignore_errors=True)
            gc.collect()
    table = pd.DataFrame([read_json(path) for path in sorted(results.glob("*.json"))])
    failed = table.get("failed", pd.Series(dtype=str)).dropna()
    text = f"""# All of torchvision's networks

Through `weights`, `embed`, `probe`, and one epoch of `finetune` and of `frozen`: from random
weights, on 8 drawn images of 64 pixels where the network takes them, else of its own size;
processor seconds of all. `python benchmarks/networks.py FOLDER`, two shared cores of an x86
server, no GPU.

{len(table)} of {len(known)} networks were tried; of these failed: {len(failed) or "none"}.

{table.to_markdown(index=False, intfmt=",")}
"""
    write_text(ROOT / "benchmarks/NETWORKS.md", text)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
