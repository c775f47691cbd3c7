"""`dataset.folds`: each seed predicts each photograph once, by a network that never saw it."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import edit, headswap, results

from headswap import load_model, params
from headswap.images.index import read_index
from headswap.io import read_json, write_csv
from headswap.predict.folders import misclassified_images
from headswap.runs.cells import _Finished, _mean_record
from headswap.runs.store import file_lock, index_of_run

FOLDS = 3


@pytest.fixture
def folded(prepared):
    edit(dataset={"folds": FOLDS}, seeds=[4, 7], train={"epochs": 1})
    return prepared


def finished_runs(cell):
    paths = Path("runs", cell).glob("*/seed-*/**/run.json")
    return {path.parent.relative_to(path.parents[2]).as_posix(): path for path in paths}


@pytest.mark.parametrize("cell", ["tiny-frozen", "tiny-probe"])
def test_each_seed_predicts_every_photograph_once_and_a_network_of_all_is_kept(folded, cell):
    headswap(*(("train", "tiny", "frozen") if cell == "tiny-frozen" else ("probe", "tiny")))
    runs = finished_runs(cell)
    parts = [f"fold-{fold}" for fold in range(FOLDS)]
    assert set(runs) == {*(f"seed-{s}/{part}" for s in (4, 7) for part in parts), "seed-4/all"}
    table = pd.read_csv(f"plots/predictions/{cell}.csv")
    rows = {row.path: row.label for row in read_index().rows}
    for _, of_seed in table[table["which"] == "last"].groupby("seed"):
        assert sorted(of_seed["image"]) == sorted(rows)
        assert (of_seed["label"] == of_seed["image"].map(rows)).all()
    first, second = (
        dict(zip(rows["image"], rows["fold"], strict=True)) for _, rows in table.groupby("seed")
    )
    assert first != second
    record = read_json(f"models/{cell}/model.json")
    assert record["folds"] == FOLDS
    assert record["counts"] == {"train": len(rows), "val": len(rows)}
    for run in record["runs"]:
        of_seed = table[(table["seed"] == run["seed"]) & (table["which"] == "last")]
        correct = (of_seed["label"] == of_seed["predicted"]).mean()
        assert run["last"]["accuracy"] == pytest.approx(correct)
    assert record["kept"]["seed"] == 4 and "all photographs" in record["kept"]["why"]
    whole = runs["seed-4/all"].parent / "trained.safetensors"
    kept = Path("models", cell, record["kept"]["weights"])
    assert kept.read_bytes() == whole.read_bytes()
    assert load_model(f"models/{cell}").classes == ["ants", "bees"]
    metrics = read_json(f"metrics/cells/{cell}.json")
    assert (metrics["folds"], metrics["seeds"]) == (FOLDS, 2)
    assert len(read_json(f"metrics/timing/{cell}.json")["seconds_per_run"]) == 2 * FOLDS
    headswap("export", cell, "exported")
    card = Path("exported/README.md").read_text()
    assert f"\n{len(rows)} photographs (digest" in card
    assert f"in {FOLDS} folds, networks of seed 4 that had not seen them classified" in card


def test_a_further_seed_trains_only_its_own_folds(folded):
    headswap("train", "tiny", "frozen")
    before = {name: path.stat().st_mtime_ns for name, path in finished_runs("tiny-frozen").items()}
    edit(seeds=[4, 7, 9])
    output, _ = headswap("status")
    assert f"tiny-frozen    {len(before)}/{len(before) + FOLDS} runs" in output
    headswap("train", "tiny", "frozen")
    after = {name: path.stat().st_mtime_ns for name, path in finished_runs("tiny-frozen").items()}
    assert set(after) - set(before) == {f"seed-9/fold-{fold}" for fold in range(FOLDS)}
    assert {name: after[name] for name in before} == before


def test_a_queue_and_the_stages_give_the_same_bytes(folded):
    headswap("train", "tiny", "frozen")
    headswap("probe", "tiny")
    expected = results()
    shutil.rmtree("runs")
    shutil.rmtree(".dvc")  # then all cells are queued
    headswap("runs", "tiny-frozen", "tiny-probe")
    headswap("train", "tiny", "frozen")
    headswap("probe", "tiny")
    assert results() == expected


def test_folds_are_stratified_and_each_seed_has_its_own(folded):
    index, chosen = read_index(), params.load()
    held_out = []
    for seed in (4, 7):
        for cell, of in chosen.runs(params.Cell("tiny", "frozen")):
            if of == seed and cell.fold != params.ALL:
                part = index_of_run(index, cell, chosen, seed)
                sizes = [part.labels("val").count(label) for label in (0, 1)]
                assert max(sizes) - min(sizes) <= 1
                assert not set(part.names["val"]) & set(part.names["train"])
                held_out.append(frozenset(part.names["val"]))
    assert len(set(held_out)) == 2 * FOLDS


def test_rates_are_tried_inside_the_training_images_of_each_fold(folded):
    edit(train={"lr": [0.001, 0.1]}, seeds=[4])
    headswap("train", "tiny", "frozen")
    trials = [path for path in Path("runs").glob("tiny-frozen-lr-*/*/seed-4/*/run.json")]
    assert {path.parent.name for path in trials} == {*(f"fold-{f}" for f in range(FOLDS)), "all"}
    record = read_json("models/tiny-frozen/model.json")
    assert set(record["log_losses"]) == {*(f"4-fold-{fold}" for fold in range(FOLDS)), "4-all"}
    assert record["tuning"].count("learning rate") >= 1


def test_what_is_being_computed_is_not_pruned(folded):
    headswap("train", "tiny", "frozen")
    fold = next(Path("runs/tiny-frozen").glob("*/seed-4/fold-1"))
    features = Path("runs/other-embed/0123")  # of a network that is not compared any more
    features.mkdir(parents=True)
    edit(train={"lr": 0.5})
    for folder in (features, fold):
        with file_lock(folder.with_suffix(".lock")):
            assert "working on" in headswap("prune", code=1)[1]
        assert folder.exists()
    headswap("prune")
    assert not fold.exists() and not features.exists()


def test_the_most_misclassified_photographs_are_of_both_splits(folded):
    listed = ["train/ants/000.png", "val/bees/001.png"]
    write_csv("metrics/misclassified.csv", ["image"], [[image] for image in listed])
    assert misclassified_images() == [Path("data/images", image) for image in listed]


def test_one_fold_is_refused(folded):
    edit(dataset={"folds": 1})
    _, message = headswap("check", code=1)
    assert "dataset.folds: must be 2 or more, or 0 for the manifest's split" in message


def test_a_fold_that_few_groups_leave_empty_has_no_part_in_the_mean():
    def record(accuracy, *points):
        result = {"epoch": 0, "accuracy": accuracy}
        return {"diverged": None, "curves": [*points], "best": result, "last": result}

    points = [0, "train", 0.5, 0.9], [0, "val", 0.4, 0.75]
    runs = [(record(0.75, *points), ["val/a/1.jpg"]), (record(None, points[0]), [])]
    mean = _mean_record([_Finished(None, of, {}, images) for of, images in runs])
    assert mean == record(0.75, *points)
