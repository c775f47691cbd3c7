"""A result is recorded only for the code and the parameters that made it."""

import os
import pkgutil
import re
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
from conftest import ROOT, edit, headswap, results, sh

from headswap import params
from headswap.__main__ import use_code_of_project
from headswap.errors import UserError
from headswap.io import read_json
from headswap.runs.features import write_features
from headswap.runs.provenance import cache_key
from headswap.runs.store import find_damage
from headswap.snapshot import dependencies, unchanged
from headswap.train.run import train_run


def test_a_project_runs_its_own_copy_of_the_code(workspace, monkeypatch):
    started = []
    monkeypatch.setattr("os.execv", lambda *command: started.append(command))
    monkeypatch.setattr("sys.argv", ["headswap", "check"])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    use_code_of_project()
    assert started == [(sys.executable, [sys.executable, "headswap", "check"])]
    assert os.environ["PYTHONPATH"] == str(workspace / "src")
    monkeypatch.chdir(ROOT)
    use_code_of_project()
    assert len(started) == 1


@pytest.mark.slow
@pytest.mark.parametrize("command", [["headswap"], ["python", "-m", "headswap"]])
def test_a_command_in_a_copy_of_the_project_runs_the_copys_code(workspace, command):
    module = Path("src/headswap/data/manifest.py")
    text = module.read_text()
    old = "return dict("
    assert text.count(old) == 1
    module.write_text(text.replace(old, "return dict(copy=7) | dict("))
    sh(*command, "fetch")
    sh(*command, "verify")
    assert read_json("metrics/dataset.json")["copy"] == 7


def edit_meanwhile(stage, path=None, **changes):
    """Edit parameters, or a file of the code, while a stage runs."""
    read = partial(dependencies, stage)
    with unchanged(read(), read):
        edit(**changes)
        if path:
            with Path("src/headswap", path).open("a") as file:
                file.write("OTHER = 1\n")


def test_an_edit_of_what_a_stage_does_not_depend_on_is_allowed(workspace):
    edit_meanwhile("train", "compare/report.py", seeds=[0, 1], train={"lr": 0.01})


@pytest.mark.parametrize("path", ["train/loop.py", "runs/cells.py", "images/reading.py", "io.py"])
def test_edited_code_is_named(workspace, path):
    with pytest.raises(UserError, match=rf"{path}(.|\n)*not recorded(.|\n)*dvc repro"):
        edit_meanwhile("train", path)


def test_edited_parameters_are_named(workspace):
    with pytest.raises(UserError, match=r"train.lr was 0.01, is 0.5"):
        edit_meanwhile("train", train={"lr": 0.5})


@pytest.mark.parametrize(
    ("stage", "function", "edited"),
    [
        (["fetch"], "headswap.data.verify.fetch_archive", {"dataset": {"url": "photos.zip"}}),
        (["verify"], "headswap.data.verify.verify_images", {"dataset": {"url": "photos.zip"}}),
        (["train", "tiny", "frozen"], "headswap.runs.cells.train_cell", {"train": {"lr": 0.5}}),
    ],
)
def test_a_stage_whose_parameters_are_edited_fails_and_keeps_its_runs(
    prepared, monkeypatch, stage, function, edited
):
    original = pkgutil.resolve_name(function)

    def edited_meanwhile(*arguments, **options):
        result = original(*arguments, **options)
        edit(**edited)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(function, edited_meanwhile)
        message = headswap(*stage, code=1)[1]
    assert re.search(r"dataset.url was generated, is |train.lr was 0.01, is 0.5", message)
    edit(train={"lr": 0.01}, dataset={"url": "generated"})
    assert "epoch 1/" not in headswap(*stage)[0]


@pytest.fixture
def run(own_trained):
    """Return the folder of a finished run, of whose cell there are two."""
    edit(models=["tiny"])
    (folder,) = Path("runs/tiny-frozen").glob("*/seed-0")
    return folder


FILES = ["trained.safetensors", "probabilities.safetensors", "timing.json"]


@pytest.mark.parametrize("change", ["deleted", "emptied", "a byte"])
@pytest.mark.parametrize("name", [*FILES, "run.json"])
def test_a_damaged_file_of_a_finished_run_is_found(run, name, change):
    assert find_damage(run) == []
    path = run / name
    content = path.read_bytes()
    path.unlink()
    if change != "deleted":
        path.write_bytes(b"" if change == "emptied" else b"?" + content[1:])
    assert find_damage(run) == [name]


def test_a_damaged_run_is_named_and_trained_again_to_the_same_bytes(run):
    before = results()
    (run / "trained.safetensors").write_bytes(b"")
    shutil.rmtree("models")
    printed = headswap("train", "tiny", "frozen")[0]
    assert "seed-0: trained.safetensors missing or damaged" in printed
    assert "seed 0: epoch 2/2" in printed and "seed 1: epoch" not in printed
    after = results()
    assert len(after) > 5 and after.items() <= before.items()
    assert "missing" not in headswap("train", "tiny", "frozen")[0]


