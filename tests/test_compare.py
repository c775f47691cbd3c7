"""The comparison agrees with the cells' files, in its tables and in its report."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fake_cells import write_alexnet, write_cell, write_embeddings, write_images

from headswap.compare import plot_rows, plots
from headswap.compare.intervals import accuracy, contrast
from headswap.compare.outputs import write_comparison
from headswap.compare.results import read_results
from headswap.errors import UserError
from headswap.io import read_json, write_json
from headswap.params import Cell

IMAGES = 40
FINETUNE, FROZEN, PROBE = (Cell("alexnet", mode) for mode in ("finetune", "frozen", "probe"))
CELLS = (FINETUNE, FROZEN, PROBE)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Skip what takes most of the time: test_plots.py looks at the pictures."""
    monkeypatch.setattr(plots, "png", lambda *_: b"")


@pytest.fixture
def chosen(workspace):
    """Return the parameters of three cells of AlexNet, whose files are there."""
    return write_alexnet(IMAGES)


def rows_of(plot):
    return pd.DataFrame(read_json(f"plots/comparison/{plot}.json"))


def comparison():
    return pd.read_csv("metrics/comparison.csv").set_index("cell")


def report():
    return Path("metrics/comparison.md").read_text()


def section(title):
    """Return a section of the report."""
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", report(), re.DOTALL | re.MULTILINE)
    return text


def line_of(start, text):
    """Return the entries of the table's line that begins with `start`."""
    (line,) = [line for line in text.splitlines() if re.match(rf"\| {re.escape(start)} ", line)]
    return [entry.strip() for entry in line.strip("|").split("|")]


def test_table_summary_and_report_agree_with_the_predictions(chosen, capsys):
    write_comparison(chosen)
    predictions = pd.read_csv("plots/predictions/alexnet-frozen.csv")
    best = predictions[predictions["which"] == "best"]
    by_seed = (best["label"] == best["predicted"]).groupby(best["seed"]).mean()
    row = comparison().loc["alexnet-frozen"]
    assert list(comparison().index) == [cell.name for cell in CELLS]
    assert row["best_val_accuracy_mean"] == pytest.approx(by_seed.mean(), abs=1e-6)
    assert row["best_val_accuracy_std"] == pytest.approx(by_seed.std(), abs=1e-6)
    assert row["best_val_accuracy_ci_low"] < by_seed.mean() < row["best_val_accuracy_ci_high"]
    summary = read_json("metrics/summary.json")
    assert summary["alexnet-frozen.best"] == row["best_val_accuracy_mean"]
    recalls = (best["label"] == best["predicted"]).groupby(best["label"]).mean()
    assert summary["alexnet-frozen.balanced"] == pytest.approx(recalls.mean(), abs=1e-6)
    assert len(summary) == 9
    entries = line_of("alexnet-frozen", section("Accuracy").split("Recall")[0])
    mean_and_std = f"{100 * by_seed.mean():.1f} ± {100 * by_seed.std():.1f}"
    for entry in (mean_and_std, "94.8", "666", "8,194"):
        assert entry in entries
    assert mean_and_std in capsys.readouterr().out


def test_the_report_begins_with_a_summary_of_at_most_five_lines(chosen):
    write_comparison(chosen)
    summary = report().split("##")[0].strip().splitlines()[2:]
    assert len(summary) <= 5
    best = comparison()["best_val_accuracy_mean"].idxmax()
    assert (
        best in summary[0]
        and f"{100 * comparison()['best_val_accuracy_mean'].max():.1f}" in summary[0]
    )


def test_the_report_names_the_recipes(chosen):
    chosen = chosen.model_copy(
        update={"train": chosen.train.model_copy(update={"lr": 0.0125, "batch_size": 17})}
    )
    write_comparison(chosen)
    entries = line_of("finetune and frozen", section("What is compared"))
    assert {"0.0125", "17", "SGD, momentum 0.9"} < set(entries)


def test_recall_is_given_by_class(chosen):
    correct = np.ones((3, IMAGES), dtype=bool)
    correct[:, 1:20:2] = False  # half of the bees
    write_cell(FROZEN, correct)
    write_comparison(chosen)
    recall = section("Accuracy").split("Recall")[1]
    assert line_of("alexnet-frozen", recall)[1:] == ["100.0", "50.0"]


