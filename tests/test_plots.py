"""What the pictures show: marks and texts of the SVG that a template makes of rows."""

import itertools
import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import vl_convert
from fake_cells import COSTS, TRAINED, write_cell, write_images
from PIL import Image

from headswap import params
from headswap.compare import plots
from headswap.compare.outputs import write_comparison
from headswap.params import Cell

IMAGES = 40
SVG = "{http://www.w3.org/2000/svg}"
NAMES = ("accuracy", "confusion", "costs", "curves", "differences", "reliability", "time")
MODES = {"finetune": "#0072B2", "frozen": "#E69F00", "probe": "#009E73"}
"""The hue of each mode, from Okabe and Ito's palette."""
LONG = [f"a_network_with_a_very_long_name_indeed_{number}" for number in range(4)]


class Picture:
    """A picture as it is drawn from its template and the rows that the comparison wrote."""

    def __init__(self, name, rows=None):
        if rows is None:
            rows = json.loads(Path(f"plots/comparison/{name}.json").read_text())
        specification = json.loads((plots.TEMPLATES / f"{name}.json").read_text())
        specification["data"]["values"] = rows
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


@pytest.fixture
def compare(workspace, monkeypatch):
    """Return a function that compares cells of given models, with random results."""
    png = plots.png

    def run(
        models=("resnet18",),
        classes=("ants", "bees"),
        seeds=3,
        images=IMAGES,
        draw_png=False,
        **cells,
    ):
        monkeypatch.setattr(plots, "png", png if draw_png else lambda *_: b"")
        random = np.random.default_rng(4)
        counts = {"images": 99, "train": 9, "val": images, "in_both_splits": 0}
        write_images(images, counts, classes)
        chosen = params.load().model_copy(
            update={"models": list(models), "factories": {}, "weights": "random"}
        )
        for cell in chosen.cells():
            correct = random.random((seeds, images)) < random.random()
            options = cells.get(cell.mode, {})
            write_cell(cell, **{"best": correct, "classes": classes, **options})
        write_comparison(chosen)

    return run


@pytest.fixture
def long_names(monkeypatch):
    for number, model in enumerate(LONG):
        costs = {key: (number + 1) * value for key, value in COSTS["alexnet"].items()}
        monkeypatch.setitem(COSTS, model, costs)
        monkeypatch.setitem(TRAINED, model, 10)
    return LONG


def test_every_picture_is_written_as_png(compare):
    compare(draw_png=True)
    for name in (*NAMES, "gallery"):
        with Image.open(f"plots/comparison/{name}.png") as image:
            assert min(image.size) > 200


@pytest.mark.parametrize("name", NAMES)
def test_every_picture_has_a_title_and_only_speaks_of_what_is_there(compare, name):
    compare(["alexnet", "resnet18"])
    texts = Picture(name).texts
    assert json.loads((plots.TEMPLATES / f"{name}.json").read_text())["title"]["text"] in texts
    assert "write-up" not in " ".join(texts)


def test_the_same_rows_make_the_same_bytes(compare):
    compare(draw_png=True)
    before = {path: path.read_bytes() for path in Path("plots/comparison").iterdir()}
    compare(draw_png=True)
    after = {path: path.read_bytes() for path in Path("plots/comparison").iterdir()}
    assert len(after) == 15
    assert after == before


def test_cells_stand_in_the_order_of_the_parameters(compare):
    compare(["resnet18", "alexnet"], frozen={"best": np.empty((0, IMAGES)), "diverged": 3})
    cells = [f"{model}-{mode}" for model in ("resnet18", "alexnet") for mode in MODES]
    for name in ("accuracy",):
        assert [text for text in Picture(name).texts if text in cells] == cells
    for name in ("confusion", "reliability"):
        headings = [text for text in Picture(name).texts if text in ("resnet18", "alexnet")]
        assert headings == ["resnet18"] * 3 + ["alexnet"] * 3
    costs = [text.split(",")[0] for text in Picture("costs").texts]
    assert costs.index("parameters") < costs.index("layers")


