"""No output takes the place of something else, whatever the command and the option."""

import csv
import os
import re
import shutil
import subprocess
import sys
import threading
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from conftest import IMAGES, edit, encode, headswap, train_all, write_folder

from headswap import params
from headswap.compare.outputs import write_comparison
from headswap.data.synthetic import draw_insect
from headswap.images.index import read_index
from headswap.io import read_csv
from headswap.predict.folders import misclassified_images

VAL = "data/images/val"
PHOTO = f"{VAL}/ants/003.png"


def content(folder="."):
    """Return all files, links and folders below a folder, the files with their content."""
    return {
        path.as_posix(): os.readlink(path) if path.is_symlink() else path.read_bytes()
        if path.is_file() else None
        for path in sorted(Path(folder).rglob("*"))
    }  # fmt: skip


@pytest.fixture
def mine(own_trained):
    """Lay a user's files into a project, and return what there is."""
    write_folder(IMAGES, "photos")
    shutil.copytree("models/resnet18-finetune", "moved")
    Path("full").mkdir()
    for name in ("thesis.docx", "thesis.html", "full/precious.txt", "notes"):
        Path(name).write_text("mine")
    Path("labels.csv").write_text("path,label\nphotos/val/ants/c.png,ants\n")
    Path("labels.json").write_text('[{"image": "photos/val/ants/c.png", "label": "ants"}]')
    Path("columns.csv").write_text("image,label,group,path,rank,class\n")
    Path("cells.json").write_text('[{"cell": "A1"}]')
    Path("headswap.txt").write_text("PNG, my notes on Software headswap")
    Path("found.csv").write_text("path,rank,class,probability\n")
    shutil.copy(PHOTO, "figure.png")
    shutil.copy(PHOTO, "photo.csv")
    Path("my manifest.csv").write_text('\ufeff"path";"bytes";"sha256"\n', "utf-8")
    Path("link to a folder").symlink_to("full")
    return content()


