"""What the pictures show: marks and texts of the SVG that a template makes of rows."""

import contextlib
import functools
import itertools
import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import vl_convert
from fake_cells import COSTS, TRAINED, load_params, write_cell, write_images
from PIL import Image

from headswap.compare import plots
from headswap.compare.comparison import compare, most_misclassified
from headswap.compare.plot_rows import json_records
from headswap.compare.results import read_results

IMAGES = 40
SVG = "{http://www.w3.org/2000/svg}"
NAMES = (
    *("accuracy", "confusion", "costs", "curves", "differences", "frontier", "reliability", "time"),
    "unsure",
)
MODES = {"finetune": "#0072B2", "frozen": "#E69F00", "probe": "#009E73"}
"""The hue of each mode, from Okabe and Ito's palette."""
LONG = [f"a_network_with_a_very_long_name_indeed_{number}" for number in range(4)]
DIVERGED = {"best": np.empty((0, IMAGES)), "diverged": 3}


def curves_of(loss, accuracy, epochs):
    """Return a cell's curves, the same for all three seeds."""
    return [
        [seed, epoch, split, loss, accuracy(epoch)]
        for seed in range(3)
        for epoch in range(epochs)
        for split in ("train", "val")
    ]


PERFECT = {"best": np.ones((3, 153)), "curves": curves_of(0.5, lambda n: 0.63 + 0.007 * n, 3)}
MATRICES = {
    "usual": {"models": ["resnet18", "alexnet"]},
    "frozen diverged": {"frozen": DIVERGED},
    "all diverged": dict.fromkeys(MODES, DIVERGED),
    "one run each": {
        mode: {"best": np.arange(IMAGES)[None] < 10 * n} for n, mode in enumerate(MODES)
    },
    "perfect": {"images": 153, **dict.fromkeys(MODES, PERFECT)},
    "exploding": {"frozen": {"curves": curves_of(1000.0, lambda n: 0.5, 2)}},
    "long names": {"models": LONG},
    "many": {"models": [*LONG, "alexnet", "resnet18", *(f"net_{number}" for number in range(3))]},
    "ten classes": {
        "classes": (
            "under_$5_or_$",
            'a <b> & | "c"',
            "αράχνη",
            "Пчела",
            *map("species {}".format, range(6)),
        )
    },
    "hundred classes": {"classes": tuple(f"c{number:02d}" for number in range(100)), "images": 200},
}
"""Matrices of cells with random results, by what is special about them."""


class Picture:
    """A picture as it is drawn from its template and rows."""

    def __init__(self, name, rows):
        specification = json.loads((plots.TEMPLATES / f"{name}.json").read_text())
        specification["data"]["values"] = rows
        self.title = specification["title"]["text"]
        self.svg = vl_convert.vegalite_to_svg(specification)
        self.root = ElementTree.fromstring(self.svg)

    @property
    def texts(self):
        """All texts, each line one."""
        elements = self.root.iter(f"{SVG}text")
        lines = (list(element.iter(f"{SVG}tspan")) or [element] for element in elements)
        return [line.text for of_text in lines for line in of_text if line.text]

    def marks(self, kind, colour=""):
        """Return the marks of data of a kind (``symbol``, ``rect``, ``line`` …) and a colour."""
        return [
            mark
            for group in self.root.iter(f"{SVG}g")
            if group.get("class", "").startswith(f"mark-{kind} role-mark")
            for mark in group
            if colour in (*mark.attrib.values(), "")
        ]


def write_matrix(models=("resnet18",), classes=("ants", "bees"), images=IMAGES, **cells):
    """Write cells with random results; return what the comparison makes of them."""
    random = np.random.default_rng(4)
    write_images(images, {"images": 99, "train": 9, "val": images}, classes)
    chosen = load_params(list(models), weights="random")
    for cell in chosen.cells():
        correct = random.random((3, images)) < random.random()
        write_cell(cell, **{"best": correct, "classes": classes, **cells.get(cell.mode, {})})
    results = read_results(chosen)
    return results, compare(results)


def in_order(results, comparison):
    return [results.cells[cell] for cell in comparison.in_order["cell"]]


@pytest.fixture(scope="module")
def rows_of(tmp_path_factory):
    """Return a function that gives the rows of a picture of one of the `MATRICES`."""

    @functools.cache
    def of_matrix(matrix):
        with pytest.MonkeyPatch.context() as patch, contextlib.chdir(tmp_path_factory.mktemp("m")):
            for number, model in enumerate(MATRICES["many"]["models"]):
                costs = {key: (number + 1) * value for key, value in COSTS["alexnet"].items()}
                patch.setitem(COSTS, model, costs)
                patch.setitem(TRAINED, model, 10)
            patch.setattr(plots, "draw_png", lambda *_: b"")
            results, comparison = write_matrix(**MATRICES[matrix])
            no_gallery = comparison.misclassified[:0]
            plots.write_pictures(comparison.rows, in_order(results, comparison), no_gallery)
            paths = Path("plots/comparison").glob("*.json")
            return {path.stem: json.loads(path.read_text()) for path in paths}

    return lambda name, matrix="usual": of_matrix(matrix)[name]


