"""`headswap status` says from another terminal how far all runs are."""

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from conftest import SLOW, edit, finish, headswap, read_until, sh, start
from dvc.fs import localfs
from dvc.rwlock import rwlock

from headswap import params
from headswap.io import write_csv


def status():
    lines = headswap("status")[0].splitlines()
    assert all(len(line) <= 80 for line in lines)
    return lines


def test_a_cell_says_what_it_waits_for(workspace):
    with open(params.load().dataset.manifest, "a") as manifest:
        manifest.write("\n")
    assert status() == [
        "tiny-finetune  0/2 runs  waiting for images and weights",
        "tiny-frozen    0/2 runs  waiting for images and weights",
        "tiny-probe     0/1 runs  waiting for features",
        "cell 1 of 3, run 1 of 5, very roughly 5 min left",
        "No run is being trained now. To go on: dvc repro",
    ]


@pytest.mark.parametrize("where", [".", ".dvc/tmp/exps/standalone/tmp1"])
def test_what_dvc_makes_is_said_and_dvc_repro_is_not_advised(workspace, where):
    folder = Path(where, ".dvc/tmp")
    folder.mkdir(parents=True)
    output = str(Path(where, "data/embeddings/tiny.safetensors").absolute())
    with rwlock(str(folder), localfs, "dvc repro", [], [output], False):
        expected = "DVC is making data/embeddings/tiny.safetensors"
        assert status()[-1] == expected + (", of an experiment." if where != "." else ".")
    assert status()[-1] == "No run is being trained now. To go on: dvc repro"
    lock = {"write": {output: {"pid": 2**22 + 1, "cmd": "dvc repro"}}}  # it was killed
    (folder / "rwlock").write_text(json.dumps(lock))
    assert status()[-1] == "No run is being trained now. To go on: dvc repro"


def test_the_image_that_was_deleted_is_named(own_trained):
    image = next(Path("data/images/train/ants").iterdir())
    image.unlink()
    message = headswap("status", code=1)[1]
    assert f"missing: train/ants/{image.name}" in message and "dvc repro verify" in message


def test_finished_cells_and_what_is_left_are_counted(own_trained):
    edit(models=["tiny"])
    assert status() == [
        "tiny-finetune  2/2 runs",
        "tiny-frozen    2/2 runs",
        "tiny-probe     1/1 runs",
        "All 5 runs of 3 cells are finished.",
        "Next: dvc repro",
    ]
    Path("runs").rename("elsewhere")  # as in a clone that pulled the results
    assert status()[-2:] == ["All 5 runs of 3 cells are finished.", "Next: dvc repro"]
    Path("elsewhere").rename("runs")
    rows = [("tiny-finetune", 2), ("tiny-frozen", 2), ("tiny-probe", 1)]
    write_csv("metrics/comparison.csv", ["cell", "seeds"], rows[:2])
    assert status()[-1] == "Next: dvc repro"
    write_csv("metrics/comparison.csv", ["cell", "seeds"], rows)
    assert status()[-1] == "They are compared; nothing is left to do."
    manifest = params.load().dataset.manifest
    digest = hashlib.md5(Path(manifest).read_bytes()).hexdigest()
    for recorded in (digest, "0" * 32):
        stages = {"verify": {"deps": [{"path": manifest, "md5": recorded}]}}
        Path("dvc.lock").write_text(json.dumps({"stages": stages}))
        done = "They are compared; nothing is left to do."
        assert status()[-1] == (done if recorded == digest else "Next: dvc repro")
    edit(seeds=[0, 1, 2])
    assert status()[1:3] == ["tiny-frozen    2/3 runs", "tiny-probe     1/1 runs"]
    whole = r"cell 2 of 3, run 6 of 7, about \d+ s left"
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
    assert re.fullmatch(r"cell 1 of 3, run 1 of 7, about \d+ (s|min|h \d+ min) left", whole)
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