def test_a_mode_has_one_hue_whatever_else_is_in_the_matrix(compare, long_names):
    for models in (["resnet18"], long_names):
        compare(models)
        for mode, colour in MODES.items():
            points = Picture("time").marks("symbol", colour)
            assert len(points) == len(models), mode


def test_models_differ_in_shape(compare, long_names):
    compare(long_names)
    shapes = {mark.get("d") for mark in Picture("time").marks("symbol")}
    assert len(shapes) == len(long_names)


@pytest.mark.parametrize("name", NAMES)
def test_long_names_are_not_cut(compare, long_names, name):
    compare(long_names)
    texts = " ".join(Picture(name).texts)
    assert "…" not in texts
    joined = texts.replace("very_ long", "very_long")
    assert all(f"_{number}" in joined for number in range(4)) or name == "confusion"


def test_epochs_are_whole_numbers_from_1(compare):
    curves = [
        [seed, epoch, split, 0.5, 0.9]
        for seed in range(3)
        for epoch in range(3)
        for split in ("train", "val")
    ]
    compare(finetune={"curves": curves})
    rows = json.loads(Path("plots/comparison/curves.json").read_text())
    assert {row["epoch"] for row in rows if row["mode"] == "finetune"} == {1, 2, 3}
    numbers = [text for text in Picture("curves").texts if re.fullmatch(r"\d+", text)]
    assert {"1", "2", "3"} <= set(numbers)
    panel = numbers[: numbers.index("3") + 1]
    assert len(panel) == len(set(panel)), "an epoch is labelled twice"


def test_axes_of_accuracy_have_true_percentages(compare):
    curves = [
        [seed, epoch, split, 0.5, 0.63 + 0.007 * epoch]
        for seed in range(3)
        for epoch in range(3)
        for split in ("train", "val")
    ]
    perfect = {"best": np.ones((3, 153)), "curves": curves}
    compare(images=153, **dict.fromkeys(MODES, perfect))
    for name in ("accuracy", "time", "curves"):
        labels = [float(t[:-1]) for t in Picture(name).texts if re.fullmatch(r"[\d.]+%", t)]
        steps = {round(after - before, 6) for before, after in itertools.pairwise(labels)}
        assert len(steps) == 1 and 0 not in steps, name


def test_an_exploding_loss_leaves_the_other_cells_readable(compare):
    curves = [
        [seed, epoch, split, 1000.0, 0.5]
        for seed in range(3)
        for epoch in range(2)
        for split in ("train", "val")
    ]
    compare(probe={"curves": curves})
    rows = json.loads(Path("plots/comparison/curves.json").read_text())
    assert max(row["loss"] for row in rows) == 1000
    (limit,) = {row["loss_limit"] for row in rows}
    assert limit == pytest.approx(2 * math.log(2), abs=1e-5)
    picture = Picture("curves")
    assert "1,000" not in picture.texts and "▲ up to 1,000" in picture.texts
    triangles = picture.marks("symbol", MODES["probe"])
    assert len(triangles) > len(picture.marks("symbol", MODES["finetune"]))


def test_the_legend_of_the_curves_explains_validation_above_training(compare):
    compare()
    texts = Picture("curves").texts
    assert any("augmented" in text and "dropout" in text for text in texts)
    assert {"training", "validation, finetune", "validation, frozen"} <= set(texts)


def test_ten_class_names_are_readable_in_the_confusion_matrix(compare):
    classes = tuple(f"species number {number}" for number in range(10))
    compare(classes=classes, images=50)
    picture = Picture("confusion")
    assert all(picture.texts.count(name) >= 2 for name in classes)
    sizes = [float(size) for size in re.findall(r'font-size="([\d.]+)px"', picture.svg)]
    assert min(sizes) >= 8


def test_of_a_hundred_classes_the_confusion_matrix_says_which_it_shows(compare):
    compare(classes=tuple(f"c{number:02d}" for number in range(100)), images=200)
    assert any("20 most confused of 100 classes" in text for text in Picture("confusion").texts)


