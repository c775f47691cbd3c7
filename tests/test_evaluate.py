"""`headswap evaluate`: a network on photographs whose classes are known."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import draw, edit, headswap, write_folder
from PIL import Image

from headswap import params
from headswap.compare.outputs import write_comparison
from headswap.io import read_csv, read_json

CELL = "tiny-finetune"


@pytest.fixture
def photos(own_trained):
    """Return a folder of the validation photographs; three ants are in the folder of bees, too."""
    shutil.copytree("data/images/val", "photos")
    for image in sorted(Path("photos/ants").iterdir())[:3]:
        shutil.copy(image, f"photos/bees/ant-{image.name}")
    return Path("photos")


def test_accuracy_recalls_and_confusion_are_those_of_the_predictions(photos, tmp_path):
    output, _ = headswap(
        *("evaluate", CELL, photos, "--csv", tmp_path / "found.csv"),
        *("--json", tmp_path / "found.json", "--picture", tmp_path / "found.png"),
    )
    table, figures = pd.read_csv(tmp_path / "found.csv"), read_json(tmp_path / "found.json")
    correct = table["label"] == table["predicted"]
    assert figures["accuracy"]["value"] == pytest.approx(correct.mean(), abs=1e-6)
    assert figures["accuracy"]["low"] < correct.mean() < figures["accuracy"]["high"] < 1
    recalls = correct.groupby(table["label"]).mean()
    assert {name: one["value"] for name, one in figures["recalls"].items()} == pytest.approx(
        recalls.to_dict(), abs=1e-6
    )
    assert figures["balanced_accuracy"]["value"] == pytest.approx(recalls.mean(), abs=1e-6)
    assert sum(pair["images"] for pair in figures["confusion"]) == (~correct).sum()
    assert f"accuracy: {correct.mean():.1%} (" in output
    assert all(len(line) <= 80 for line in output.splitlines()[:5])
    with Image.open(tmp_path / "found.png") as picture:
        assert min(picture.size) > 100


def test_photographs_of_the_project_and_earlier_looks_are_said(photos):
    output, _ = headswap("evaluate", CELL, photos)
    count = len(list(photos.rglob("*.png")))
    assert f"{count} of the photographs, or near-duplicates, are among those" in output
    assert "before" not in output
    output, _ = headswap("evaluate", CELL, photos)
    assert "Evaluations of these photographs before this one: 1 (metrics/test/looks.csv)" in output
    assert [row["cell"] for row in read_csv("metrics/test/looks.csv")] == [CELL, CELL]
    edit(models=["tiny"])
    write_comparison(params.load())
    headswap("report")
    page = Path("report.html").read_text("utf-8")
    assert page.count(f"<td>{CELL}</td><td>photos</td>") == 2
    assert page.index("were wrong at a last epoch") < page.index("<h2>Test sets</h2>")
    with Path("metrics/test/looks.csv").open("a") as looks:
        looks.write("<<<<<<< HEAD\n")
    for command in (("report",), ("evaluate", CELL, photos)):
        message = headswap(*command, code=1)[1]
        assert "looks.csv cannot be read" in message and "git checkout metrics/test" in message


def test_each_photograph_that_was_trained_on_is_listed_once(photos):
    shutil.copytree(Path(photos, "ants"), Path(photos, "bees", "again"))
    output, _ = headswap("evaluate", CELL, photos)
    count = int(re.search(r"too high: (\d+) of the", output)[1])
    assert f"… and {count - 5} more" in output


def test_new_photographs_are_no_cause_for_a_warning(own_trained):
    noise = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8)
    for label, pixels in zip(("ants", "bees"), noise, strict=True):
        Path("photos", label).mkdir(parents=True)
        Image.fromarray(pixels).save(f"photos/{label}/a.png")
    output, _ = headswap("evaluate", CELL, "photos")
    assert "too high" not in output and "before" not in output


def test_an_index_of_another_kind_says_nothing_about_the_photographs(photos):
    Path(photos, "index.csv").write_text("photo,comment\na.jpg,blurred\n")
    assert "photographs: 43" in headswap("evaluate", CELL, photos)[0]


@pytest.mark.parametrize("damage", [None, ("val/ants/002.png", "val/ants/0.png"), (",", ";")])
def test_an_index_of_headswap_counts_whatever_a_spreadsheet_did_to_it(own_trained, damage):
    path = Path("data/images/index.csv")
    rows = [line.split(",") for line in path.read_text().splitlines()]
    place = rows[0].index("group")
    text = "\n".join(",".join([*row[:place], row[place] or "g", *row[place + 1 :]]) for row in rows)
    path.write_text("\ufeff" + (text.replace(*damage) if damage else text), "utf-8")
    output, message = headswap("evaluate", CELL, "data/images", code=int(bool(damage)))
    assert "is not as it was verified" in message if damage else "in 1 group\n" in output


def test_classes_that_the_network_does_not_know_are_counted_and_left_out(photos):
    write_folder({f"wasps/{i}.jpg": draw("red") for i in range(3)}, photos)
    write_folder({"loose.jpg": draw("blue")}, photos)
    output, _ = headswap("evaluate", CELL, photos)
    assert "Left out: 3 of wasps, which the network does not know" in output
    assert "Left out: 1 in no folder of a class" in output
    shutil.rmtree("photos/ants")
    shutil.rmtree("photos/bees")
    _, message = headswap("evaluate", CELL, photos, code=1)
    assert "There is no test set in photos: no photograph of ants or bees" in message


def test_without_a_folder_the_test_set_of_the_manifest_is_evaluated(own_trained):
    _, message = headswap("evaluate", CELL, code=1)
    assert (
        "There is no test set in data/test" in message
        and "headswap evaluate photos/test" in message
    )