@pytest.mark.parametrize("other", ["images", "weights"])
def test_the_write_ups_figures_are_left_out_for_other_images_and_weights(chosen, other):
    if other == "images":
        counts = {"images": 88, "train": 48, "val": 40, "val_ants": 20, "val_bees": 20}
        write_json("metrics/dataset.json", {**counts, "in_both_splits": 2})
    else:
        chosen = chosen.model_copy(update={"weights": "random"})
    write_comparison(chosen)
    assert comparison().filter(like="published").isna().all(axis=None)
    assert "write-up" not in section("Accuracy")
    limits = section("What limits every comparison on these images")
    assert ("2 validation images are also among the training images" in limits) == (
        other == "images"
    )
    for plot in ("accuracy", "curves"):
        assert "write-up" not in set(rows_of(plot)["what"])


def test_a_cell_that_is_not_in_the_matrix_is_not_read(chosen):
    write_cell(Cell("resnet18", "frozen"), [[True, False] * (IMAGES // 2)])
    write_comparison(chosen)
    paths = [Path("metrics/comparison.csv"), *Path("plots/comparison").glob("*.json")]
    assert len(paths) == 8
    assert not [path for path in paths if "resnet18" in path.read_text()]


def test_a_picture_of_an_earlier_comparison_does_not_remain(chosen):
    write_comparison(chosen)
    Path("plots/comparison/old.png").touch()
    write_comparison(chosen)
    assert not Path("plots/comparison/old.png").exists()


def test_a_cell_without_results_is_named(chosen):
    Path("metrics/cells/alexnet-frozen.json").unlink()
    with pytest.raises(UserError, match="alexnet-frozen"):
        write_comparison(chosen)


def test_diverged_runs_are_counted_even_where_no_run_is_left(chosen):
    write_cell(FINETUNE, [[True, False] * (IMAGES // 2)], diverged=2)
    write_cell(FROZEN, np.empty((0, IMAGES)), diverged=3)
    write_comparison(chosen)
    accuracy = section("Accuracy")
    assert line_of("alexnet-finetune (2 of 3 diverged)", accuracy)[1] == "50.0"
    assert line_of("alexnet-frozen (3 of 3 diverged)", accuracy)[1] == "–"
    assert read_json("metrics/summary.json")["alexnet-frozen.best"] is None
    assert not [path for path in Path("plots").rglob("*.json") if "NaN" in path.read_text()]


def test_a_matrix_in_which_every_run_diverged_is_reported(chosen):
    for cell in CELLS:
        write_cell(cell, np.empty((0, IMAGES)), diverged=3)
    write_comparison(chosen)
    assert report().count("(3 of 3 diverged)") == 3
    assert "all 9 runs diverged" in report()
    assert "NaN" not in Path("metrics/claims.json").read_text()


def test_confusions_add_up_to_the_images_of_each_class(chosen):
    write_comparison(chosen)
    rows = rows_of("confusion")
    assert len(rows) == 3 * 2 * 2
    assert (rows.groupby(["cell", "label"])["images"].sum() == 20).all()
    assert np.allclose(rows.groupby(["cell", "label"])["share"].sum(), 1)


def test_of_many_classes_the_most_confused_are_kept():
    classes = [f"class{number:02d}" for number in range(30)]
    pairs = [*zip(classes, classes, strict=True), ("class28", "class29")]
    rows = pd.DataFrame(pairs, columns=["label", "predicted"])
    rows = rows.assign(cell="a-probe", seed=0, which="best")
    results = SimpleNamespace(cells={"a-probe": Cell("a", "probe")}, predictions=rows)
    found = plot_rows.confusions(results)
    assert len(found) == 20 * 20
    shares = found.set_index(["label", "predicted"])["share"]
    assert shares["class28", "class29"] == shares["class28", "class28"] == 0.5


def test_differences_are_paired_and_selection_optimism_is_best_minus_last(chosen):
    random = np.random.default_rng(1)
    worse = random.random((3, IMAGES)) < 0.6
    better = worse | (np.arange(IMAGES) < 12)
    write_cell(FINETUNE, worse)
    write_cell(FROZEN, better, last=worse)
    write_comparison(chosen)
    rows = rows_of("differences").set_index(["pair", "which"])
    pair = "alexnet-finetune − alexnet-frozen"
    prior = read_results(chosen).replicate_prior()
    expected = contrast(worse.astype(float) - better, prior)
    assert rows.loc[(pair, "best"), "difference"] == pytest.approx(expected.value, abs=1e-6)
    assert rows.loc[(pair, "best"), "high"] == pytest.approx(expected.high, abs=1e-6)
    assert rows.loc[(pair, "last"), "difference"] == 0
    optimism = comparison()["selection_optimism"]
    assert optimism["alexnet-frozen"] == pytest.approx(-expected.value, abs=1e-6)
    assert optimism["alexnet-finetune"] == 0


def test_the_csv_has_the_intervals_of_cells_alone_beside_those_that_use_all_cells(chosen):
    random = np.random.default_rng(2)
    for cell in CELLS:
        write_cell(cell, random.random((2, IMAGES)) < 0.8)
    write_comparison(chosen)
    row = comparison().loc["alexnet-frozen"]
    alone = accuracy(read_results(chosen).correct["alexnet-frozen", "best"])
    low, high = (row[f"best_val_accuracy_alone_ci_{side}"] for side in ("low", "high"))
    assert (low, high) == pytest.approx((alone.low, alone.high), abs=1e-6)
    assert low < row["best_val_accuracy_ci_low"] and row["best_val_accuracy_ci_high"] < high


def test_the_interval_of_a_single_seed_is_for_other_images_only(chosen):
    for cell in CELLS:
        write_cell(cell, np.arange(IMAGES)[None] < 30)
    write_comparison(chosen)
    assert "for other images only" in section("Accuracy")


def test_pairs_that_survive_holms_correction_are_said(chosen):
    random = np.random.default_rng(4)
    hard = random.random((5, IMAGES)) < 0.35
    for cell, easy in zip(CELLS, (12, 17, 22), strict=True):
        write_cell(cell, hard | (np.arange(IMAGES) < easy))
    write_comparison(chosen)
    results = read_results(chosen)
    rows = rows_of("differences").query("which == 'best'").set_index(["cell", "other"])
    prior = results.replicate_prior()
    p_values = {
        pair: contrast(results.contrast({pair[0]: 1, pair[1]: -1}), prior).p_value
        for pair in rows.index
    }
    rejected, remaining = [], len(p_values)
    for pair in sorted(p_values, key=p_values.get):
        if p_values[pair] >= 0.05 / remaining:
            break
        rejected.append(pair)
        remaining -= 1
    assert sorted(rows.index[rows["holm"]]) == sorted(rejected) and len(rejected) == 1
    assert rows["differ"].all()
    assert report().count("not with Holm's correction") == 2
    assert "1 of 3 remains" in report()


def test_the_time_of_a_probe_includes_its_share_of_the_features(chosen):
    write_comparison(chosen)
    seconds = rows_of("time").set_index("cell")["seconds"]
    own = read_json("metrics/timing/alexnet-probe.json")["seconds_per_run_mean"]
    assert seconds["alexnet-probe"] == pytest.approx(own + 20 / 3, abs=1e-3)


def test_confidence_is_the_probability_of_the_predicted_class(chosen):
    write_comparison(chosen)
    assert set(rows_of("reliability")["confidence"]) == {0.8}


def test_costs_come_with_their_rank_correlation_with_time(chosen):
    write_comparison(chosen)
    rows = rows_of("costs").drop_duplicates("cost").set_index("cost")
    assert rows.loc["trainable_parameters", "rank_correlation"] == pytest.approx(0.866, abs=0.001)
    assert pd.isna(rows.loc["depth", "rank_correlation"])
    assert "trained parameters 0.87" in section("What run time depends on")


def test_costs_that_are_equal_to_three_digits_have_no_rank_correlation(chosen):
    for cell, gmacs in zip(CELLS, (0.3839101, 0.3839102, 0.3839103), strict=True):
        path = f"metrics/cells/{cell.name}.json"
        write_json(path, {**read_json(path), "gmacs": gmacs})
    write_comparison(chosen)
    rows = rows_of("costs").drop_duplicates("cost").set_index("cost")
    assert pd.isna(rows.loc["gmacs", "rank_correlation"])


@pytest.mark.parametrize(
    "names", [("01", "None"), ("under_$5_or_$", "<b>*ants* | [x](y)</b>")], ids=["data", "markup"]
)
def test_classes_may_have_any_name(chosen, names):
    for cell in CELLS:
        write_cell(cell, np.arange(3 * IMAGES).reshape(3, IMAGES) % 7 > 0, classes=names)
    write_images(IMAGES, classes=names)
    write_comparison(chosen.model_copy(update={"weights": "random"}))
    assert set(rows_of("confusion")["label"]) == set(names)
    table = section("Which images are misclassified most").split("\n\n")
    (lines,) = [part.splitlines() for part in table if part.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {6}  # five columns
    assert "<b>" not in report().replace("\\<b", "")


def test_a_single_replicate_is_reported_as_such(chosen):
    write_cell(FINETUNE, [np.arange(IMAGES) % 3 > 0])
    write_comparison(chosen)
    assert "single finished replicate" in section("Accuracy")
    assert "single finished seed" in section("Which cells differ")
    verdicts = {verdict["id"]: verdict for verdict in read_json("metrics/claims.json")}
    assert "add seeds" in verdicts["frozen-beats-finetune-alexnet"]["why"]


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("metrics/cells/alexnet-frozen.json", "{", "alexnet-frozen.json cannot be read"),
        ("metrics/cells/alexnet-frozen.json", "{}", "no depth, diverged"),
        ("metrics/cells/alexnet-frozen.json", "[]", "no depth, diverged"),
        ("metrics/timing/alexnet-frozen.json", "{}", "no arithmetic, cores, device, dirty"),
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
        write_comparison(chosen)
    assert not Path("metrics/comparison.md").exists()


@pytest.mark.parametrize("rows", [slice(1, None), slice(-1), slice(IMAGES * 3), [0, *range(240)]])
def test_missing_and_repeated_predictions_are_refused(chosen, rows):
    path = "plots/predictions/alexnet-frozen.csv"
    pd.read_csv(path).iloc[rows].to_csv(path, index=False)
    with pytest.raises(UserError, match="alexnet-frozen.csv cannot be read: "):
        write_comparison(chosen)


def test_curves_without_a_finished_seed_are_refused(chosen):
    path = "plots/curves/alexnet-frozen.csv"
    curves = pd.read_csv(path)
    curves[curves["seed"] != 2].to_csv(path, index=False)
    with pytest.raises(UserError, match="alexnet-frozen.csv cannot be read: no rows of seed 2"):
        write_comparison(chosen)


def test_features_of_other_images_are_refused(chosen):
    write_embeddings("alexnet", np.ones((IMAGES + 1, 8)), np.ones((60, 8)))
    with pytest.raises(UserError, match="data/embeddings.*images"):
        write_comparison(chosen)


def test_a_damaged_photograph_is_named_and_nothing_is_written(chosen):
    write_cell(FROZEN, np.tile(np.arange(IMAGES) != 3, (3, 1)))
    Path("data/images/val/bees/003.jpg").write_bytes(b"no photograph")
    with pytest.raises(UserError, match=r"bees/003\.jpg cannot be read(.|\n)*dvc repro verify"):
        write_comparison(chosen)
    assert not Path("metrics/summary.json").exists()


def test_a_difference_at_the_best_epochs_says_what_the_last_epochs_show(chosen):
    worse = np.tile(np.arange(IMAGES) < 20, (3, 1))
    write_cell(FROZEN, np.ones((3, IMAGES)), last=worse)
    write_cell(FINETUNE, worse, last=worse)
    write_cell(PROBE, worse, last=np.ones((3, IMAGES)))
    write_comparison(chosen)
    best, last = section("Which cells differ").split("last epochs only")
    more = "alexnet-frozen is more accurate than"
    assert re.search(rf"{more} alexnet-finetune by 50.0 points \(.*\); not .* last epochs", best)
    assert re.search(rf"{more} alexnet-probe by 50.0 points \(.*\); the reverse", best)
    assert "alexnet-probe is more accurate than alexnet-finetune by 50.0" in last


@pytest.mark.parametrize("timed", ["frozen", "embed"])
def test_cells_timed_under_different_conditions_have_no_rank_correlation(chosen, timed):
    path = f"metrics/timing/alexnet-{timed}.json"
    write_json(path, {**read_json(path), "device": "a graphics card"})
    write_comparison(chosen)
    assert rows_of("costs")["rank_correlation"].isna().all()
    run_time = section("What run time depends on")
    assert "different conditions" in run_time and "Rank correlation" not in run_time
    made = section("How it was made")
    assert "not all made in the same way" in made
    devices = dict(zip(line_of("made with", made)[1:], line_of("device", made)[1:], strict=True))
    expected = {"frozen": "a graphics card", "embed": "cpu and a graphics card"}[timed]
    assert devices.pop(f"alexnet-{timed.replace('embed', 'probe')}") == expected
    assert list(devices.values()) == ["cpu"]


def test_the_report_says_what_each_cell_was_made_from_and_on(chosen):
    write_comparison(chosen)
    made = section("How it was made")
    assert line_of("made with", made)[1:] == ["all cells"]
    figures = {name: line_of(name, made)[1] for name in ("processor", "cores", "torch", "revision")}
    assert figures == {
        "processor": "a processor",
        "cores": "2",
        "torch": "1.0",
        "revision": "0123456789ab",
    }
    assert line_of("alexnet-frozen", made)[1:] == ["012301230123", "89ab89ab89ab"]


def test_cells_that_were_validated_on_other_images_are_not_compared(chosen):
    write_cell(FROZEN, np.ones((3, IMAGES - 2)))
    with pytest.raises(UserError, match="not validated on the same images"):
        write_comparison(chosen)


def test_the_most_misclassified_photographs_come_first(chosen):
    correct = np.ones((3, IMAGES), dtype=bool)
    correct[:, 5] = False
    correct[0, 8] = False
    for cell in CELLS:
        write_cell(cell, correct)
    write_comparison(chosen)
    text = section("Which images are misclassified most")
    assert line_of("bees/005.jpg", text)[1:4] == ["bees", "ants", "9 of 9"]
    assert line_of("ants/008.jpg", text)[1:4] == ["ants", "bees", "3 of 9"]
    assert text.index("bees/005.jpg") < text.index("ants/008.jpg")


def test_where_nothing_is_misclassified_the_report_says_so(chosen):
    for cell in CELLS:
        write_cell(cell, np.ones((3, IMAGES)))
    write_comparison(chosen)
    assert "|" not in section("Which images are misclassified most")
    assert "None of 3 pairs" in section("Which cells differ")


def test_near_duplicates_are_found_by_content_and_accuracy_is_given_without_them(chosen):
    random = np.random.default_rng(2)
    val, train = random.normal(size=(IMAGES, 16)), random.normal(size=(60, 16))
    train[33] = 3 * val[7]
    write_embeddings("alexnet", val, train)
    correct = np.ones((3, IMAGES), dtype=bool)
    correct[:, 7] = False
    write_cell(PROBE, correct)
    write_comparison(chosen)
    limits = section("What limits every comparison on these images")
    assert line_of("val/bees/007.jpg", limits)[1:] == ["train/bees/033.jpg", "1.00"]
    assert comparison().loc["alexnet-probe", "accuracy_without_near_duplicates"] == 1.0


@pytest.mark.parametrize("name", ["claims.yaml", "curves.csv", "dataset.json", "summary.csv"])
def test_a_missing_file_of_the_write_up_comes_with_the_command_that_restores_it(chosen, name):
    Path("data/published", name).unlink()
    with pytest.raises(UserError, match=f"{name}.*\nRestore it with: git checkout data$"):
        write_comparison(chosen)


def test_without_pretrained_features_near_duplicates_are_not_searched_for(chosen):
    for path in Path("data/embeddings").iterdir():
        path.unlink()
    write_comparison(chosen.model_copy(update={"weights": "random"}))
    assert comparison()["accuracy_without_near_duplicates"].isna().all()
    with pytest.raises(UserError, match="There is no .*alexnet.safetensors yet"):
        write_comparison(chosen)


def test_every_picture_of_the_report_is_there(chosen):
    write_comparison(chosen)
    named = {part.split(")")[0] for part in report().split("](../")[1:]}
    assert len(named) == 8 and all(Path(name).exists() for name in named)


def test_claims_about_other_networks_take_one_line(chosen, capsys):
    write_comparison(chosen)
    verdicts = read_json("metrics/claims.json")
    elsewhere = [verdict for verdict in verdicts if "not in the matrix" in (verdict["why"] or "")]
    assert len(elsewhere) == 7
    for text in (report(), capsys.readouterr().out):
        assert text.count("not in the matrix") == 1
        assert not [verdict for verdict in elsewhere if verdict["says"] in text]


def test_holms_correction_counts_pairs_with_the_same_p_value_alike(chosen):
    random = np.random.default_rng(4)
    hard = random.random((5, IMAGES)) < 0.35
    write_cell(FINETUNE, hard | (np.arange(IMAGES) < 12))
    for cell in (FROZEN, PROBE):
        write_cell(cell, hard | (np.arange(IMAGES) < 18))
    write_comparison(chosen)
    rows = rows_of("differences").query("which == 'best' and cell == 'alexnet-finetune'")
    assert list(rows["differ"]) == [True, True] and list(rows["holm"]) == [False, False]
