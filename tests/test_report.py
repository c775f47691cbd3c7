"""The report: what it recommends, says and leaves out, and how it is shown on a terminal."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_cells import image_name, load_params, write_alexnet, write_cell, write_images
from markdown_it import MarkdownIt
from rich.console import Console

from headswap.compare import outputs, plots, report
from headswap.compare.comparison import compare
from headswap.compare.intervals import estimate_difference
from headswap.compare.outputs import write_comparison
from headswap.compare.results import read_results
from headswap.images.index import Index, Row
from headswap.io import read_json, write_json
from headswap.params import Cell

IMAGES = 40
FINETUNE, FROZEN, PROBE = (Cell("alexnet", mode) for mode in ("finetune", "frozen", "probe"))
CELLS = (FINETUNE, FROZEN, PROBE)
NO_PAIRS = pd.DataFrame(columns=["val", "train", "bits"])


@pytest.fixture
def chosen(tmp_path, monkeypatch):
    """Return the parameters of three cells of AlexNet, whose files are there."""
    monkeypatch.chdir(tmp_path)
    return write_alexnet(IMAGES)


def facts_of(chosen):
    results = read_results(chosen)
    return report.collect_facts(results, compare(results))


def report_of(chosen):
    return report.render("report.md", facts_of(chosen))


def section(title, text):
    """Return a section of the report."""
    (found,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return found


def line_of(start, text):
    """Return the entries of the table's line that begins with `start`."""
    (line,) = [line for line in text.splitlines() if re.match(rf"\| {re.escape(start)} ", line)]
    return [entry.strip() for entry in line.strip("|").split("|")]


def first(count, replicates=3):
    """Return correct predictions of the first images by every replicate."""
    return np.tile(np.arange(IMAGES) < count, (replicates, 1))


def html_texts(markdown):
    """Return all texts of a Markdown document as a reader sees them."""
    blocks = MarkdownIt().enable("table").parse(markdown)
    return {"".join(part.content for part in block.children or ()) for block in blocks}


def test_the_sections_follow_the_outline_and_every_picture_is_there(chosen, monkeypatch):
    monkeypatch.setattr(plots, "draw_png", lambda *_: b"")
    write_comparison(chosen)
    text = Path("metrics/comparison.md").read_text()
    assert re.findall("^## (.*)", text, re.MULTILINE) == [
        *("What is compared", "Accuracy and cost", "Differences", "Pictures", "Per class"),
        *("The photographs that were wrong", "Cautions", "How it was made"),
    ]
    assert text.count("How to read this") == 1
    named = {part.split(")")[0] for part in text.split("](../")[1:]}
    named.add("plots/comparison/frontier.png")  # of several networks
    assert named == {path.as_posix() for path in Path("plots/comparison").glob("*.png")}
    assert len(named) == 10


@pytest.mark.parametrize("weights", ["imagenet", "random"])
def test_the_summary_names_accuracy_and_costs_and_has_no_sixth_line(chosen, weights):
    write_cell(FROZEN, first(39), seconds=[200, 201, 202])
    write_cell(PROBE, first(IMAGES, replicates=2), diverged=1, seconds=[300, 300])
    text = report_of(chosen.model_copy(update={"weights": weights}))
    title, *summary = text.split("\n## ")[0].splitlines()
    lines = list(filter(None, summary))
    assert title == "# Comparison" and len(lines) == 5
    assert PROBE.name in lines[0] and "100.0 %" in lines[0]
    assert "310 seconds" in lines[2] and "8,194 of 57,012,034" in lines[2]
    assert f"Cheaper: {FROZEN.name}, 201 seconds" in lines[2]
    assert re.search(r"with a probability of 0\.\d+, and more images alone would not", lines[2])
    assert f"headswap predict {PROBE.name}" in lines[3] and "seeds" in lines[3]
    assert "1 run diverged" in lines[4]
    assert ("weights are random" in lines[4]) == (weights == "random")


