"""The comparison of cells: its table, what follows from it, the report, and the outputs."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fake_cells import write_cell, write_embeddings, write_images
from markdown_it import MarkdownIt
from rich.console import Console

from headswap import params
from headswap.compare import intervals, plot_rows, report, terminal
from headswap.compare.comparison import compare
from headswap.compare.outputs import write_comparison
from headswap.compare.results import read_results
from headswap.errors import UserError
from headswap.io import read_json, write_json
from headswap.params import Cell

IMAGES = 40
CELLS = ["alexnet-finetune", "alexnet-frozen", "alexnet-probe"]


@pytest.fixture
def chosen(workspace):
    """Return the parameters of three cells of AlexNet, whose files are written."""
    write_images(IMAGES)
    random = np.random.default_rng(0)
    for cell, accuracy in zip(CELLS, (0.8, 0.9, 0.95), strict=True):
        write_cell(cell, random.random((3, IMAGES)) < accuracy)
    write_embeddings("alexnet", random.normal(size=(IMAGES, 8)), random.normal(size=(60, 8)))
    return params.load().model_copy(
        update={"models": ["alexnet"], "factories": {}, "weights": "imagenet"}
    )


def compared(chosen):
    return compare(read_results(chosen))


def table_of(chosen):
    return compared(chosen).table.set_index("cell")


def facts_of(chosen):
    results = read_results(chosen)
    return report.facts(results, compare(results))


def write_equal_cells(correct, **others):
    for cell in CELLS:
        write_cell(cell, correct, **others)


def report_of(chosen):
    return report.render("report.md", facts_of(chosen))


def html_texts(markdown):
    """Return all texts of a Markdown document as a reader sees them."""
    blocks = MarkdownIt().enable("table").parse(markdown)
    return {
        "".join(child.content for child in block.children) for block in blocks if block.children
    }


def test_the_outputs_agree_with_the_predictions(chosen, capsys):
    correct = np.random.default_rng(1).random((3, IMAGES)) < 0.9
    write_cell("alexnet-frozen", correct)
    write_comparison(chosen)
    table = pd.read_csv("metrics/comparison.csv").set_index("cell")
    assert list(table.index) == CELLS
    frozen = table.loc["alexnet-frozen"]
    assert frozen["best_val_accuracy_mean"] == pytest.approx(correct.mean(), abs=1e-6)
    assert frozen["best_val_accuracy_std"] == pytest.approx(
        correct.mean(axis=1).std(ddof=1), abs=1e-6
    )
    assert frozen["published_best_val_accuracy"] == pytest.approx(0.947712)
    summary = read_json("metrics/summary.json")
    assert summary["alexnet-frozen.best"] == frozen["best_val_accuracy_mean"]
    assert len(summary) == 6
    assert len(read_json("metrics/claims.json")) == 8
    text = Path("metrics/comparison.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("| alexnet-frozen"))
    for figure in (f"{correct.mean() * 100:.1f} ± ", "94.8", "666", "8,194"):
        assert figure in line
    assert "153 validation images" in text and "0.65 points" in text
    assert "57,012,034" in capsys.readouterr().out


def test_every_picture_of_the_report_is_written(chosen):
    write_comparison(chosen)
    text = Path("metrics/comparison.md").read_text(encoding="utf-8")
    named = [Path("metrics", part.split(")")[0]) for part in text.split("](")[1:]]
    written = {path.resolve() for path in Path("plots/comparison").glob("*.png")}
    assert {path.resolve() for path in named} == written
    assert len(named) == len(written) > 0


def test_the_epoch_and_the_last_loss_are_means_over_the_finished_runs(chosen):
    losses = {0: (0.9, 0.3), 1: (0.8, 0.5), 2: (0.7, 99.0)}
    curves = [
        [seed, epoch, split, loss + (split == "train"), 0.5]
        for seed, of_seed in losses.items()
        for epoch, loss in enumerate(of_seed)
        for split in ("train", "val")
    ]
    write_cell("alexnet-probe", np.ones((2, IMAGES)), diverged=1, curves=curves)
    probe = table_of(chosen).loc["alexnet-probe"]
    assert probe["val_loss_last_mean"] == pytest.approx(0.4)
    assert probe["best_epoch_mean"] == 1


@pytest.mark.parametrize("other", ["images", "weights"])
def test_the_write_ups_figures_are_left_out_for_other_images_and_weights(chosen, other):
    assert facts_of(chosen)["accuracy"]["has_published"]
    if other == "images":
        write_images(0, counts={"images": 88, "train": 48, "val": 40, "in_both_splits": 2})
        assert "2 validation images are also among the training images" in report_of(chosen)
    else:
        chosen = chosen.model_copy(update={"weights": "random"})
    accuracy = facts_of(chosen)["accuracy"]
    assert not accuracy["has_published"]
    assert not accuracy["table"].columns.str.contains("write-up").any()
    rows = compared(chosen).rows
    for name in ("accuracy", "curves"):
        assert "write-up" not in set(rows[name]["what"])


def test_a_cell_that_is_not_in_the_matrix_is_in_no_output(chosen):
    write_cell("resnet18-frozen", [[True, False] * (IMAGES // 2)])
    write_comparison(chosen)
    outputs = [Path("metrics/comparison.csv"), *Path("plots/comparison").glob("*.json")]
    assert len(outputs) > 1
    for path in [*outputs, Path("metrics/summary.json")]:
        assert "resnet18" not in path.read_text(encoding="utf-8")


def test_a_cell_without_results_is_named(chosen):
    Path("metrics/cells/alexnet-frozen.json").unlink()
    with pytest.raises(UserError, match="alexnet-frozen"):
        read_results(chosen)


def test_diverged_runs_are_shown_even_if_no_run_of_a_cell_is_left(chosen):
    write_cell("alexnet-finetune", [[True, False] * (IMAGES // 2)], diverged=2)
    write_cell("alexnet-frozen", np.empty((0, IMAGES)), diverged=3)
    write_comparison(chosen)
    assert read_json("metrics/summary.json")["alexnet-frozen.best"] is None
    accuracy = facts_of(chosen)["accuracy"]
    lines = accuracy["table"].set_index("cell")["best epoch, %"]
    assert lines["alexnet-finetune (2 of 3 diverged)"] == "50.0"
    assert lines["alexnet-frozen (3 of 3 diverged)"] == "–"
    assert accuracy["diverged"] == 5


def test_a_matrix_in_which_every_run_diverged_is_reported(chosen):
    write_equal_cells(np.empty((0, IMAGES)), diverged=3)
    write_comparison(chosen)
    assert "NaN" not in Path("metrics/claims.json").read_text(encoding="utf-8")
    facts = facts_of(chosen)
    assert facts["recommendation"] is None and facts["differences"]["pairs"] == 0
    assert "all 9 runs diverged" in report_of(chosen)


def test_confusions_add_up_to_the_images_of_each_class(chosen):
    rows = compared(chosen).rows["confusion"]
    assert len(rows) == 3 * 2 * 2
    assert (rows.groupby(["cell", "label"])["images"].sum() == 20).all()
    assert np.allclose(rows.groupby(["cell", "label"])["share"].sum(), 1)


def test_of_many_classes_the_most_confused_are_shown():
    classes = [f"class{number:02d}" for number in range(30)]
    pairs = [*zip(classes, classes, strict=True), ("class28", "class29")]
    rows = pd.DataFrame(pairs, columns=["label", "predicted"])
    rows = rows.assign(cell="a-probe", seed=0, which="best")
    found = plot_rows.confusions(
        SimpleNamespace(cells={"a-probe": Cell("a", "probe")}, predictions=rows)
    )
    assert len(found) == 20 * 20
    shares = found.set_index(["label", "predicted"])["share"]
    assert shares["class28", "class29"] == shares["class28", "class28"] == 0.5


def test_differences_are_paired_and_selection_optimism_is_best_less_last(chosen):
    random = np.random.default_rng(1)
    worse = random.random((3, IMAGES)) < 0.6
    better = worse | (np.arange(IMAGES) < 12)
    write_cell("alexnet-finetune", worse)
    write_cell("alexnet-frozen", better, last=worse)
    comparison = compared(chosen)
    rows = comparison.rows["differences"].set_index(["pair", "which"])
    pair = "alexnet-finetune − alexnet-frozen"
    expected = intervals.contrast(worse.astype(float) - better)
    assert rows.loc[(pair, "best"), "difference"] == pytest.approx(expected.value, abs=1e-6)
    assert rows.loc[(pair, "best"), "high"] == pytest.approx(expected.high, abs=1e-6)
    assert rows.loc[(pair, "last"), "difference"] == 0
    optimism = comparison.table.set_index("cell")["selection_optimism"]
    assert optimism["alexnet-frozen"] == pytest.approx(-expected.value, abs=1e-6)
    assert optimism["alexnet-finetune"] == 0


def test_the_interval_of_the_selection_optimism_is_not_below_zero_and_needs_two_runs(chosen):
    last = np.ones((3, IMAGES), dtype=bool)
    last[0, :8] = False
    write_cell("alexnet-frozen", np.ones((3, IMAGES)), last=last)
    write_cell("alexnet-probe", np.ones((1, IMAGES)))
    table = table_of(chosen).filter(like="selection_optimism_ci")
    assert table.loc["alexnet-frozen", "selection_optimism_ci_low"] == 0
    assert table.loc["alexnet-frozen", "selection_optimism_ci_high"] > 0.2
    assert table.loc["alexnet-probe"].isna().all()


def test_the_time_of_a_probe_includes_its_share_of_the_features(chosen):
    rows = compared(chosen).rows
    seconds = rows["time"].set_index("cell")["seconds"]
    own = read_json("metrics/timing/alexnet-probe.json")
    assert seconds["alexnet-probe"] == pytest.approx(own["seconds_per_run_mean"] + 20 / 3, abs=1e-3)
    phases = rows["phases"].set_index(["cell", "phase"])["seconds"]
    assert phases["alexnet-probe", "features"] == pytest.approx(20 / 3 / 2, abs=1e-3)  # two epochs


def test_the_confidence_of_a_prediction_is_the_probability_of_its_class(chosen):
    assert set(compared(chosen).rows["reliability"]["confidence"]) == {0.8}


def test_costs_have_a_rank_correlation_with_time(chosen):
    comparison = compared(chosen)
    correlations = report.correlations(comparison.rows["costs"])
    assert list(correlations) == ["trainable_parameters"]  # the others are equal in all cells
    assert correlations["trainable_parameters"] == pytest.approx(0.866, abs=0.001)
    table = comparison.table.assign(gmacs=[0.3839101, 0.3839102, 0.3839103])
    assert "gmacs" not in report.correlations(plot_rows.costs(table))


@pytest.mark.parametrize("timed", ["frozen", "embed"])
def test_cells_timed_under_different_conditions_have_no_rank_correlation(chosen, timed):
    path = f"metrics/timing/alexnet-{timed}.json"
    write_json(path, {**read_json(path), "device": "a graphics card"})
    facts = facts_of(chosen)
    assert not facts["run_time"]["same_conditions"] and not facts["run_time"]["correlations"]
    assert facts["provenance"]["device"] == ["a graphics card", "cpu"]


def test_classes_may_have_any_name(chosen):
    classes = ("01", "None", "under_$5_or_$", "*a|b* <i>")
    write_images(IMAGES, counts={"images": 2, "train": 1, "val": 1, "in_both_splits": 0})
    correct = np.arange(IMAGES) >= len(classes)
    write_equal_cells([correct] * 3, classes=classes)
    facts = facts_of(chosen.model_copy(update={"weights": "random"}))
    headings = {f"{name} (10)" for name in classes}
    assert set(facts["recall"]["table"].columns[1:]) == headings
    texts = html_texts(report.render("report.md", facts))
    assert headings <= texts
    assert set(classes) <= texts  # the misclassified images', in a table


def test_a_single_replicate_is_reported_as_such(chosen):
    write_cell("alexnet-finetune", [np.arange(IMAGES) % 3 > 0])
    facts = facts_of(chosen)
    assert facts["accuracy"]["single_replicate"] and facts["differences"]["single_replicate"]
    verdicts = {verdict["id"]: verdict for verdict in compared(chosen).verdicts}
    assert "add seeds" in verdicts["frozen-beats-finetune-alexnet"]["why"]


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("metrics/cells/alexnet-frozen.json", "{", "alexnet-frozen.json cannot be read"),
        ("metrics/cells/alexnet-frozen.json", "{}", "no activations, depth"),
        ("metrics/cells/alexnet-frozen.json", "[]", "no activations, depth"),
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
        write_comparison(chosen)
    assert not Path("metrics/comparison.md").exists()


def test_a_damaged_photograph_is_named_and_nothing_is_written(chosen):
    write_cell("alexnet-frozen", np.tile(np.arange(IMAGES) != 3, (3, 1)))
    Path("data/images/val/bees/003.jpg").write_bytes(b"no photograph")
    with pytest.raises(UserError, match=r"bees/003\.jpg cannot be read(.|\n)*dvc repro verify"):
        write_comparison(chosen)
    assert not Path("metrics/summary.json").exists()


@pytest.mark.parametrize("rows", [slice(1, None), slice(-1), slice(IMAGES * 3), [0, *range(240)]])
def test_a_table_with_missing_or_repeated_rows_is_named(chosen, rows):
    path = "plots/predictions/alexnet-frozen.csv"
    pd.read_csv(path).iloc[rows].to_csv(path, index=False)
    with pytest.raises(UserError, match="alexnet-frozen.csv cannot be read: "):
        read_results(chosen)


def test_cells_that_were_validated_on_different_images_are_not_compared(chosen):
    write_cell("alexnet-frozen", np.ones((3, IMAGES - 2)))
    with pytest.raises(UserError, match="not validated on the same images"):
        read_results(chosen)


def test_features_of_other_images_are_refused(chosen):
    write_embeddings("alexnet", np.ones((IMAGES + 1, 8)), np.ones((60, 8)))
    with pytest.raises(UserError, match="not of the images that the cells were validated on"):
        compared(chosen)


def test_near_duplicates_are_found_by_content_and_accuracy_is_given_without_them(chosen):
    random = np.random.default_rng(2)
    val, train = random.normal(size=(IMAGES, 16)), random.normal(size=(60, 16))
    train[33] = 3 * val[7]
    write_embeddings("alexnet", val, train)
    write_cell("alexnet-probe", [np.arange(IMAGES) != 7] * 3)
    pairs = facts_of(chosen)["duplicates"]["pairs"]
    assert list(pairs.iloc[0]) == ["val/bees/007.jpg", "train/bees/033.jpg", "1.00"]
    assert table_of(chosen).loc["alexnet-probe", "accuracy_without_near_duplicates"] == 1


def test_without_pretrained_features_near_duplicates_are_not_searched_for(chosen):
    for path in Path("data/embeddings").iterdir():
        path.unlink()
    random_weights = chosen.model_copy(update={"weights": "random"})
    assert facts_of(random_weights)["duplicates"] is None
    assert "Near-duplicates of training images were not searched for" in report_of(random_weights)
    with pytest.raises(UserError, match="alexnet.safetensors cannot be read"):
        compared(chosen)


def test_a_difference_at_the_best_epoch_is_compared_with_the_last(chosen):
    worse = np.tile(np.arange(IMAGES) < 20, (3, 1))
    write_cell("alexnet-frozen", np.ones((3, IMAGES)), last=worse)
    write_cell("alexnet-finetune", worse, last=worse)
    write_cell("alexnet-probe", worse, last=np.ones((3, IMAGES)))
    differences = facts_of(chosen)["differences"]
    at_last = {
        (pair["more_accurate"], pair["less_accurate"]): pair["at_last"]
        for pair in differences["listed"]
    }
    assert at_last == {
        ("alexnet-frozen", "alexnet-finetune"): "none",
        ("alexnet-frozen", "alexnet-probe"): "opposite",
    }
    assert {pair["points"] for pair in differences["listed"]} == {50}
    (only_last,) = differences["only_last"]
    assert only_last["more_accurate"] == "alexnet-probe"


def test_pairs_that_are_not_distinguishable_come_with_what_it_would_take(chosen):
    write_equal_cells([np.arange(IMAGES) < 36] * 3)
    write_cell("alexnet-probe", [np.arange(IMAGES) < 37] * 3)
    differences = facts_of(chosen)["differences"]
    assert (differences["pairs"], differences["differ"]) == (3, 0)
    assert differences["half_width"] > 2.5
    assert f"{differences['images_needed']:.0f} validation images" in report_of(chosen)


def test_the_recommended_cell_is_the_most_accurate_with_what_it_is_compared_with(chosen):
    for cell, count, seconds in zip(CELLS, (20, 34, 36), (1, 40, 300), strict=True):
        times = [seconds, seconds + 1, seconds + 2]
        write_cell(cell, [np.arange(IMAGES) < count] * 3, seconds=times)
    recommendation = facts_of(chosen)["recommendation"]
    assert recommendation["best"].cell == "alexnet-probe"
    assert recommendation["worse"] == ["alexnet-finetune"]
    assert recommendation["similar"] == ["alexnet-frozen"]
    assert recommendation["faster"].cell == "alexnet-frozen"
    path = "metrics/timing/alexnet-frozen.json"
    write_json(path, {**read_json(path), "device": "a graphics card"})
    assert facts_of(chosen)["recommendation"]["faster"] is None


def test_of_equally_accurate_cells_the_better_last_epoch_decides_then_the_time(chosen):
    correct = np.tile(np.arange(IMAGES) < 36, (3, 1))
    write_equal_cells(correct)
    assert facts_of(chosen)["recommendation"]["best"].cell == "alexnet-probe"
    write_cell("alexnet-probe", correct, last=np.tile(np.arange(IMAGES) < 30, (3, 1)))
    assert facts_of(chosen)["recommendation"]["best"].cell == "alexnet-frozen"


def test_the_report_begins_with_a_summary_of_at_most_five_lines(chosen):
    write_cell("alexnet-probe", np.ones((1, IMAGES)), diverged=2, seconds=[300])
    for weights in ("imagenet", "random"):
        facts = facts_of(chosen.model_copy(update={"weights": weights}))
        title, *summary = report.render("report.md", facts).split("\n## ")[0].strip().split("\n")
        lines = list(filter(None, summary))
        assert title == "# Comparison" and 3 < len(lines) <= 5
        assert "alexnet-probe" in lines[0] and "100.0 %" in lines[0]
        assert "320 seconds" in lines[2] and "8,194 of 57,012,034" in lines[2]
        assert "2 runs diverged" in lines[-1]


def test_the_report_names_both_recipes(chosen):
    train = chosen.train.model_copy(update={"lr": 0.0625, "batch_size": 12, "momentum": 0.75})
    probe = chosen.probe.model_copy(update={"epochs": 33, "lr_gamma": 0.5, "lr_step": 11})
    recipes = report.recipes(
        SimpleNamespace(params=chosen.model_copy(update={"train": train, "probe": probe}))
    ).set_index("modes")
    assert list(recipes.index) == ["finetune and frozen", "probe"]
    of_train, of_probe = recipes.loc["finetune and frozen"], recipes.loc["probe"]
    assert of_train["learning rate"] == "0.0625" and of_train["batch size"] == "12"
    assert of_train["optimizer"] == "SGD, momentum 0.75"
    assert of_probe["epochs"] == "33" and of_probe["schedule"] == "× 0.5 every 11 epochs"
    assert set(recipes.loc["probe"]) <= html_texts(
        report.markdown_table(recipes.reset_index(), "left")
    )


def test_recall_is_given_per_class_and_cell(chosen):
    correct = np.ones((2, IMAGES), dtype=bool)
    correct[:, 0:20:2] = False  # half of the ants
    correct[0, 1] = False  # a bee, in one of two runs
    write_cell("alexnet-frozen", correct)
    recall = facts_of(chosen)["recall"]
    assert recall["classes"] == 2
    rows = recall["table"].set_index("cell")
    assert list(rows.index) == CELLS
    assert rows.loc["alexnet-frozen"].to_dict() == {"ants (20)": "50.0", "bees (20)": "97.5"}


def test_of_many_classes_the_lowest_recalls_are_given(chosen):
    classes = [f"class{number:02d}" for number in range(20)]
    write_images(IMAGES, counts={"images": 2, "train": 1, "val": 1, "in_both_splits": 0})
    write_equal_cells([np.arange(IMAGES) != 7] * 3, classes=classes)
    facts = facts_of(chosen.model_copy(update={"weights": "random"}))
    table = facts["recall"]["table"]
    assert facts["recall"]["classes"] == 20 and table.shape == (3, 1 + report.MOST_CLASSES)
    assert set(table["class07 (2)"]) == {"50.0"}


def test_the_most_misclassified_images_come_first_with_what_they_were_taken_for(chosen):
    correct = np.ones((3, IMAGES), dtype=bool)
    correct[:, 5] = False
    correct[0, 8] = False
    write_equal_cells(correct)
    rows = compared(chosen).misclassified.set_index("image")
    assert list(rows.index) == ["bees/005.jpg", "ants/008.jpg"]
    assert list(rows["predicted"]) == ["ants", "bees"]
    assert list(rows["wrong"]) == [9, 3] and set(rows["runs"]) == {9}
    assert set(rows["probability"].round(6)) == {0.2, 0.6}
    misclassified = facts_of(chosen)["misclassified"]
    assert (misclassified["images"], misclassified["always"]) == (2, 1)
    assert list(misclassified["table"]["most often taken for"]) == ["ants", "bees"]


def test_an_image_is_taken_for_the_class_that_most_runs_predict(chosen):
    for cell, predicted in zip(CELLS, ("wasps", "flies", "wasps"), strict=True):
        write_cell(cell, np.ones((1, IMAGES)))
        path = f"plots/predictions/{cell}.csv"
        table = pd.read_csv(path)
        table.loc[table["image"] == "ants/004.jpg", "predicted"] = predicted
        table.to_csv(path, index=False)
    rows = compared(chosen).misclassified
    assert list(rows["image"]) == ["ants/004.jpg"] and list(rows["predicted"]) == ["wasps"]


def test_no_misclassified_image_is_reported_as_such(chosen):
    write_equal_cells(np.ones((3, IMAGES)))
    facts = facts_of(chosen)
    assert facts["misclassified"]["images"] == 0
    assert "No run misclassified a validation image" in report.render("report.md", facts)


def test_the_report_names_what_each_cell_was_made_from_and_on(chosen):
    provenance = facts_of(chosen)["provenance"]
    assert provenance["cores"] == ["2"] and provenance["workers"] == ["2"]
    digests = provenance["digests"].set_index("digest of")
    assert list(digests.loc["alexnet-frozen"]) == ["012301230123", "89ab89ab89ab"]
    assert "at revision 0123456789ab." in report_of(chosen)


def test_a_narrow_terminal_gets_fewer_columns_and_full_names(chosen, monkeypatch, capsys):
    facts = facts_of(chosen)
    shown = {}
    for width in (80, 150):
        narrow = Console(width=width, force_terminal=True, soft_wrap=True, highlight=False)
        monkeypatch.setattr(terminal, "console", narrow)
        terminal.show(facts)
        shown[width] = re.split(r"\n(Of|None of) 3 pairs", capsys.readouterr().out)[0]
        assert all(cell in shown[width] for cell in CELLS)
        assert max(map(len, shown[width].splitlines())) <= width
    assert "57,012,034" in shown[150] and "57,012,034" not in shown[80]