@pytest.fixture(scope="module")
def drawn(rows_of):
    """Return a function that draws a picture of one of the `MATRICES`, once."""
    return functools.cache(lambda name, matrix="usual": Picture(name, rows_of(name, matrix)))


@pytest.mark.slow
@pytest.mark.parametrize("matrix", ["usual", "all diverged"])
def test_every_picture_is_written_as_png_and_the_same_rows_make_the_same_bytes(
    tmp_path, monkeypatch, matrix
):
    monkeypatch.chdir(tmp_path)
    results, comparison = write_matrix(**MATRICES[matrix])
    gallery = plots.gallery_rows(comparison.misclassified, 0)
    found = []
    for _ in range(2):
        plots.write_pictures(comparison.rows, in_order(results, comparison), gallery)
        paths = sorted(Path("plots/comparison").iterdir())
        found.append({path.name: path.read_bytes() for path in paths})
    for name in (*NAMES, "gallery"):
        with Image.open(f"plots/comparison/{name}.png") as image:
            assert min(image.size) > 50
    assert len(found[0]) == 19 and found[0] == found[1]


@pytest.mark.parametrize("name", NAMES)
def test_every_picture_has_a_title_and_only_speaks_of_what_is_there(drawn, name):
    texts = drawn(name).texts
    assert drawn(name).title in texts
    assert "write-up" not in " ".join(texts)


def test_cells_stand_in_the_order_of_their_accuracies(drawn, rows_of):
    rows = [row for row in rows_of("accuracy") if row["what"] == "mean"]
    accuracies = [row["accuracy"] for row in rows]
    assert len(rows) == 6 and accuracies == sorted(accuracies, reverse=True)
    cells = [row["cell"] for row in rows]
    assert [text for text in drawn("accuracy").texts if text in cells] == cells
    for name in ("confusion", "reliability", "unsure"):
        assert list(dict.fromkeys(row["cell"] for row in rows_of(name))) == cells
    trained = [cell for cell in cells if not cell.endswith("probe")]
    assert list(dict.fromkeys(row["cell"] for row in rows_of("curves"))) == trained
    assert {row["note"] for row in rows_of("curves")} == {""}  # none is left out that has a curve


def test_of_many_cells_a_picture_says_which_it_shows(rows_of):
    rows = rows_of("accuracy", "many")
    assert len({row["cell"] for row in rows}) == 20
    assert "The 20 most accurate of 27 cells." in Picture("accuracy", rows).texts
    assert len({row["cell"] for row in rows_of("confusion", "many")}) == 12
    assert len({row["cell"] for row in rows_of("time", "many")}) == 27
    assert {row["network"] for row in rows_of("time", "many")} == {"one of 9"}
    shown = [row for row in rows_of("differences", "many") if row["shown"]]
    assert len(shown) == 20 + 20


def test_costs_have_readable_units(drawn):
    texts = drawn("costs").texts
    order = [
        *("parameters, millions", "trained parameters, millions"),
        *("multiply-accumulates, billions", "layers"),
    ]
    assert [text for text in texts if text in order] == order


@pytest.mark.slow
def test_of_many_networks_a_mode_has_its_hue_and_each_model_its_shape(drawn):
    for mode, colour in MODES.items():
        points = drawn("time", "long names").marks("symbol", colour)
        assert len(points) == len(LONG), mode
    shapes = {mark.get("d") for mark in drawn("time", "long names").marks("symbol")}
    assert len(shapes) == len(LONG)


@pytest.mark.parametrize("name", ["time", "costs"])
def test_a_recipe_of_a_network_has_a_shape_of_its_own(rows_of, name):
    rows = rows_of(name)
    several = [row | {"recipe": recipe} for row in rows for recipe in ("", "adamw")]
    few, many = (
        {mark.get("d") for mark in Picture(name, of).marks("symbol")} for of in (rows, several)
    )
    assert len(many) == 2 * len(few) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_long_names_are_not_cut(drawn, name):
    texts = " ".join(drawn(name, "long names").texts)
    assert "…" not in texts
    joined = texts.replace("very_ long", "very_long")
    assert all(f"_{number}" in joined for number in range(4)) or name in (
        "confusion",
        "frontier",
    )  # which name some


def test_epochs_are_whole_numbers_from_1(drawn, rows_of):
    rows = rows_of("curves", "perfect")
    assert {row["epoch"] for row in rows} == {1, 2, 3}
    numbers = [text for text in drawn("curves", "perfect").texts if re.fullmatch(r"\d+", text)]
    assert {"1", "2", "3"} <= set(numbers)
    panel = numbers[: numbers.index("3") + 1]
    assert len(panel) == len(set(panel)), "an epoch is labelled twice"