def test_the_recommended_cell_is_the_first_and_what_it_is_compared_with(chosen):
    for cell, count, seconds in zip(CELLS, (20, 34, 36), (1, 40, 300), strict=True):
        write_cell(cell, first(count), seconds=[seconds, seconds + 1, seconds + 2])
    recommendation = facts_of(chosen)["recommendation"]
    assert recommendation["best"].cell == PROBE.name
    differ = {pair.other: pair.differ for pair in recommendation["pairs"]}
    assert differ == {FINETUNE.name: True, FROZEN.name: False}
    assert recommendation["cheaper"].cell == FROZEN.name
    path = "metrics/timing/alexnet-frozen.json"
    write_json(path, {**read_json(path), "device": "a graphics card"})
    facts = facts_of(chosen)
    assert facts["recommendation"]["cheaper"] is None
    assert "different conditions" in section("Cautions", report.render("report.md", facts))


def test_classes_and_recipes_are_named(chosen):
    train = chosen.train.model_copy(update={"lr": 0.0125, "batch_size": 17, "lr_step": 1})
    text = section("What is compared", report_of(chosen.model_copy(update={"train": train})))
    assert line_of("bees", text) == ["bees", "121", "83"]
    assert (
        "Recipe of finetune and frozen: SGD with momentum 0.9, learning rate 0.0125, × 0.1 every "
        f"1 epoch, batches of 17, {train.epochs} epochs." in text
    )
    assert "in one run, to features of center crops, by logistic regression" in text


def test_the_table_has_each_cell_with_its_figures(chosen):
    text = section("Accuracy and cost", report_of(chosen))
    row = compare(read_results(chosen)).table.set_index("cell").loc["alexnet-frozen"]
    entries = line_of("alexnet-frozen", text)
    mean, std = (100 * row[f"last_val_accuracy_{part}"] for part in ("mean", "std"))
    expected = line_of("(the best of 3, expected)", text)
    assert (
        expected[1] == f"{100 * facts_of(chosen)['recommendation']['best'].expected_accuracy:.1f}"
    )
    assert entries[1] == f"{mean:.1f} ± {std:.1f}"
    assert {"94.8", "8,194", "40"} < set(entries)
    assert "write-up" not in report_of(chosen.model_copy(update={"weights": "random"}))


