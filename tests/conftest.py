"""A new project folder for each test that runs the pipeline."""

import contextlib
import io
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
TESTS = Path(__file__).parent
PAGE = Path(".dvc/plots/page.html")
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by a background job of a shell
SLOW_FILES = (
    *("test_pipeline.py", "test_real.py", "test_queue.py", "test_demo.py", "test_cells.py"),
)


def pytest_collection_modifyitems(items):
    """Start with the files that take longest, so that the last ones keep all workers busy."""
    order = {name: place for place, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def edit(path="params.yaml", **changes):
    """Change some parameters: ``edit(seeds=[0], train={"lr": 0.1})`` keeps all others."""
    yaml = YAML()
    tree = yaml.load(Path(path))
    for key, value in changes.items():
        if isinstance(value, dict) and key != "factories":
            tree[key].update(value)
        else:
            tree[key] = value
    yaml.dump(tree, Path(path))


def project(folder):
    """Copy the pipeline to `folder`, with small parameters and a tiny network."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", PAGE.name)
    for name in ("src", "scripts", "data/published", ".dvc/plots"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("dvc.yaml", ".gitignore", ".dvcignore", ".dvc/config", "data/manifest.csv"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copy(ROOT / "params-demo.yaml", folder / "params.yaml")
    shutil.copy(TESTS / "my_networks.py", folder / "my_networks.py")
    (folder / PAGE).symlink_to(ROOT / PAGE)  # 0.9 MB that no test changes
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
    """Return a new project, in which nothing has run; it is the working folder."""
    return enter(project(tmp_path / "project"), monkeypatch)


def enter(folder, monkeypatch):
    """Make a project the working folder, and its networks importable, until the test has ended."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("HEADSWAP_MIRROR", raising=False)
    monkeypatch.setattr(sys, "path", [str(TESTS), *sys.path])
    return folder


def headswap(*arguments, code=0):
    """Run a command in this process, with this repository's code, not the project's.

    Return its output and its messages.
    """
    from headswap.cli import app

    output, messages = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(messages):
        try:
            app([*map(str, arguments)], prog_name="headswap")
        except SystemExit as ended:
            found = ended.code or 0
            if isinstance(found, str):
                print(found, file=messages)
                found = 1
    assert found == code, output.getvalue() + messages.getvalue()
    return output.getvalue(), messages.getvalue()


def index_images(folder):
    """Write the index of a folder of images, as `verify` does."""
    from headswap.data.listing import list_images
    from headswap.data.manifest import read_entries
    from headswap.data.verify import read_unpacked
    from headswap.images.index import write_index

    rows, unreadable = read_unpacked(folder, read_entries(list_images(folder)))
    assert not unreadable
    write_index(folder, rows)


def copy_of(folder, tmp_path, monkeypatch):
    """Copy a project in which stages have run, and make the copy the working folder."""
    return enter(shutil.copytree(folder, tmp_path / "project", symlinks=True), monkeypatch)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a project with a factory's network and one of torchvision's, trained in three modes.

    It is the working folder of a module's tests.
    """
    from trained import train_all  # only here: it imports torch

    folder = project(tmp_path_factory.mktemp("trained") / "project")
    before = Path.cwd()
    os.chdir(folder)
    sys.path.insert(0, str(TESTS))
    edit(models=["tiny", "resnet18"], train={"epochs": 2}, probe={"epochs": 4})
    train_all()
    yield folder
    os.chdir(before)
    sys.path.remove(str(TESTS))
