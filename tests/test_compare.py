"""The comparison says what the cells' files say, in tables, plots and a report."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fake_cells import COSTS, TRAINED, write_cell, write_embeddings, write_images
from PIL import Image

from headswap import params
from headswap.compare import comparison as compare
from headswap.compare import intervals as statistics
from headswap.compare import plot_rows
from headswap.compare import plots as pictures
from headswap.errors import UserError
from headswap.io import read_json, write_json
from headswap.params import Cell

IMAGES = 40
PLOTS = ("accuracy", "confusion", "costs", "curves", "differences", "phases", "reliability", "time")


def load_rows(name):
    return pd.DataFrame(json.loads(Path(f"plots/{name}.json").read_text()))


def report():
    return Path("metrics/comparison.md").read_text()


@pytest.fixture
def drawn():
    """Ask for the pictures, which take most of the time."""


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    """Leave the pictures out of tests that do not ask for them."""
    for name in (*PLOTS, "gallery"):
        if "drawn" not in request.fixturenames:
            monkeypatch.setattr(pictures, name, lambda *_: None)


@pytest.fixture
def chosen(workspace):
    """Return parameters of three cells of AlexNet, whose files are there."""
    write_images(IMAGES)
    random = np.random.default_rng(0)
    chosen = params.load().model_copy(
        update={"models": ["alexnet"], "factories": {}, "weights": "imagenet"}
    )
    for cell, accuracy in zip(
        [cell.name for cell in chosen.cells()], (0.8, 0.9, 0.95), strict=True
    ):
        write_cell(cell, random.random((3, IMAGES)) < accuracy)
    write_embeddings("alexnet", random.normal(size=(IMAGES, 8)), random.normal(size=(60, 8)))
    return chosen


def test_table_and_summary_say_what_the_cells_say(chosen, capsys):
    compare.compare(chosen)
    table = pd.read_csv("metrics/comparison.csv")
    assert list(table["cell"]) == ["alexnet-finetune", "alexnet-frozen", "alexnet-probe"]
    cell = json.loads(Path("metrics/cells/alexnet-frozen.json").read_text())
    summary = json.loads(Path("metrics/summary.json").read_text())
    assert summary["alexnet-frozen.best"] == cell["best_val_accuracy_mean"]
    assert len(summary) == 6
    line = next(line for line in report().splitlines() if line.startswith("| alexnet-frozen"))
    for figure in (f"{cell['best_val_accuracy_mean'] * 100:.1f} ± ", "94.8", "666", "8,194"):
        assert figure in line
    assert "57,012,034" in capsys.readouterr().out


@pytest.mark.parametrize("other", ["images", "weights"])
def test_the_write_ups_figures_stay_away_from_other_images_and_weights(chosen, other):
    if other == "images":
        counts = {"images": 88, "train": 48, "val": 40, "val_ants": 20, "val_bees": 20}
        write_json("metrics/dataset.json", {**counts, "in_both_splits": 2})
    else:
        chosen = chosen.model_copy(update={"weights": "random"})
    compare.compare(chosen)
    assert "write-up, %" not in report()
    twins = "2 validation images can be found among the training images, byte for byte"
    assert (twins in report()) == (other == "images")
    for name in ("accuracy", "curves"):
        assert "write-up" not in set(load_rows(name)["what"])


def test_a_cell_that_is_not_in_the_matrix_leaves_no_trace(chosen):
    write_cell("resnet18-frozen", [[True, False] * (IMAGES // 2)])
    compare.compare(chosen)
    for path in [Path("metrics/comparison.csv"), *Path("plots").glob("*.json")]:
        assert "resnet18" not in path.read_text()


def test_a_cell_without_results_is_named(chosen):
    Path("metrics/cells/alexnet-frozen.json").unlink()
    with pytest.raises(UserError, match="alexnet-frozen"):
        compare.compare(chosen)


def test_diverged_runs_are_shown_even_where_no_run_is_left(chosen, drawn):
    write_cell("alexnet-finetune", [[True, False] * (IMAGES // 2)], diverged=2)
    write_cell("alexnet-frozen", np.empty((0, IMAGES)), diverged=3)
    compare.compare(chosen)
    assert "alexnet-finetune (2 of 3 diverged) | 50.0" in report()
    assert "alexnet-frozen (3 of 3 diverged) | –" in report()
    assert json.loads(Path("metrics/summary.json").read_text())["alexnet-frozen.best"] is None
    for name in PLOTS:
        assert "NaN" not in Path(f"plots/{name}.json").read_text()


def test_confusions_add_up_to_the_images_of_each_class(chosen):
    compare.compare(chosen)
    rows = load_rows("confusion")
    assert len(rows) == 3 * 2 * 2
    assert (rows.groupby(["cell", "label"])["images"].sum() == 20).all()
    assert np.allclose(rows.groupby(["cell", "label"])["share"].sum(), 1)


def test_of_many_classes_the_most_confused_are_shown():
    classes = [f"class{number:02d}" for number in range(30)]
    told = [*zip(classes, classes, strict=True), ("class28", "class29")]
    rows = pd.DataFrame(told, columns=["label", "predicted"])
    rows = rows.assign(cell="a-probe", seed=0, which="best")
    found = plot_rows.confusions(
        SimpleNamespace(cells={"a-probe": Cell("a", "probe")}, predictions=rows)
    )
    assert len(found) == 20 * 20
    probabilities = found.set_index(["label", "predicted"])["share"]
    assert probabilities["class28", "class29"] == probabilities["class28", "class28"] == 0.5


def test_differences_are_paired_and_the_bonus_is_best_less_last(chosen):
    random = np.random.default_rng(1)
    worse = random.random((3, IMAGES)) < 0.6
    better = worse | (np.arange(IMAGES) < 12)
    write_cell("alexnet-finetune", worse)
    write_cell("alexnet-frozen", better, last=worse)
    compare.compare(chosen)
    rows = load_rows("differences").set_index(["pair", "which"])
    pair = "alexnet-finetune − alexnet-frozen"
    expected = statistics.contrast(worse.astype(float) - better)
    assert rows.loc[(pair, "best"), "difference"] == pytest.approx(expected.value, abs=1e-6)
    assert rows.loc[(pair, "best"), "high"] == pytest.approx(expected.high, abs=1e-6)
    assert rows.loc[(pair, "last"), "difference"] == 0
    table = pd.read_csv("metrics/comparison.csv").set_index("cell")
    assert table.loc["alexnet-frozen", "selection_optimism"] == pytest.approx(
        -expected.value, abs=1e-6
    )
    assert table.loc["alexnet-finetune", "selection_optimism"] == 0


def test_a_probes_time_has_its_share_of_the_features(chosen):
    compare.compare(chosen)
    seconds = load_rows("time").set_index("cell")["seconds"]
    own = json.loads(Path("metrics/timing/alexnet-probe.json").read_text())
    assert seconds["alexnet-probe"] == pytest.approx(own["seconds_per_run_mean"] + 20 / 3, abs=1e-3)
    phases = load_rows("phases").set_index(["cell", "phase"])["seconds"]
    assert phases["alexnet-probe", "features"] == pytest.approx(20 / 3 / 2, abs=1e-3)  # two epochs


def test_how_sure_a_prediction_is_is_the_probability_of_its_class(chosen):
    compare.compare(chosen)
    assert set(load_rows("reliability")["confidence"]) == {0.8}


def test_costs_come_with_their_rank_correlation_with_time(chosen):
    compare.compare(chosen)
    rows = load_rows("costs").drop_duplicates("cost").set_index("cost")
    assert rows.loc["trainable_parameters", "rank_correlation"] == pytest.approx(0.866, abs=0.001)
    assert rows.loc["depth", "rank_correlation"] is None or np.isnan(
        rows.loc["depth", "rank_correlation"]
    )
    assert "run time goes most with the number of trained parameters" in report()
    table = pd.read_csv("metrics/comparison.csv").assign(gmacs=[0.3839101, 0.3839102, 0.3839103])
    rows = plot_rows.costs(table).drop_duplicates("cost").set_index("cost")
    assert np.isnan(rows.loc["gmacs", "rank_correlation"])


def test_classes_may_be_called_anything(chosen):
    called = {"ants": "01", "bees": "None"}
    for cell in [cell.name for cell in chosen.cells()]:
        path = f"plots/predictions/{cell}.csv"
        table = pd.read_csv(path).replace({"label": called, "predicted": called})
        probabilities = {f"p_{name}": f"p_{other}" for name, other in called.items()}
        table.rename(columns=probabilities).to_csv(path, index=False)
    compare.compare(chosen)
    assert set(load_rows("confusion")["label"]) == {"01", "None"}


def test_a_single_replicate_is_not_taken_for_more(chosen):
    write_cell("alexnet-finetune", [np.arange(IMAGES) % 3 > 0])
    compare.compare(chosen)
    assert "interval of a single finished replicate speaks of other images only" in report()
    assert "another seed may say otherwise" in report()
    told = {told["id"]: told for told in json.loads(Path("metrics/claims.json").read_text())}
    assert "add seeds" in told["frozen-beats-finetune-alexnet"]["why"]


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("metrics/cells/alexnet-frozen.json", "{", "alexnet-frozen.json cannot be read"),
        ("metrics/cells/alexnet-frozen.json", "{}", "no activations, best_epoch"),
        ("metrics/cells/alexnet-frozen.json", "[]", "no activations, best_epoch"),
        ("metrics/timing/alexnet-frozen.json", "{}", "no cores, device, dirty"),
        ("metrics/dataset.json", None, "dataset.json cannot be read"),
        ("metrics/timing/alexnet-embed.json", None, "alexnet-embed.json cannot be read"),
        ("plots/curves/alexnet-frozen.csv", "", "alexnet-frozen.csv cannot be read"),
        ("plots/predictions/alexnet-probe.csv", "seed,epoch\n0,1\n", "no column image"),
        ("plots/predictions/alexnet-probe.csv", "seed,epoch\nzero,1\n", "cannot be read"),
        (
            "data/published/summary.csv",
            "x\n1\n",
            "no column best_val_accuracy, cell, train_seconds",
        ),
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_written(chosen, path, content, message):
    Path(path).unlink()
    if content is not None:
        Path(path).write_text(content)
    with pytest.raises(UserError, match=message):
        compare.compare(chosen)
    assert not Path("metrics/comparison.md").exists()


@pytest.mark.parametrize("rows", [slice(1, None), slice(-1), slice(IMAGES * 3), [0, *range(240)]])
def test_a_table_that_lacks_rows_or_repeats_them_is_named(chosen, rows):
    path = "plots/predictions/alexnet-frozen.csv"
    pd.read_csv(path).iloc[rows].to_csv(path, index=False)
    with pytest.raises(UserError, match="alexnet-frozen.csv cannot be read: "):
        compare.compare(chosen)


def test_features_of_other_images_are_refused(chosen):
    write_embeddings("alexnet", np.ones((IMAGES + 1, 8)), np.ones((60, 8)))
    with pytest.raises(UserError, match="not of the images that the cells saw"):
        compare.compare(chosen)


def test_a_damaged_photograph_is_named_and_nothing_is_written(chosen):
    write_cell("alexnet-frozen", np.tile(np.arange(IMAGES) != 3, (3, 1)))
    Path("data/images/val/bees/003.jpg").write_bytes(b"no photograph")
    with pytest.raises(UserError, match=r"bees/003\.jpg cannot be read(.|\n)*dvc repro verify"):
        compare.compare(chosen)
    assert not Path("metrics/summary.json").exists()


def test_a_difference_that_the_last_epoch_does_not_show_is_told_as_such(chosen):
    worse = np.tile(np.arange(IMAGES) < 20, (3, 1))
    write_cell("alexnet-frozen", np.ones((3, IMAGES)), last=worse)
    write_cell("alexnet-finetune", worse, last=worse)
    write_cell("alexnet-probe", worse, last=np.ones((3, IMAGES)))
    compare.compare(chosen)
    told = "alexnet-frozen is more accurate than alexnet-finetune by 50.0 points"
    assert re.search(rf"{told} \(.*\); not at their last epochs\n", report())
    assert re.search(r"alexnet-frozen is .* alexnet-probe .*; the other way round at", report())
    assert "1 pair can be told apart only at the last epochs: alexnet-probe is more" in report()


@pytest.mark.parametrize("timed", ["frozen", "embed"])
def test_cells_that_were_not_timed_alike_have_no_rank_correlation(chosen, timed):
    path = f"metrics/timing/alexnet-{timed}.json"
    write_json(path, {**read_json(path), "device": "a graphics card"})
    compare.compare(chosen)
    assert load_rows("costs")["rank_correlation"].isna().all()
    assert "were not timed alike" in report() and "run time goes" not in report()
    assert "device: a graphics card and cpu;" in report()


def test_the_report_says_what_each_cell_was_made_from_and_on(chosen):
    compare.compare(chosen)
    on = "(cores: 2; device: cpu; runs side by side, at the most: 2), at revision 0123456789ab."
    assert on in report()
    assert "| alexnet-frozen | 012301230123 | 89ab89ab89ab |" in report()


def test_many_cells_with_long_names_fit_their_pictures(chosen, drawn, monkeypatch):
    models = [f"a_network_with_a_very_long_name_indeed_{number}" for number in range(4)]
    random = np.random.default_rng(5)
    many = chosen.model_copy(update={"models": models, "weights": "random"})
    for model in models:
        monkeypatch.setitem(COSTS, model, COSTS["alexnet"])
        monkeypatch.setitem(TRAINED, model, 10)
    for cell in [cell.name for cell in many.cells()]:
        write_cell(cell, random.random((3, IMAGES)) < random.random())
    compare.compare(many)
    for name in PLOTS:
        with Image.open(f"plots/{name}.png") as picture:
            assert max(picture.size) < 4000
    colours, markers = (
        pictures.colours([cell.name for cell in many.cells()]),
        pictures.markers([cell.name for cell in many.cells()]),
    )
    assert (
        len({colours[cell] + markers[cell] for cell in [cell.name for cell in many.cells()]}) == 12
    )
    assert "more: plots/differences.json" in report()


def test_cells_that_saw_other_images_are_not_compared(chosen):
    write_cell("alexnet-frozen", np.ones((3, IMAGES - 2)))
    with pytest.raises(UserError, match="not validated on the same images"):
        compare.compare(chosen)


def test_the_hardest_photographs_are_told_with_votes_and_probability(chosen):
    correct = np.ones((3, IMAGES), dtype=bool)
    correct[:, 5] = False
    correct[0, 8] = False
    for cell in [cell.name for cell in chosen.cells()]:
        write_cell(cell, correct)
    compare.compare(chosen)
    assert "The hardest is bees/005.jpg: 9 of 9 runs got it wrong." in report()
    assert "1 image every run got wrong." in report()


def test_near_duplicates_are_found_by_content_and_accuracy_is_told_without_them(chosen):
    random = np.random.default_rng(2)
    val, train = random.normal(size=(IMAGES, 16)), random.normal(size=(60, 16))
    train[33] = 3 * val[7]
    write_embeddings("alexnet", val, train)
    correct = np.ones((3, IMAGES), dtype=bool)
    correct[:, 7] = False
    write_cell("alexnet-probe", correct)
    compare.compare(chosen)
    assert "| val/bees/007.jpg | train/bees/033.jpg | 1.00 |" in report()
    table = pd.read_csv("metrics/comparison.csv").set_index("cell")
    assert table.loc["alexnet-probe", "accuracy_without_near_duplicates"] == 1.0


def test_without_pretrained_features_near_duplicates_are_not_looked_for(chosen):
    for path in Path("data/embeddings").iterdir():
        path.unlink()
    compare.compare(chosen.model_copy(update={"weights": "random"}))
    assert "was not looked into: that takes features from pretrained weights" in report()
    with pytest.raises(UserError, match="alexnet.safetensors cannot be read"):
        compare.compare(chosen)


def test_a_matrix_in_which_every_run_diverged_is_still_reported(chosen, drawn):
    for cell in [cell.name for cell in chosen.cells()]:
        write_cell(cell, np.empty((0, IMAGES)), diverged=3)
    compare.compare(chosen)
    assert report().count("(3 of 3 diverged)") == 3
    assert "no difference can be told" in report()
    assert "NaN" not in Path("metrics/claims.json").read_text()


def test_pictures_are_drawn(chosen, drawn):
    compare.compare(chosen)
    for name in (*PLOTS, "gallery"):
        with Image.open(f"plots/{name}.png") as picture:
            assert min(picture.size) > 200
            assert len(picture.convert("RGB").getcolors(2**24)) > 20


@pytest.mark.parametrize("accuracies", [(0.5, 0.7, 0.98), (0.9, 0.9, 0.9), (1, 1, 1)])
def test_the_report_says_other_things_of_other_figures(chosen, accuracies):
    random = np.random.default_rng(3)
    for cell, accuracy in zip([cell.name for cell in chosen.cells()], accuracies, strict=True):
        easy = random.random(IMAGES) < accuracy
        write_cell(cell, np.tile(easy, (3, 1)))
    compare.compare(chosen)
    text = report()
    if accuracies[0] == 0.5:
        assert "alexnet-probe is more accurate than alexnet-finetune by" in text
        assert "can be told apart at their best epochs:" in text
    else:
        assert "None of 3 pairs of cells can be told apart" in text
    every_hit = "No finished run got a validation image wrong at its best epoch."
    assert (every_hit in text) == (accuracies[0] == 1)
    assert f"({'70'} ants, 83 bees)" in text and "0.65 points" in text
    assert all(f"![{title}" in text for title in ("Accuracy", "Learning", "Confusion", "Reliab"))


def test_every_picture_of_the_report_is_there(chosen, drawn):
    compare.compare(chosen)
    named = {part.split(")")[0] for part in report().split("](../")[1:]}
    assert {Path(name).name for name in named} == {f"{name}.png" for name in (*PLOTS, "gallery")}
    assert all(Path(name).exists() for name in named)
