"""Shared by the test files: projects, and commands in this process or in one of their own."""

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
TESTS = Path(__file__).parent
BIN = Path(sys.executable).parent
PAGE = Path(".dvc/plots/page.html")
MODES = ("finetune", "frozen", "probe")
CELLS = [f"{model}-{mode}" for model in ("tiny", "resnet18") for mode in MODES]
"""The cells of the fixture `trained`."""
SLOW = {"models": ["slow"], "factories": {"slow": "my_networks:slow"}}
"""Parameters of a network that can be interrupted, for `edit`."""

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by a background job of a shell
os.environ["PATH"] = f"{BIN}:{os.environ['PATH']}"


def encode(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def draw(colour, form="jpeg"):
    return encode(Image.new("RGB", (30, 20), colour), form)


IMAGES = {
    "train/ants/a.jpg": draw("red"),
    "train/bees/b.jpeg": draw("blue"),
    "val/ants/c.png": draw("green", "png"),
    "val/bees/d.jpg": draw("white"),
}


def write_folder(files, folder):
    for name, content in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def write_zip(files, path, prefix="set/", method=zipfile.ZIP_DEFLATED):
    """Write (name or ZipInfo, content) pairs, or a dict of them, as a zip."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items() if isinstance(files, dict) else files:
            archive.writestr(prefix + name if isinstance(name, str) else name, content)


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """Return an empty folder, which is the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEADSWAP_MIRROR", raising=False)
    return tmp_path


@pytest.fixture
def no_heic(monkeypatch):
    """Let HEIC be unknown, as where pillow-heif is not installed."""
    from headswap.images import folders

    without = tuple(set(folders.EXTENSIONS) - set(folders.HEIC))
    monkeypatch.setattr(folders, "EXTENSIONS", without)


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
    for name in ("src", "scripts", "data/published", ".dvc/plots"):
        page = [PAGE.name] if name == ".dvc/plots" else []
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", *page)
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("dvc.yaml", ".gitignore", ".dvcignore", ".dvc/config", "data/manifest.csv"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copy(ROOT / "params-demo.yaml", folder / "params.yaml")
    (folder / "networks").mkdir()
    shutil.copy(TESTS / "my_networks.py", folder / "networks")
    (folder / PAGE).symlink_to(ROOT / PAGE)  # 0.9 MB that no test changes
    edit(
        folder / "params.yaml",
        models=["tiny"],
        factories={"tiny": "my_networks:tiny"},
        train={"epochs": 3, "lr": 0.01},
        device="cpu",
    )
    return folder


def enter(folder, monkeypatch):
    """Make a project the working folder until the test has ended.

    Runs are trained in the test's own process, which imports the project's networks anew.
    """
    monkeypatch.chdir(folder)
    monkeypatch.delenv("HEADSWAP_MIRROR", raising=False)
    monkeypatch.setenv("HEADSWAP_WORKERS", "0")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    return folder


def copy_of(folder, tmp_path, monkeypatch):
    """Copy a project in which stages have run, and make the copy the working folder.

    Large files are linked: headswap replaces a file, and never writes into it.
    """

    def copy(source, target):
        large = os.path.getsize(source) > 2**20
        return os.link(source, target) if large else shutil.copy2(source, target)

    target = shutil.copytree(folder, tmp_path / "project", symlinks=True, copy_function=copy)
    return enter(target, monkeypatch)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """Return a new project, in which nothing has run; it is the working folder."""
    return enter(project(tmp_path / "project"), monkeypatch)


@pytest.fixture(scope="session")
def prepared_once(tmp_path_factory):
    folder = project(tmp_path_factory.mktemp("prepared") / "project")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        tiny = {"models": ["tiny"], "factories": {"tiny": "my_networks:tiny"}}
        edit(models=["tiny", "slow"], factories={**tiny["factories"], "slow": "my_networks:slow"})
        prepare()
        edit(**tiny)
    return folder


@pytest.fixture
def prepared(prepared_once, tmp_path, monkeypatch):
    """Return a project that is ready to train `tiny`, and `slow` if that replaces it: `SLOW`."""
    return copy_of(prepared_once, tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def trained_once(prepared_once, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = copy_of(prepared_once, tmp_path_factory.mktemp("trained"), patch)
        edit(models=["tiny", "resnet18"], train={"epochs": 2})
        train_all()
    return folder


@pytest.fixture
def trained(trained_once, monkeypatch):
    """Return the project with the trained `CELLS`, which no test changes."""
    before = state(trained_once)
    yield enter(trained_once, monkeypatch)
    assert state(trained_once) == before


@pytest.fixture
def own_trained(trained_once, tmp_path, monkeypatch):
    """Return a copy of the project with the trained `CELLS`."""
    return copy_of(trained_once, tmp_path, monkeypatch)


@pytest.fixture
def no_pictures(monkeypatch):
    """Let a comparison leave out what takes most of its time: test_plots.py looks at pictures."""
    monkeypatch.setattr("headswap.compare.plots.draw_png", lambda *_: b"")


def state(folder):
    """Return the size and the time of each file."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix != ".pyc"]
    files = {path: path.stat() for path in paths if path.is_file()}
    return {path: (found.st_size, found.st_mtime_ns) for path, found in files.items()}


def prepare():
    """Write images, weights and features of all models into the working folder, where none are."""
    if not Path("data/images").exists():
        headswap("fetch")
        headswap("verify")
    for model in models():
        if not Path(f"data/embeddings/{model}.safetensors").exists():
            headswap("weights", model)
            headswap("embed", model)


def train_all():
    """Write all that comes before the comparison into the working folder."""
    prepare()
    for model in models():
        headswap("train", model, "finetune")
        headswap("train", model, "frozen")
        headswap("probe", model)


def models():
    return YAML().load(Path("params.yaml"))["models"]


def results():
    """Return the digests of what the cells wrote that has no clock, by its path."""
    from headswap.io import sha256

    folders = ("models", "metrics/cells", "plots/curves", "plots/predictions")
    paths = [path for folder in folders for path in Path(folder).rglob("*.*") if path.is_file()]
    return {path.as_posix(): sha256(path) for path in sorted(paths)}


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
    from headswap.data.manifest import Entry
    from headswap.data.verify import read_unpacked
    from headswap.images.folders import find_images
    from headswap.images.index import write_index

    images = find_images(folder)
    rows = read_unpacked(images, {name: Entry(0, "") for name in images})
    write_index(folder, rows)


def start(*command, cwd=None, **variables):
    """Start a command in a process of its own, where signals, locks or encodings are the subject.

    Its output and its messages are one text.
    """
    environment = {**os.environ, "COLUMNS": "200", **variables}
    if "HEADSWAP_WORKERS" not in variables:
        environment.pop("HEADSWAP_WORKERS", None)
    return subprocess.Popen(
        [*map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=cwd,
        env=environment,
    )


def finish(process, code=0):
    """Return the rest of the output of a process; it must end with this code, in plain words."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output
    assert "Traceback" not in output, output
    return output


def sh(*command, code=0, **options):
    return finish(start(*command, **options), code)


def read_until(process, text):
    """Return the first line of the output with some text in it."""
    lines = []
    patience = threading.Timer(300, process.kill)
    patience.start()
    try:
        for line in process.stdout:
            lines.append(line)
            if text in line:
                return line
    finally:
        patience.cancel()
    raise AssertionError("".join(lines))


@pytest.fixture
def scheduler(tmp_path):
    """Start a Dask scheduler; return its process, variables that lead to it, and `worker`.

    That starts a worker there.
    """
    options = ("--host", "127.0.0.1", "--no-dashboard")
    file = tmp_path / "scheduler.json"
    port = ("--port", "0", "--scheduler-file", file)
    processes = [start("dask", "scheduler", *options, *port)]
    deadline = time.monotonic() + 60
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    address = re.search(r"tcp://[\d.:]+", file.read_text()).group()

    def worker(nanny="--no-nanny", **variables):
        words = ("dask", "worker", address, *options, nanny, "--nthreads", 2, "--memory-limit", 0)
        processes.append(start(*words, cwd=tmp_path, **variables))
        return processes[-1]

    variables = {"DASK_SCHEDULER_ADDRESS": address}
    yield SimpleNamespace(process=processes[0], variables=variables, worker=worker)
    for process in processes:
        process.kill()
        process.communicate()