def test_diverged_runs_are_counted_even_where_no_run_is_left(chosen):
    write_cell(FINETUNE, [[True, False] * (IMAGES // 2)], diverged=2)
    write_cell(FROZEN, np.empty((0, IMAGES)), diverged=3)
    text = section("Accuracy and cost", report_of(chosen))
    assert line_of("alexnet-finetune (2 of 3 diverged)", text)[1] == "50.0"
    assert line_of("alexnet-frozen (3 of 3 diverged)", text)[1] == "–"
    for cell in CELLS:
        write_cell(cell, np.empty((0, IMAGES)), diverged=3)
    assert "all 9 runs diverged" in report_of(chosen)


def test_a_single_replicate_is_reported_as_such(chosen):
    assert "single finished replicate" not in report_of(chosen)
    write_cell(FINETUNE, [np.arange(IMAGES) % 3 > 0])
    facts = facts_of(chosen)
    assert "single finished replicate" in section("Cautions", report.render("report.md", facts))
    assert "add seeds" in report.render("claims.md", facts)


def test_one_run_each_gives_no_verdict(chosen, monkeypatch, capsys):
    monkeypatch.setattr(plots, "draw_png", lambda *_: b"")
    for cell, count in zip(CELLS, (8, 40, 20), strict=True):
        write_cell(cell, first(count, replicates=1))
    write_comparison(chosen)
    for text in (Path("metrics/comparison.md").read_text(), capsys.readouterr().out):
        assert "One run each: no verdict between what is trained; alexnet-frozen leads:" in text
        assert "for other images only, not for other seeds" in text
        assert "add seeds in `params.yaml`" in text.lower()
        assert "1 inconclusive (one run each: add seeds)" in text
        assert not re.search("Use |istinguishable| beats |and other seeds|±", text)
    rows = read_json("plots/comparison/differences.json")
    assert {(row["differ"], row["holm"], row["images_needed"]) for row in rows} == {
        (False, False, None)
    }
    (verdict, *_) = read_json("metrics/claims.json")
    assert (verdict["verdict"], verdict["effects"]) == ("inconclusive", [])


def test_a_cell_with_one_run_among_others_is_in_no_verdict(chosen):
    write_cell(FINETUNE, first(8))
    write_cell(PROBE, first(36))
    write_cell(FROZEN, first(IMAGES, replicates=1), diverged=2)
    facts = facts_of(chosen)
    (pair,) = facts["differences"]["better"]
    assert (pair.cell, pair.other) == (PROBE.name, FINETUNE.name)
    assert facts["differences"]["pairs"] == facts["differences"]["survive"] == 1
    summary = report.render("summary.md", facts)
    assert "No clear winner; alexnet-frozen leads" in summary
    assert f"No verdict against {PROBE.name} and {FINETUNE.name}, with one seed" in summary


def test_a_difference_that_survives_no_correction_makes_no_cell_the_one_to_use(chosen):
    hard = np.random.default_rng(4).random((5, IMAGES)) < 0.35
    write_cell(FINETUNE, hard | (np.arange(IMAGES) < 12))
    for cell in (FROZEN, PROBE):
        write_cell(cell, hard | (np.arange(IMAGES) < 18))
    summary = report.render("summary.md", facts_of(chosen))
    assert "No clear winner; alexnet-probe leads" in summary
    assert f"Distinguishable from {FINETUNE.name} (none with Holm's correction for 3" in summary
    write_cell(FINETUNE, hard)
    assert "Use alexnet-probe:" in report.render("summary.md", facts_of(chosen))


@pytest.mark.parametrize(
    ("sure", "seconds", "leader", "words"),
    [
        (0.9, 99, FROZEN, "its loss"),
        (0.8, 8, FROZEN, "its time"),
        (0.8, 9, FINETUNE, "its place in `params.yaml`"),
    ],
)
def test_a_tie_says_by_what_it_was_broken(chosen, sure, seconds, leader, words):
    write_cell(PROBE, first(35))
    write_cell(FINETUNE, first(36), seconds=[9, 9, 9])
    write_cell(FROZEN, first(36), sure=sure, seconds=[seconds] * 3)
    (tied,) = {FINETUNE, FROZEN} - {leader}
    summary = report.render("summary.md", facts_of(chosen))
    assert f"{leader.name} leads" in summary
    assert f" Tied with {tied.name}; first by {words}." in summary
    write_cell(leader, first(37))
    assert "Tied" not in report.render("summary.md", facts_of(chosen))


def test_what_always_answering_the_largest_class_would_reach_is_said(chosen):
    classes = ["ants"] * 9 + ["bees"]
    is_ant = np.array([classes[number % 10] == "ants" for number in range(IMAGES)])
    for bees in (False, True):
        for cell in CELLS:  # classes go by the images' places
            write_cell(cell, [is_ant | bees] * 3, classes=classes)
        facts = facts_of(chosen.model_copy(update={"weights": "random"}))
        row = facts["accuracies"].set_index("cell").loc["(always ants)"]
        assert row["last epoch, %"] == "90.0"
        assert row["balanced, % (95 %)"] == "50.0"
        summary = report.render("summary.md", facts)
        assert "Always answering ants, the largest class: 90.0 %" in summary
        assert ("which alexnet-probe does not clearly exceed" in summary) != bees


def test_pairs_that_are_not_distinguishable_come_with_what_it_would_take(chosen):
    for cell, count in zip(CELLS, (36, 35, 37), strict=True):
        write_cell(cell, first(count))
    facts = facts_of(chosen)
    differences = facts["differences"]
    assert (differences["pairs"], differences["differ"]) == (3, 0)
    assert differences["half_width"] > 0.025
    clearest = estimate_difference(first(37) ^ first(35))
    assert differences["images_needed"] == clearest.images_needed > IMAGES
    text = report.render("differences.md", facts)
    assert "3 pairs. None is distinguishable" in text
    assert f"{clearest.images_needed} validation" in text


def test_modes_that_differ_come_with_their_times_and_whether_they_survive_holm(chosen):
    worse = np.tile(np.arange(IMAGES) < 20, (3, 1))
    write_cell(FROZEN, worse)
    write_cell(FINETUNE, np.ones((3, IMAGES)))
    write_cell(PROBE, worse)
    text = section("Differences", report_of(chosen))
    assert "2 are distinguishable." in text and "\\*" not in text
    assert re.search(
        r"finetune beats alexnet-probe by 50.0 points \(.*\), with 81 in place of 7.7 sec", text
    )
    assert "not distinguishably better" not in text
    hard = np.random.default_rng(4).random((5, IMAGES)) < 0.35
    for cell, easy in zip(CELLS, (12, 17, 22), strict=True):
        write_cell(cell, hard | (np.arange(IMAGES) < easy))
    text = section("Differences", report_of(chosen))
    assert text.count("\\*") == 2 and ", 1 with Holm's correction for all 3 pairs" in text
    assert "Training is not distinguishably better than the probe of alexnet." in text


def test_a_cheaper_cell_is_good_enough_where_that_is_sure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = 3000
    chosen = load_params(["alexnet", "resnet18"]).model_copy(update={"modes": []})
    write_images(0)
    equal = np.arange(images)[None] % 10 > 0
    small, large = chosen.cells()
    names = [f"val/{image_name(number)}" for number in range(images)]
    index = Index(
        Path(), [Row(name, "val", name[4:8], "", 1, 1, 1, "", "0", 1, "") for name in names]
    )
    write_cell(small, equal, curves=[])
    write_cell(large, equal | (np.arange(images) == 0), curves=[])
    monkeypatch.setattr("headswap.compare.results.find_near_duplicates", lambda *_: NO_PAIRS)
    results = read_results(chosen, index)
    facts = report.collect_facts(results, compare(results))
    summary = report.render("summary.md", facts)
    assert "Cheaper, and good enough: alexnet-probe" in summary
    assert line_of("alexnet-probe", report.render("report.md", facts).split("## Differences")[1])[
        3:
    ] == ["1.00", "–"]


def test_a_screening_ends_in_the_commands_that_confirm_it(chosen):
    screening = chosen.model_copy(update={"modes": []})
    write_cell(PROBE, first(36, replicates=1), curves=[])
    text = report_of(screening)
    assert text.endswith("    headswap choose 1\n    dvc repro\n")
    facts = facts_of(screening)
    for models, says in (
        (["alexnet"], "To train this network, too: `headswap choose 1`"),
        ([*"ab"], "To train both networks: `headswap choose 2`"),
        ([*"abcd"], "To train the three most accurate networks: `headswap choose 3`"),
    ):
        facts["params"] = screening.model_copy(update={"models": models})
        summary = report.render("summary.md", facts)
        assert says in summary and "The only cell is alexnet-probe" in summary
    assert "curves.png" not in text and "Recipe" not in text
    assert "headswap choose" not in report_of(chosen)


def test_few_groups_to_validate_on_are_said(chosen):
    facts = facts_of(chosen)
    assert "groups" not in report.render("summary.md", facts)
    for groups, said in ((2, True), (12, False)):
        summary = report.render("summary.md", facts | {"groups": groups})
        assert f"which count as {groups} groups" in summary
        assert ("Only 2 groups to validate on" in summary) == said
        assert "add validation images of other groups" in summary


def test_claims_are_told_only_where_one_is_tested(chosen):
    facts = facts_of(chosen)
    text = section("Differences", report.render("report.md", facts))
    assert text.count("not in the matrix") == 1  # one line for seven claims
    claimed = "Freezing all but the last layer raises AlexNet's accuracy."
    assert "inconclusive" in line_of(claimed, text)[1] and text.count("| inconclusive") == 1
    write_images(IMAGES, {"images": 88, "train": 48, "val": 40})
    assert "write-up" not in report_of(chosen)


def test_recalls_confusions_and_a_constant_answer_are_given_by_class(chosen):
    correct = np.ones((3, IMAGES), dtype=bool)
    correct[:, 1:20:2] = False  # half of the bees
    write_cell(FROZEN, correct)
    write_cell(FINETUNE, np.tile(np.arange(IMAGES) % 2 == 0, (3, 1)))  # ants throughout
    write_cell(PROBE, correct, last=first(IMAGES // 4))
    text = section("Per class", report_of(chosen))
    assert line_of("bees", text)[1:3] == ["20", "50.0 (28.4 to 71.6)"]
    assert line_of("ants", text)[2].startswith("100.0 (")
    assert "What alexnet-frozen confuses most, in images per run: bees taken for ants 10.0" in text
    assert "alexnet-finetune answers one class throughout (ants) in 3 runs." in text
    classes = [f"class{number:02d}" for number in range(40)]
    for cell in CELLS:
        write_cell(cell, [np.arange(IMAGES) != 7] * 3, classes=classes)
    facts = facts_of(chosen.model_copy(update={"weights": "random"}))["classwise"]
    assert len(facts["images"]) == 40 and len(facts["recalls"]) == 20
    assert {recall.value for recall in facts["recalls"]["class07"]} == {0.0}


def test_the_surest_predictions_are_as_accurate_as_is_said(chosen):
    right = np.arange(IMAGES) % 10 > 0
    for cell in CELLS:
        write_cell(cell, [right] * 3, sure=np.where(right | (np.arange(IMAGES) > 20), 0.9, 0.6))
    text = section("Per class", report_of(chosen))
    assert re.search("Of the 92.5 % of the images of which it is surest, .* has 97.3 % right", text)


def test_the_most_misclassified_photographs_come_first(chosen):
    correct = np.ones((3, IMAGES), dtype=bool)
    correct[:, 5] = False
    correct[0, 8] = False
    for cell in CELLS:
        write_cell(cell, correct)
    text = section("The photographs that were wrong", report_of(chosen))
    assert line_of("bees/005.jpg", text)[1:4] == ["bees", "ants", "9 of 9"]
    assert line_of("ants/008.jpg", text)[1:4] == ["ants", "bees", "3 of 9"]
    assert text.index("bees/005.jpg") < text.index("ants/008.jpg")
    for cell in CELLS:
        write_cell(cell, np.ones((3, IMAGES)))
    assert "|" not in section("The photographs that were wrong", report_of(chosen))


def test_cells_that_were_trained_while_the_machine_was_busy_are_named(chosen):
    for cell in (FINETUNE, FROZEN):
        path = f"metrics/timing/{cell.name}.json"
        timing = read_json(path)
        timing["wall_seconds_per_run"] = [1.1 * value for value in timing["seconds_per_run"]]
        write_json(path, timing)
    text = section("Cautions", report_of(chosen))
    assert f"at least 1.25 times as long): {PROBE.name}." in text


@pytest.mark.parametrize("timed", ["frozen", "embed"])
def test_what_the_cells_were_made_on_is_said_for_those_that_share_it(chosen, timed):
    made = section("How it was made", report_of(chosen))
    assert "- All cells: python 1.0, headswap 1.0, torch 1.0," in made
    assert "processor a processor, cores 2, device cpu," in made and "0123456789ab" in made
    path = f"metrics/timing/alexnet-{timed}.json"
    write_json(path, {**read_json(path), "device": "a graphics card"})
    made = section("How it was made", report_of(chosen))
    cell = f"alexnet-{timed.replace('embed', 'probe')}"
    device = {"frozen": "a graphics card", "embed": "cpu and a graphics card"}[timed]
    assert "not all in the same way" in made
    assert re.search(rf"- {cell}: .*device {device},", made)
    assert made.count("device cpu,") == 1


def test_markdown_shows_names_as_they_are(chosen):
    names = ("01", "None", "under_$5_or_$", "*a|b* <i>")
    for cell in CELLS:
        write_cell(cell, [np.arange(IMAGES) >= len(names)] * 3, classes=names)
    write_images(IMAGES, {"images": 9, "train": 9, "val": 40}, names)
    texts = html_texts(report_of(chosen.model_copy(update={"weights": "random"})))
    assert set(names) <= texts  # of the recalls and of the misclassified images


def test_a_narrow_terminal_gets_fewer_columns_but_no_shorter_names(chosen, monkeypatch, capsys):
    facts = facts_of(chosen)
    tables = {}
    for width in (80, 150):
        console = Console(width=width, force_terminal=True, highlight=False)
        monkeypatch.setattr(outputs, "console", console)
        outputs.print_comparison(facts)
        shown = capsys.readouterr().out
        assert max(map(len, shown.splitlines())) <= width
        assert f"The report: metrics/comparison.md{', with' * (width == 80)}" in shown
        tables[width] = shown.split("Accuracy on the validation set")[1]
        tables[width] = tables[width].split("\n- ")[0].splitlines()
        for cell in CELLS:
            assert any(cell.name in line for line in tables[width])
    assert any("57,012,034" in line for line in tables[150])
    assert not any("57,012,034" in line for line in tables[80])
