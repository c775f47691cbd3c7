"""The facts of the report: what it recommends, counts and leaves out."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fake_cells import write_alexnet, write_cell
from markdown_it import MarkdownIt
from rich.console import Console

from headswap.compare import report, terminal
from headswap.compare.comparison import compare
from headswap.compare.intervals import contrast
from headswap.compare.results import read_results
from headswap.io import read_json, write_json
from headswap.params import Cell

IMAGES = 40
FINETUNE, FROZEN, PROBE = (Cell("alexnet", mode) for mode in ("finetune", "frozen", "probe"))
CELLS = (FINETUNE, FROZEN, PROBE)


@pytest.fixture
def chosen(workspace):
    """Return the parameters of three cells of AlexNet, whose files are there."""
    return write_alexnet(IMAGES)


def compared(chosen):
    return compare(read_results(chosen))


def facts_of(chosen):
    results = read_results(chosen)
    return report.facts(results, compare(results))


def first(count, replicates=3):
    """Return correct predictions of the first images by every replicate."""
    return np.tile(np.arange(IMAGES) < count, (replicates, 1))


def html_texts(markdown):
    """Return all texts of a Markdown document as a reader sees them."""
    blocks = MarkdownIt().enable("table").parse(markdown)
    return {"".join(part.content for part in block.children or ()) for block in blocks}


def test_the_recommended_cell_is_the_most_accurate_and_what_it_is_compared_with(chosen):
    for cell, count, seconds in zip(CELLS, (20, 34, 36), (1, 40, 300), strict=True):
        write_cell(cell, first(count), seconds=[seconds, seconds + 1, seconds + 2])
    recommendation = facts_of(chosen)["recommendation"]
    assert recommendation["best"].cell == PROBE.name
    assert recommendation["worse"] == [FINETUNE.name]
    assert recommendation["similar"] == [FROZEN.name]
    assert recommendation["faster"].cell == FROZEN.name
    path = "metrics/timing/alexnet-frozen.json"
    write_json(path, {**read_json(path), "device": "a graphics card"})
    assert facts_of(chosen)["recommendation"]["faster"] is None


def test_of_equally_accurate_cells_the_last_epoch_decides_and_then_the_time(chosen):
    for cell in CELLS:
        write_cell(cell, first(36))
    assert facts_of(chosen)["recommendation"]["best"].cell == PROBE.name
    write_cell(PROBE, first(36), last=first(30))
    assert facts_of(chosen)["recommendation"]["best"].cell == FROZEN.name


@pytest.mark.parametrize("weights", ["imagenet", "random"])
def test_the_summary_names_accuracy_and_costs_and_has_no_sixth_line(chosen, weights):
    write_cell(FROZEN, first(39), seconds=[200, 201, 202])
    write_cell(PROBE, first(IMAGES, replicates=1), diverged=2, seconds=[300])
    facts = facts_of(chosen.model_copy(update={"weights": weights}))
    title, *summary = report.render("report.md", facts).split("\n## ")[0].splitlines()
    lines = list(filter(None, summary))
    assert title == "# Comparison" and len(lines) == 5
    assert PROBE.name in lines[0] and "100.0 %" in lines[0]
    assert "320 seconds" in lines[2] and "8,194 of 57,012,034" in lines[2]
    assert FROZEN.name in lines[3]
    assert "2 runs diverged" in lines[4]


def test_each_mode_has_its_recipe(chosen):
    probe = chosen.probe.model_copy(update={"epochs": 33, "lr_gamma": 0.5, "lr_step": 11})
    chosen = chosen.model_copy(update={"probe": probe, "modes": ["frozen"]})
    recipes = report.recipes(SimpleNamespace(params=chosen)).set_index("modes")
    assert list(recipes.index) == ["frozen", "probe"]
    assert recipes.loc["probe", "epochs"] == "33"
    assert recipes.loc["probe", "schedule"] == "× 0.5 every 11 epochs"
    assert recipes.loc["frozen", "epochs"] == str(chosen.train.epochs)


def test_the_epoch_and_the_last_loss_are_means_over_the_finished_runs(chosen):
    losses = {0: (0.2, 0.3), 1: (0.8, 0.5), 2: (0.7, 99.0)}
    curves = [
        [seed, epoch, split, loss + (split == "train"), 0.5]
        for seed, of_seed in losses.items()
        for epoch, loss in enumerate(of_seed)
        for split in ("val", "train")
    ]
    write_cell(PROBE, np.ones((2, IMAGES)), diverged=1, curves=curves)
    row = compared(chosen).table.set_index("cell").loc[PROBE.name]
    assert row["val_loss_last_mean"] == pytest.approx(0.4)
    assert row["best_epoch_mean"] == 1


def test_the_interval_of_the_selection_optimism_is_not_negative_and_needs_two_runs(chosen):
    last = np.ones((3, IMAGES), dtype=bool)
    last[0, :8] = False
    write_cell(FROZEN, np.ones((3, IMAGES)), last=last)
    write_cell(PROBE, np.ones((1, IMAGES)))
    limits = compared(chosen).table.set_index("cell").filter(like="selection_optimism_ci")
    assert limits.loc[FROZEN.name, "selection_optimism_ci_low"] == 0
    assert limits.loc[FROZEN.name, "selection_optimism_ci_high"] > 0.2
    assert limits.loc[PROBE.name].isna().all()


def test_pairs_that_are_not_distinguishable_come_with_what_it_would_take(chosen):
    for cell, count in zip(CELLS, (36, 35, 37), strict=True):
        write_cell(cell, first(count))
    facts = facts_of(chosen)
    differences = facts["differences"]
    assert (differences["pairs"], differences["differ"]) == (3, 0)
    assert differences["half_width"] > 2.5
    clearest = contrast(first(37) ^ first(35))
    assert differences["images_needed"] == clearest.images_needed > IMAGES
    assert f"{clearest.images_needed} validation" in report.render("differences.md", facts)


def test_of_many_classes_the_lowest_recalls_are_given(chosen):
    classes = [f"class{number:02d}" for number in range(20)]
    for cell in CELLS:
        write_cell(cell, [np.arange(IMAGES) != 7] * 3, classes=classes)
    recall = facts_of(chosen.model_copy(update={"weights": "random"}))["recall"]
    assert recall["classes"] == 20
    assert recall["table"].shape == (3, 1 + report.MOST_CLASSES)
    assert set(recall["table"]["class07 (2)"]) == {"50.0"}


def test_an_image_is_taken_for_the_class_that_most_runs_predict(chosen):
    for cell, predicted in zip(CELLS, ("wasps", "flies", "wasps"), strict=True):
        write_cell(cell, np.ones((1, IMAGES)))
        path = f"plots/predictions/{cell.name}.csv"
        table = pd.read_csv(path)
        table.loc[table["image"] == "ants/004.jpg", "predicted"] = predicted
        table.to_csv(path, index=False)
    rows = compared(chosen).misclassified
    assert list(rows["image"]) == ["ants/004.jpg"]
    assert list(rows["predicted"]) == ["wasps"]
    assert list(rows["wrong"]) == list(rows["runs"]) == [3]


def test_markdown_shows_names_as_they_are(chosen):
    names = ("01", "None", "under_$5_or_$", "*a|b* <i>")
    for cell in CELLS:
        write_cell(cell, [np.arange(IMAGES) >= len(names)] * 3, classes=names)
    facts = facts_of(chosen.model_copy(update={"weights": "random"}))
    texts = html_texts(report.render("report.md", facts))
    assert {f"{name} (10)" for name in names} <= texts  # the headings of the recalls
    assert set(names) <= texts  # the labels of the misclassified images


def test_a_narrow_terminal_gets_fewer_columns_but_no_shorter_names(chosen, monkeypatch, capsys):
    facts = facts_of(chosen)
    tables = {}
    for width in (80, 150):
        console = Console(width=width, force_terminal=True, highlight=False)
        monkeypatch.setattr(terminal, "console", console)
        terminal.show(facts)
        shown = capsys.readouterr().out
        assert max(map(len, shown.splitlines())) <= width
        assert f"The report: metrics/comparison.md{', with' * (width == 80)}" in shown
        tables[width] = shown.split("Accuracy on the validation set")[1]
        tables[width] = tables[width].split("\n- ")[0].splitlines()
        for cell in CELLS:
            assert any(cell.name in line for line in tables[width])
    assert any("57,012,034" in line for line in tables[150])
    assert not any("57,012,034" in line for line in tables[80])


def test_without_claims_there_is_no_text_on_them():
    assert report.render("claims.md", {"claims": report.claims([])}) == ""


def test_cells_that_were_trained_while_the_machine_was_busy_are_named(chosen):
    for cell in (FINETUNE, FROZEN):
        path = f"metrics/timing/{cell.name}.json"
        timing = read_json(path)
        timing["wall_seconds_per_run"] = [1.1 * value for value in timing["seconds_per_run"]]
        write_json(path, timing)
    facts = facts_of(chosen)
    assert facts["run_time"]["busy"] == [PROBE.name]
    assert f"at least 1.25 times as long: {PROBE.name}." in report.render("report.md", facts)
