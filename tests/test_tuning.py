"""A list of learning rates: one is chosen for each cell, from its training images alone."""

import re
import shutil
from pathlib import Path

import pytest
from conftest import edit, headswap

from headswap import params
from headswap.images.index import read_index
from headswap.io import read_json
from headswap.runs.queue import queued_runs

RATES = [1e-9, 0.02, 0.01]


@pytest.fixture
def listed(prepared):
    edit(train={"lr": RATES, "epochs": 2})
    return prepared


def chosen():
    record = read_json("models/tiny-finetune/model.json")
    return record["recipe"]["lr"], record["log_losses"]["0"]


def test_the_rate_with_the_lowest_log_loss_on_held_out_training_images_trains_all_seeds(listed):
    printed = headswap("train", "tiny", "finetune")[0]
    lr, tried = chosen()
    losses = {}
    for rate in RATES:
        runs = [read_json(path) for path in Path("runs").glob(f"*-lr-{rate:g}-*/*/*/run.json")]
        assert len(runs) == 4  # quarters of 48 images
        losses[rate] = sum(run["curves"][-1][2] for run in runs) / 4
    assert lr == min(losses, key=losses.get) != RATES[0]
    assert {entry["lr"]: pytest.approx(entry["log_loss"]) for entry in tried} == losses
    assert f"learning rate {lr:g} of 1e-09, 0.01 and 0.02" in printed
    assert ("an end of the list" in printed) == (lr != 0.01)
    assert "tuning" in read_json("metrics/cells/tiny-finetune.json")
    assert {
        read_json(f"models/tiny-finetune/run-{seed}.json")["recipe"]["lr"] for seed in (0, 1)
    } == {lr}


def test_validation_labels_do_not_matter_to_the_choice(listed):
    headswap("train", "tiny", "finetune")
    before = chosen()
    index = Path("data/images/index.csv")
    swapped = {"ants": "bees", "bees": "ants"}
    text = re.sub(",val,(ants|bees),", lambda m: f",val,{swapped[m[1]]},", index.read_text())
    index.write_text(text)
    shutil.rmtree("runs")
    headswap("train", "tiny", "finetune")
    assert chosen() == before


def test_trials_are_queued_first_counted_and_pruned(listed):
    assert "0/14 runs" in headswap("status")[0]
    cells = params.load().cells()[:2]
    first, waiting = queued_runs(cells, params.load())
    assert len(first) == 24 and all("-lr-" in task.name for task in first)
    assert waiting == [
        f"tiny-{mode} seed {seed}" for mode in ("finetune", "frozen") for seed in (0, 1)
    ]
    headswap("train", "tiny", "finetune")
    assert "14/14 runs" in headswap("status")[0]
    first, waiting = queued_runs(cells, params.load())
    assert len(first) == 12 and waiting == ["tiny-frozen seed 0", "tiny-frozen seed 1"]
    assert "0.0 of" in headswap("prune", "--dry-run")[0]
    edit(train={"lr": 0.5})
    assert "-lr-0.02-3" in headswap("prune", "--dry-run")[0]


def test_each_quarter_of_the_training_images_is_held_out_once_and_no_others_are_used(prepared):
    index = read_index()
    held_out = [set(index.hold_out(quarter).names["val"]) for quarter in range(4)]
    assert set.union(*held_out) == set(index.names["train"])
    assert sum(map(len, held_out)) == len(index.names["train"])
    for quarter, names in enumerate(held_out):
        train = set(index.hold_out(quarter).names["train"])
        assert not train & names and train | names == set(index.names["train"])


def test_the_choice_and_the_recipe_are_in_the_report_and_the_headings(listed, no_pictures):
    edit(recipes={"adamw": {"optimizer": "adamw", "lr": 0.001}}, modes=["finetune", "frozen-adamw"])
    for mode in ("finetune", "frozen-adamw"):
        headswap("train", "tiny", mode)
    headswap("probe", "tiny")
    headswap("compare")
    report = Path("metrics/comparison.md").read_text()
    lr, _ = chosen()
    assert f"- tiny-finetune: learning rate {lr:g} of 1e-09, 0.01 and 0.02" in report
    assert (
        "Recipe of finetune: SGD with momentum 0.9, learning rate 1e-09, 0.02, 0.01 (the" in report
    )
    assert "Recipe of frozen-adamw: AdamW, learning rate 0.001, × 0.1 every 7 epochs" in report
    rows = {row["cell"]: row for row in read_json("plots/comparison/curves.json")}
    assert rows["tiny-finetune"]["heading"] == f"tiny\nfinetune\nlearning rate {lr:g}"
    assert rows["tiny-frozen-adamw"]["heading"] == "tiny\nfrozen-adamw"
    assert "tiny-frozen-adamw" in Path("metrics/comparison.csv").read_text()


def test_of_a_single_group_none_can_be_held_out(listed):
    index = Path("data/images/index.csv")
    index.write_text(re.sub(",train,(ants|bees),[^,]*", r",train,\1,one", index.read_text()))
    _, message = headswap("train", "tiny", "finetune", code=1)
    assert "tiny-finetune: all of its training images are of one group" in message
    edit(train={"lr": 0.01})
    headswap("train", "tiny", "finetune")