PREDICT = ("predict", "tiny-probe")
EVALUATE = ("evaluate", "tiny-probe", "photos/val")
FOREIGN = "is there already and was not written by this command"
REFUSED = [
    ((*PREDICT, "photos", "--csv", "photos"), "is a folder"),
    ((*PREDICT, "photos", "--json", "link to a folder"), "is a folder"),
    ((*PREDICT, "--csv", "photos/train/ants/a.jpg", "photos/val/ants/c.png"), FOREIGN),
    ((*PREDICT, "photos", "--csv", "thesis.docx"), FOREIGN),
    ((*PREDICT, "photos", "--json", "labels.csv"), FOREIGN),
    ((*PREDICT, "photos", "--csv", "notes"), FOREIGN),
    ((*PREDICT, "photos", "--csv", "labels.csv"), FOREIGN),
    ((*PREDICT, "photos", "--json", "labels.json"), FOREIGN),
    ((*PREDICT, "photo.csv", "--csv", "photo.csv"), "which is also in this command"),
    ((*PREDICT, "photos", "--csv", "new.csv", "--json", "new.csv"), "also in this command"),
    ((*PREDICT, "photos", "--csv", "my manifest.csv"), FOREIGN),
    ((*PREDICT, "photos", "--csv", "data/manifest.csv"), FOREIGN),
    ((*PREDICT, "photos", "--csv", "metrics/comparison.csv"), "overlaps metrics"),
    ((*PREDICT, "photos", "--json", "models/tiny-probe/model.json"), "overlaps models"),
    ((*PREDICT, "photos", "--csv", "dvc.yaml"), "overlaps dvc.yaml"),
    ((*PREDICT, "photos", "--csv", "src/headswap/new.csv"), "overlaps src"),
    ((*PREDICT, "photos", "--csv", "networks/new.csv"), "overlaps networks"),
    (("predict", "moved", "photos", "--json", "moved/model.json"), "overlaps moved"),
    ((*PREDICT, "photos", "--explain", "full"), "is a folder that is not empty"),
    ((*PREDICT, "photos", "--explain", "photos/why"), "overlaps photos"),
    ((*PREDICT, "photos", "--explain", "notes"), "is a file"),
    ((*PREDICT, "photos", "--explain", "plots"), "overlaps plots"),
    ((*PREDICT, "photos", "--csv", "new", "--explain", "new"), "also in this command"),
    ((*EVALUATE, "--csv", "photos/val/new.csv"), "overlaps photos/val"),
    ((*EVALUATE, "--json", "labels.csv"), FOREIGN),
    ((*EVALUATE, "--csv", "found.csv"), FOREIGN),
    ((*EVALUATE, "--csv", "columns.csv"), FOREIGN),
    ((*PREDICT, "photos", "--csv", "columns.csv"), FOREIGN),
    ((*EVALUATE, "--json", "cells.json"), FOREIGN),
    ((*EVALUATE, "--picture", "headswap.txt"), FOREIGN),
    ((*EVALUATE, "--picture", "full"), "is a folder"),
    ((*EVALUATE, "--picture", "figure.png"), FOREIGN),
    ((*EVALUATE, "--csv", "new.csv", "--json", "new.csv"), "also in this command"),
    (("export", "tiny-probe", "full"), "is a folder that is not empty"),
    (("export", "tiny-probe", "."), "overlaps data/archive.zip"),
    (("export", "moved", "moved/new"), "overlaps moved"),
    (("export", "tiny-probe", "thesis.docx"), "is a file"),
    (("manifest", "photos", "--output", "photos"), "is a folder"),
    (("manifest", "photos", "--output", "labels.csv"), FOREIGN),
    (("manifest", "photos", "--output", "photos/val/ants/c.png"), FOREIGN),
    (("manifest", "photos", "--output", "data/published/summary.csv"), "overlaps data/published"),
    (("manifest", "photos", "--output", "params.yaml"), "overlaps params.yaml"),
    (("report", "--output", "full"), "is a folder"),
    (("report", "--output", "labels.csv"), FOREIGN),
    (("report", "--output", "metrics/report.html"), "overlaps metrics"),
    (("report", "--output", "thesis.html"), FOREIGN),
]


def test_nothing_that_is_there_is_overwritten(mine):
    for arguments, why in REFUSED:
        output, message = headswap(*arguments, code=1)
        assert why in message and "is not overwritten.\nName another" in message, message
        assert output == ""
    assert content() == mine


def test_what_the_message_offers_works(mine):
    *_, offered = headswap(*PREDICT, PHOTO, "--csv", "thesis.docx", code=1)[1].split()
    headswap(*PREDICT, PHOTO, "--csv", offered.rstrip("."))
    assert Path("new.csv").read_text().startswith("path,rank,class,probability\n")
    Path("new").mkdir()
    Path("new/full.txt").touch()
    message = headswap("export", "tiny-finetune", "new", code=1)[1]
    assert message.endswith("Name another folder, say another.\n")


def test_outputs_of_the_same_kind_are_replaced(mine):
    edit(models=["tiny"])
    write_comparison(params.load())
    Path("empty.tmp").touch()  # as mktemp makes one
    Path("sheet.csv").write_text('"path"\t"rank"\t"class"\t"probability"\n', "utf-8-sig")
    Path("found.json").write_text("[]\n")  # no photograph could be read
    names = ("found.csv", "empty.tmp", "sheet.csv", "photos/found.csv", "a new folder/found.CSV")
    for name in names:
        headswap(*PREDICT, PHOTO, "--csv", name)
        assert Path(name).read_text().count("\n") == 2
    evaluated = ("--csv", "one.csv", "--json", "one.json", "--picture", "one.png")
    for _ in range(2):
        headswap(*PREDICT, PHOTO, "--json", "found.json")
        headswap(*EVALUATE, *evaluated)
        headswap("report", "--output", "page.html")
        headswap("manifest", "photos", "--output", "my manifest.csv")
        headswap("manifest", "photos", "--output", "data/manifest.csv")


