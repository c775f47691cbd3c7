"""A project folder of its own for every test that runs the pipeline."""

import shutil
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
TESTS = Path(__file__).parent


LONG = ("test_pipeline.py", "test_real.py", "test_demo.py", "test_cells.py")


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest, so that no core waits for another in the end."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else 9)


def edit(path="params.yaml", **changes):
    """Change params.yaml: ``edit(seeds=[0], train={"lr": 0.1})`` leaves the rest as it was."""
    yaml = YAML()
    tree = yaml.load(Path(path))
    for key, value in changes.items():
        if isinstance(value, dict) and key != "factories":
            tree[key].update(value)
        else:
            tree[key] = value
    yaml.dump(tree, Path(path))


def project(folder):
    """Lay a copy of the pipeline into `folder`, with small parameters and tiny networks."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("dvc.yaml", "src", ".gitignore", ".dvcignore", "data/published", ".dvc/plots"):
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc/config")
    shutil.copy(ROOT / "data/manifest.csv", folder / "data/manifest.csv")
    shutil.copy(ROOT / "data/generated/params.yaml", folder / "params.yaml")
    shutil.copy(TESTS / "my_networks.py", folder / "my_networks.py")
    edit(
        folder / "params.yaml",
        models=["tiny"],
        factories={"tiny": "my_networks:tiny"},
        train={"epochs": 3, "lr": 0.01},
        probe={"epochs": 3},
        embed={"views": 2},
    )
    return folder


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """Return an empty project, as working folder."""
    project(tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("HEADSWAP_MIRROR", raising=False)
    monkeypatch.setattr(sys, "path", [str(TESTS), *sys.path])
    return tmp_path / "project"