@pytest.mark.parametrize("name", ["accuracy", "time", "curves"])
def test_axes_of_accuracy_have_true_percentages(drawn, name):
    texts = drawn(name, "perfect").texts
    labels = [float(text[:-1]) for text in texts if re.fullmatch(r"[\d.]+%", text)]
    steps = {round(after - before, 6) for before, after in itertools.pairwise(labels)}
    assert len(steps) == 1 and 0 not in steps


def test_an_exploding_loss_leaves_the_other_cells_readable(drawn, rows_of):
    rows = rows_of("curves", "exploding")
    assert max(row["loss"] for row in rows) == 1000
    (limit,) = {row["loss_limit"] for row in rows}
    assert limit == pytest.approx(2 * math.log(2), abs=1e-5)
    picture = drawn("curves", "exploding")
    assert "1,000" not in picture.texts and "▲ up to 1,000" in picture.texts
    triangles = picture.marks("symbol", MODES["frozen"])
    assert len(triangles) > len(picture.marks("symbol", MODES["finetune"]))


def test_the_legend_of_the_curves_explains_validation_above_training(drawn):
    texts = drawn("curves").texts
    assert any("augmented" in text and "dropout" in text for text in texts)
    assert {"training", "validation, finetune", "validation, frozen"} <= set(texts)


def test_ten_class_names_are_readable_in_the_confusion_matrix(drawn):
    picture = drawn("confusion", "ten classes")
    assert all(picture.texts.count(name) >= 2 for name in MATRICES["ten classes"]["classes"])
    sizes = [float(size) for size in re.findall(r'font-size="([\d.]+)px"', picture.svg)]
    assert min(sizes) >= 8


def test_of_a_hundred_classes_the_confusion_matrix_says_which_it_shows(drawn):
    texts = drawn("confusion", "hundred classes").texts
    assert any("20 most confused of 100 classes" in text for text in texts)


def test_numbers_of_a_confusion_matrix_add_up_to_the_images_of_a_class(drawn):
    texts = drawn("confusion").texts
    numbers = [float(text) for text in texts if re.fullmatch(r"\d+\.\d", text)]
    assert sum(numbers) == pytest.approx(6 * IMAGES, abs=0.5)


@pytest.mark.parametrize("name", ["accuracy", "confusion", "curves", "reliability"])
def test_a_cell_without_a_finished_run_keeps_its_place(drawn, name):
    texts = drawn(name, "frozen diverged").texts
    assert "null" not in texts and "NaN" not in " ".join(texts)
    assert any("frozen" in text for text in texts)
    if name != "curves":
        assert any("no finished run" in text for text in texts)


@pytest.mark.parametrize("name", NAMES)
def test_a_matrix_without_any_finished_run_says_so(drawn, name):
    texts = " ".join(drawn(name, "all diverged").texts)
    assert re.search("no finished|No cell has a finished|No two cells", texts)
    assert "null" not in texts and "NaN" not in texts


def test_differences_are_black_where_distinguishable_and_never_from_one_run_each(drawn):
    picture, one_run = (
        drawn("differences", matrix) for matrix in ("frozen diverged", "one run each")
    )
    assert any("black: distinguishable" in text for text in picture.texts)
    assert any("one run each: for other images only, no verdict" in text for text in one_run.texts)
    assert one_run.marks("symbol", "#8c8c8c") and not one_run.marks("symbol", "black")


def test_the_gallery_shows_the_predicted_class_and_the_worst_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = np.ones((3, IMAGES), dtype=bool)
    wrong[:, 7] = wrong[0, 4] = False
    results, _ = write_matrix(**{mode: {"best": wrong} for mode in MODES})
    picture = Picture("gallery", json_records(plots.gallery_rows(most_misclassified(results), 0)))
    first = picture.texts.index("007.jpg")
    assert picture.texts[first + 1 : first + 4] == [
        *("true class: bees", "predicted: ants", "9 of 9 runs wrong")
    ]
    assert first < picture.texts.index("004.jpg")
    assert picture.svg.count("<image") == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_revisions_are_kept_apart_and_one_is_not_named(rows_of, name):
    rows = rows_of(name)
    one = Picture(name, [{**row, "rev": "workspace"} for row in rows])
    assert "workspace" not in " ".join(one.texts)
    both = Picture(name, [{**row, "rev": rev} for rev in ("main", "workspace") for row in rows])
    assert {"main", "workspace"} <= set(" ".join(both.texts).split())
    kinds = ("symbol", "rect", "line", "rule", "text")
    ours, all_of_them = (sum(len(p.marks(kind)) for kind in kinds) for p in (one, both))
    assert ours > 0 and all_of_them >= 2 * ours


@pytest.mark.parametrize(
    "name", ["accuracy", "confusion", "costs", "curves", "reliability", "time", "unsure"]
)
def test_every_picture_draws_a_mode_in_its_hue(drawn, name):
    for mode, colour in MODES.items():
        if (name, mode) == ("curves", "probe"):
            continue
        kinds = ("symbol", "rect", "line")
        assert any(drawn(name).marks(kind, colour) for kind in kinds), colour