def test_a_link_is_written_through(mine):
    Path("target.csv").write_text("path,rank,class,probability\n")
    Path("link.csv").symlink_to("target.csv")
    Path("to be made.csv").symlink_to("made.csv")
    for link, target in (("link.csv", "target.csv"), ("to be made.csv", "made.csv")):
        headswap(*PREDICT, PHOTO, "--csv", link)
        assert Path(link).is_symlink() and os.readlink(link) == target
        assert Path(target).read_text().startswith("path,")
    Path("to a photograph.csv").symlink_to("photos/train/ants/a.jpg")
    assert FOREIGN in headswap(*PREDICT, PHOTO, "--csv", "to a photograph.csv", code=1)[1]
    assert Path("photos/train/ants/a.jpg").read_bytes() == IMAGES["train/ants/a.jpg"]


def test_a_pipe_is_written_into(mine):
    os.mkfifo("pipe")
    received = []
    reader = threading.Thread(target=lambda: received.append(Path("pipe").read_text()), daemon=True)
    reader.start()
    headswap(*PREDICT, PHOTO, "--csv", "pipe")
    reader.join(9)
    assert Path("pipe").is_fifo() and received[0].startswith("path,rank")


@pytest.mark.parametrize("target", [None, "found.txt"])
def test_standard_output_is_written_into_also_where_it_is_a_file(tmp_path, target):
    script = (
        "from headswap.io import output_path, write_text\n"
        "print('before')\n"
        "write_text(output_path('/dev/fd/1', '--csv', '.csv'), 'table\\n')\n"
        "print('after')\n"
    )
    command = [sys.executable, "-c", script]
    if target:
        with open(tmp_path / target, "a") as file:
            subprocess.run(command, stdout=file, check=True)
        found = (tmp_path / target).read_text()
    else:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert found == "before\ntable\nafter\n"


def test_an_option_without_its_value_is_named_and_writes_nothing(mine):
    for arguments in (
        (*PREDICT, PHOTO, "--csv", "--json", "new.json"),
        ("predict", "--misclassified", "--explain", "why"),
    ):
        message = headswap(*arguments, code=1)[1]
        option, following = arguments[-3], arguments[-2]
        assert f"{option} is without its value: {following} follows." in message
    assert content() == mine


@pytest.mark.slow
def test_classes_and_files_named_as_formulas_go_through_all_tables(workspace):
    labels = {"=cmd()": "ants", "@bees": "bees"}
    for number, (split, (label, drawn)) in enumerate(product(("train", "val"), labels.items())):
        for i in range(4):
            image = draw_insect(drawn, np.random.default_rng([number, i]))
            write_folder({f"{split}/{label}/-{i}.png": encode(image, "png")}, "photos")
    headswap("manifest", "photos", "--use")
    edit(seeds=[0, 1], train={"epochs": 1})
    train_all()
    headswap("compare")
    headswap("report")
    for table in Path().rglob("*.csv"):
        with open(table, encoding="utf-8", newline="") as file:
            texts = [cell for row in csv.reader(file) for cell in row]
        formulas = [text for text in texts if text[:1] in ("=", "+", "-", "@")]
        assert not [text for text in formulas if not re.fullmatch(r"-[\d.e-]+", text)], table
    index = read_index()
    assert index.classes == sorted(labels)
    listed = [path for path in misclassified_images() if path.exists()]
    assert listed and listed == misclassified_images()
    headswap("predict", "tiny-probe", *listed, "--csv", "=found.csv")
    assert {row["class"] for row in read_csv("=found.csv")} <= set(labels)
    assert "=cmd()" in Path("metrics/comparison.md").read_text()
    assert "'=cmd()" not in Path("metrics/comparison.md").read_text()
    assert "'=cmd()" not in Path("report.html").read_text()