def test_numbers_of_a_confusion_matrix_add_up_to_the_images_of_a_class(compare):
    compare()
    picture = Picture("confusion")
    numbers = [float(text) for text in picture.texts if re.fullmatch(r"\d+\.\d", text)]
    assert sum(numbers) == pytest.approx(3 * IMAGES, abs=0.5)


def test_costs_have_readable_units(compare):
    compare()
    texts = Picture("costs").texts
    for quantity in ("parameters, millions", "multiply-accumulates, billions", "layers"):
        assert quantity in texts


@pytest.mark.parametrize("name", ["accuracy", "confusion", "curves", "reliability"])
def test_a_cell_without_a_finished_run_keeps_its_place(compare, name):
    compare(frozen={"best": np.empty((0, IMAGES)), "diverged": 3})
    texts = Picture(name).texts
    assert "null" not in texts and "NaN" not in " ".join(texts)
    assert any("frozen" in text for text in texts)
    if name != "curves":
        assert any("no finished run" in text for text in texts)


@pytest.mark.parametrize(
    "classes", [("under_$5_or_$", 'a <b> & | "c"'), ("αράχνη", "Пчела")], ids=["markup", "scripts"]
)
def test_class_names_are_drawn_as_they_are(compare, classes):
    compare(classes=classes)
    assert set(classes) <= set(Picture("confusion").texts)


def test_the_gallery_shows_the_predicted_class_and_the_worst_first(compare):
    wrong = np.ones((3, IMAGES), dtype=bool)
    wrong[:, 7] = wrong[0, 4] = False
    compare(**{mode: {"best": wrong} for mode in MODES})
    misclassified = plots.gallery(most_misclassified())
    picture = Picture("gallery", misclassified.to_dict("records"))
    first = picture.texts.index("007.jpg")
    assert picture.texts[first + 1 : first + 4] == [
        *("true class: bees", "predicted: ants", "9 of 9 runs wrong")
    ]
    assert first < picture.texts.index("004.jpg")
    assert picture.svg.count("<image") == 2


def most_misclassified():
    from headswap.compare.comparison import most_misclassified
    from headswap.compare.results import read_results

    chosen = params.load().model_copy(
        update={"models": ["resnet18"], "factories": {}, "weights": "random"}
    )
    return most_misclassified(read_results(chosen))


@pytest.mark.parametrize("name", NAMES)
def test_two_revisions_are_kept_apart_and_one_is_not_named(compare, name):
    compare()
    rows = json.loads(Path(f"plots/comparison/{name}.json").read_text())
    one = Picture(name, [{**row, "rev": "workspace"} for row in rows])
    assert "workspace" not in " ".join(one.texts)
    both = Picture(name, [{**row, "rev": rev} for rev in ("main", "workspace") for row in rows])
    assert {"main", "workspace"} <= set(" ".join(both.texts).split())
    kinds = ("symbol", "rect", "line", "rule", "text")
    ours, all_of_them = (sum(len(p.marks(kind)) for kind in kinds) for p in (one, both))
    assert ours > 0 and all_of_them >= 2 * ours


@pytest.mark.parametrize(
    "name", ["accuracy", "confusion", "costs", "curves", "reliability", "time"]
)
def test_every_picture_draws_a_mode_in_its_hue(compare, name):
    compare()
    picture = Picture(name)
    for colour in MODES.values():
        kinds = ("symbol", "rect", "line")
        assert any(picture.marks(kind, colour) for kind in kinds), colour


def test_a_matrix_without_any_finished_run_is_drawn_and_says_so(compare):
    diverged = {"best": np.empty((0, IMAGES)), "diverged": 3}
    compare(draw_png=True, **dict.fromkeys(MODES, diverged))
    for name in NAMES:
        texts = " ".join(Picture(name).texts)
        assert re.search("no finished|No cell has a finished|No two cells", texts)
        assert "null" not in texts and "NaN" not in texts


def test_a_cell_is_its_own_model_and_mode_in_the_rows(compare):
    compare(["alexnet", "resnet18"])
    rows = json.loads(Path("plots/comparison/accuracy.json").read_text())
    assert {row["cell"]: Cell(row["model"], row["mode"]).name for row in rows} == {
        row["cell"]: row["cell"] for row in rows
    }