def test_a_damaged_part_of_the_features_is_computed_again(run, monkeypatch):
    expected = Path("data/embeddings/tiny.safetensors").read_bytes()

    def stop(*_, **__):
        raise UserError("stopped before the parts are joined")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="stopped"):
        patch.setattr("headswap.runs.features.write_tensors", stop)
        write_features("tiny", params.load())
    first, *_, last = sorted(Path("runs/tiny-embed").glob("*/*.safetensors"))
    first.write_bytes(b"")
    last.unlink()
    assert headswap("embed", "tiny")[0].count("part ") == 2
    assert Path("data/embeddings/tiny.safetensors").read_bytes() == expected


@pytest.mark.parametrize(("content", "changed"), [("", False), ("{", True), ("[]", True)])
def test_runs_that_cannot_be_read_are_trained_again(run, content, changed):
    for path in Path("runs/tiny-frozen").glob("*/seed-*/run.json"):
        path.write_text(content)
    if changed:
        edit(train={"lr": 0.02})
    printed = headswap("train", "tiny", "frozen")[0]
    assert "seed 0: epoch 2/2" in printed and "seed 1: epoch 2/2" in printed


@pytest.mark.parametrize("what", ["images", "weights"])
def test_what_replaces_images_or_weights_while_a_run_trains_is_noticed(run, what):
    cell, chosen = params.Cell("tiny", "frozen"), params.load()
    key = cache_key(cell, chosen)
    path = {
        "images": Path("data/images/index.csv"),
        "weights": Path("data/weights/tiny.safetensors"),
    }[what]
    epochs = []

    def replace(done, figures=None, note=""):
        if figures:
            epochs.append(done)
            content = bytearray(path.read_bytes())
            place = -2 if what == "images" else -1  # of the index the last digit of a SHA-256
            content[place] = (content[place] + 1) % 256
            Path("replaced").write_bytes(content)
            Path("replaced").replace(path)

    with pytest.raises(UserError, match=f"other {what}"):
        train_run(cell, chosen, 7, key, replace)
    assert epochs == [1, 2] and not (run.parent / "seed-7").exists()


def install(folder, package, version):
    """Let Python find another version of a package, by its metadata."""
    metadata = folder / f"{package}-{version}.dist-info/METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")


@pytest.mark.parametrize(
    "package", [pytest.param("pillow", marks=pytest.mark.slow), "efficientnet_lite_pytorch"]
)
def test_after_an_upgrade_every_cell_that_other_versions_made_is_named(
    run, no_pictures, tmp_path, monkeypatch, package
):
    edit(modes=["frozen"])
    assert "versions" not in headswap("check")[0]
    install(tmp_path / "packages", package, "99.9")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "packages"), *sys.path])
    lines = headswap("check")[0].splitlines()
    differs = rf"{package.replace('_', '-')} \d[\d.]*, not 99\.9"
    for cell in ("tiny-frozen", "tiny-probe"):
        (line,) = [line for line in lines if line.startswith("  ") and cell in line]
        assert re.search(differs, line)
    assert any(line.endswith("dvc repro --force") for line in lines)
    headswap("compare")
    report = Path("metrics/comparison.md").read_text()
    for text in (report, *(headswap(stage)[0] for stage in ("fetch", "verify"))):
        assert "Other versions than the installed ones made:" in text
        assert re.search(rf"tiny-probe.*: .*{differs}", text) and "dvc repro --force" in text

    printed = headswap("train", "tiny", "frozen")[0]
    assert re.search(rf"tiny-frozen.*: .*{differs}", printed)
    assert re.search(rf"versions\.{package.replace('_', '-')} was .*, is 99\.9", printed)
    after = headswap("check")[0]
    assert "tiny-frozen" in after if package.startswith("eff") else "tiny-frozen" not in after
    for stage in ("weights", "embed", "probe"):
        headswap(stage, "tiny")
    headswap("train", "tiny", "frozen")
    assert "versions" not in headswap("check")[0]


def test_settings_that_change_arithmetic_are_recorded_and_reported(run, no_pictures, monkeypatch):
    edit(modes=["frozen"])
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    shutil.rmtree("runs/tiny-probe")
    headswap("probe", "tiny")
    timing = read_json("metrics/timing/tiny-probe.json")
    assert timing["arithmetic"] == "ATEN_CPU_CAPABILITY=default"
    assert read_json("metrics/timing/tiny-frozen.json")["arithmetic"] == ""
    headswap("compare")
    report = Path("metrics/comparison.md").read_text()
    assert "not all in the same way" in report
    assert "arithmetic ATEN_CPU_CAPABILITY=default" in report.replace("\\", "")
