"""A result is recorded only for the code and the parameters that made it."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import edit

from headswap import params
from headswap.errors import UserError
from headswap.io import read_json
from headswap.snapshot import Snapshot

BIN = Path(sys.executable).parent


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("command", [[BIN / "headswap"], [sys.executable, "-m", "headswap"]])
def test_a_copy_of_the_project_runs_its_own_code(workspace, command):
    module = Path("src/headswap/data/manifest.py")
    text = module.read_text()
    assert "return dict(sorted(counts.items()))" in text
    old = "dict(sorted(counts.items()))"
    module.write_text(text.replace(old, "{**dict(sorted(counts.items())), 'copy': 7}"))
    run(*command, "fetch")
    run(*command, "verify")
    assert read_json("metrics/dataset.json")["copy"] == 7


@pytest.fixture
def snapshot(workspace, monkeypatch):
    """Return a snapshot of the project's own copy of the package."""
    monkeypatch.setattr(
        "headswap.snapshot.__file__", str(Path("src/headswap/snapshot.py").resolve())
    )
    return Snapshot(params.load(), "train")


def test_without_an_edit_a_snapshot_is_valid(snapshot):
    edit(train={"lr": 0.01})  # as it was
    Path("src/headswap/compare/report.py").write_text("# another wing\n")
    snapshot.check()


@pytest.mark.parametrize("path", ["train/loop.py", "images/reading.py", "io.py"])
def test_edited_code_is_named(snapshot, path):
    with Path("src/headswap", path).open("a") as file:
        file.write("OTHER = 1\n")
    with pytest.raises(UserError, match=rf"{path}(.|\n)*Nothing is written(.|\n)*dvc repro"):
        snapshot.check()


def test_edited_parameters_are_named(snapshot):
    edit(train={"lr": 0.5})
    with pytest.raises(UserError, match="params.yaml"):
        snapshot.check()


def test_a_stage_whose_parameters_were_edited_writes_nothing_and_keeps_its_runs(workspace):
    for stage in (["fetch"], ["verify"], ["weights", "tiny"]):
        run(BIN / "headswap", *stage)
    edit(seeds=[0], train={"epochs": 30})
    command = [BIN / "headswap", "train", "tiny", "frozen"]
    stage = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in stage.stdout:
        if "epoch 1/" in line:
            break
    edit(probe={"lr": 0.5})
    _, errors = stage.communicate(timeout=120)
    assert stage.returncode == 1 and "params.yaml" in errors and "Traceback" not in errors
    assert not Path("models/tiny-frozen").exists()
    assert len(list(Path("runs/tiny-frozen").glob("*/seed-0/run.json"))) == 1
    assert "epoch 1/" not in run(*command)
    assert Path("models/tiny-frozen").exists()
