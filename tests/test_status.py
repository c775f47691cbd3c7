"""`headswap status` says from another terminal how far all runs are."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from conftest import SLOW, edit, finish, headswap, read_until, sh, start


def status():
    lines = headswap("status")[0].splitlines()
    assert all(len(line) <= 80 for line in lines)
    return lines


def test_a_cell_says_what_it_waits_for(workspace):
    assert status() == [
        "tiny-finetune  0/2 runs  waiting for images and weights",
        "tiny-frozen    0/2 runs  waiting for images and weights",
        "tiny-probe     0/2 runs  waiting for features",
        "cell 1 of 3, run 1 of 6",
        "No run is being trained now. To go on: dvc repro",
    ]


@pytest.mark.parametrize("runs", [True, False])
def test_a_stage_of_dvc_that_trains_nothing_yet_is_reported(workspace, runs):
    process = os.getpid() if runs else 2**22 + 1
    lock = {"data/images": {"write": {"pid": process, "cmd": "dvc repro"}}, "models": {}}
    Path(".dvc/tmp").mkdir(parents=True)
    Path(".dvc/tmp/rwlock").write_text(json.dumps(lock))
    nothing = "No run is being trained now. To go on: dvc repro"
    assert status()[-1] == ("DVC is running a stage." if runs else nothing)


def test_finished_cells_and_what_is_left_are_counted(own_trained):
    edit(models=["tiny"])
    assert status() == [
        "tiny-finetune  2/2 runs",
        "tiny-frozen    2/2 runs",
        "tiny-probe     2/2 runs",
        "All 6 runs of 3 cells are finished. Next: dvc repro",
    ]
    Path("runs").rename("elsewhere")  # as in a clone that pulled the results
    assert status()[-1] == "All 6 runs of 3 cells are finished. Next: dvc repro"
    Path("elsewhere").rename("runs")
    Path("metrics/comparison.md").write_text("")
    assert status()[-1] == "All 6 runs of 3 cells are finished. Collect what is new: dvc repro"
    edit(seeds=[0, 1, 2], probe={"lr": 0.05})
    assert status()[1:3] == ["tiny-frozen    2/3 runs", "tiny-probe     0/3 runs"]
    whole = r"cell 1 of 3, run 5 of 9, about \d+ s left"
    assert re.fullmatch(whole, status()[3])
    assert not list(Path("runs").rglob("progress.json"))

    printed = headswap("train", "tiny", "frozen")[0]
    assert re.match(rf"The whole pipeline: {whole}\n", printed)
    Path("data/weights/tiny.safetensors").write_bytes(b"")
    assert "pipeline" not in headswap("probe", "tiny")[0]


@pytest.mark.slow
def test_epochs_are_counted_while_they_are_trained_and_after_an_interruption(prepared, monkeypatch):
    edit(**SLOW, train={"epochs": 400, "batch_size": 2}, seeds=[0, 1, 2])
    monkeypatch.setenv("HEADSWAP_WORKERS", "2")
    stage = start("headswap", "train", "slow", "finetune")
    read_until(stage, "seed 1: epoch 2/400")
    cell, *_, whole = status()
    assert re.fullmatch(r"slow-finetune  0/3 runs  epoch \d+, \d+ of 400", cell)
    assert re.fullmatch(r"cell 1 of 3, run 1 of 9, about \d+ (s|min|h \d+ min) left", whole)
    stage.kill()
    finish(stage, code=-9)
    cell, *_, last = status()
    assert re.search(r"epoch \d+, \d+ of 400, interrupted$", cell)
    assert last == "No run is being trained now. To go on: dvc repro"


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("script"), reason="needs a terminal"
)
def test_a_line_is_not_broken_at_40_columns(workspace):
    typed = "stty cols 40; unset COLUMNS; headswap status"
    output = sh("script", "-qec", typed, "/dev/null", TERM="xterm").splitlines()
    assert len(output) == 5 and all(len(line) <= 40 for line in output)
