"""The comparison says what the cells' files say, and how sure one can be of it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from headswap import compare, params, statistics
from headswap.errors import Problem
from headswap.files import write_csv, write_json

CLASSES = ("ants", "bees")


def fake_cell(name, hits, diverged=0):
    """Write a cell's files as training would, for given hits, shape (replicates, images)."""
    hits = np.asarray(hits)
    estimate = statistics.accuracy(hits)
    parts = {
        "mean": estimate.value,
        "std": 0.01,
        "ci_low": estimate.low,
        "ci_high": estimate.high,
    }
    figures = {
        f"{which}_val_accuracy_{part}": value
        for which in ("best", "last")
        for part, value in parts.items()
    }
    costs = {"parameters": 57012034, "trainable_parameters": 8194, "gmacs": 0.7, "depth": 8}
    others = {"best_epoch_mean": 1.0, "val_loss_last_mean": 0.25}
    counts = {"seeds": len(hits) + diverged, "diverged": diverged}
    write_json(f"metrics/cells/{name}.json", {**figures, **others, **costs, **counts})
    write_json(
        f"metrics/timing/{name}.json", {"seconds_per_run_mean": 81.2, "seconds_per_epoch_mean": 5.4}
    )
    curves = [
        [seed, epoch, split, 0.5, 0.9]
        for seed in range(len(hits))
        for epoch in range(2)
        for split in ("train", "val")
    ]
    write_csv(f"plots/curves/{name}.csv", ["seed", "epoch", "split", "loss", "accuracy"], curves)
    rows = []
    for seed, of_seed in enumerate(hits):
        for which in ("best", "last"):
            for image, hit in enumerate(of_seed):
                label = CLASSES[image % 2]
                predicted = label if hit else CLASSES[1 - image % 2]
                rows.append([seed, 1, which, f"{label}/{image}.jpg", label, predicted])
    columns = ["seed", "epoch", "which", "image", "label", "predicted"]
    write_csv(f"plots/predictions/{name}.csv", columns, rows)


@pytest.fixture
def chosen(workspace):
    write_json("metrics/dataset.json", json.loads(Path("data/published/dataset.json").read_text()))
    loaded = params.load()
    random = np.random.default_rng(0)
    chosen = loaded.model_copy(update={"models": ["alexnet"]})
    for cell, accuracy in zip(chosen.cells(), (0.8, 0.9, 0.95), strict=True):
        fake_cell(cell, random.random((3, 40)) < accuracy)
    return chosen


def test_table_and_summary_say_what_the_cells_say(chosen, capsys):
    compare.provide(chosen)
    table = pd.read_csv("metrics/comparison.csv")
    assert list(table["cell"]) == ["alexnet-finetune", "alexnet-frozen", "alexnet-probe"]
    cell = json.loads(Path("metrics/cells/alexnet-frozen.json").read_text())
    summary = json.loads(Path("metrics/summary.json").read_text())
    assert summary["alexnet-frozen.best"] == cell["best_val_accuracy_mean"]
    assert len(summary) == 6
    text = Path("metrics/comparison.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| alexnet-frozen"))
    for figure in (f"{cell['best_val_accuracy_mean'] * 100:.1f} ± 1.0", "94.8", "666", "8,194"):
        assert figure in line
    assert "57,012,034" in capsys.readouterr().out


def test_the_write_ups_figures_stay_away_from_other_images(chosen):
    write_json("metrics/dataset.json", {"images": 88})
    compare.provide(chosen)
    assert "write-up, %" not in Path("metrics/comparison.md").read_text().split("\n\n")[2]
    rows = json.loads(Path("plots/accuracy.json").read_text())
    assert not [row for row in rows if row["what"] == "write-up"]


def test_a_cell_that_is_not_in_the_matrix_leaves_no_trace(chosen):
    fake_cell("vgg11-frozen", [[True, False]])
    compare.provide(chosen)
    for path in [*Path("metrics").glob("*.*"), *Path("plots").glob("*.json")]:
        assert "vgg11" not in path.read_text()


def test_a_cell_without_results_is_named(chosen):
    Path("metrics/cells/alexnet-frozen.json").unlink()
    with pytest.raises(Problem, match="alexnet-frozen"):
        compare.provide(chosen)


def test_diverged_runs_are_shown_even_where_no_run_is_left(chosen):
    fake_cell("alexnet-finetune", [[True, False]], diverged=2)
    cell = json.loads(Path("metrics/cells/alexnet-frozen.json").read_text())
    nothing = {key: None for key, value in cell.items() if "accuracy" in key or "loss" in key}
    write_json("metrics/cells/alexnet-frozen.json", {**cell, **nothing, "diverged": 3})
    write_csv(
        "plots/predictions/alexnet-frozen.csv",
        ["seed", "epoch", "which", "image", "label", "predicted"],
        [],
    )
    compare.provide(chosen)
    text = Path("metrics/comparison.md").read_text()
    assert "alexnet-finetune (2 of 3 diverged) | 50.0" in text
    assert "alexnet-frozen (3 of 3 diverged) | –" in text
    assert json.loads(Path("metrics/summary.json").read_text())["alexnet-frozen.best"] is None


def test_confusions_add_up_to_the_images_of_each_class(chosen):
    compare.provide(chosen)
    rows = pd.DataFrame(json.loads(Path("plots/confusion.json").read_text()))
    assert len(rows) == 3 * 2 * 2
    assert (rows.groupby(["cell", "label"])["images"].sum() == 20).all()
    assert np.allclose(rows.groupby(["cell", "label"])["share"].sum(), 1)


def test_pictures_are_drawn(chosen):
    compare.provide(chosen)
    for name in ("accuracy", "confusion", "curves"):
        with Image.open(f"plots/{name}.png") as picture:
            assert min(picture.size) > 300
            assert len(picture.convert("RGB").getcolors(2**24)) > 20
