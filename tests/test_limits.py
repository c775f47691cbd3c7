"""Terminals, limits of the system, forms of YAML, no Git: nothing stops without a clear message."""

import json
import re
from pathlib import Path

import pytest
from conftest import ROOT, edit, headswap, sh, start
from dvc.utils.hydra import apply_overrides
from fake_cells import write_alexnet
from ruamel.yaml import YAML

from headswap import params
from headswap.errors import UserError, bulleted, os_error_text
from headswap.runs.workers import worker_count

TEXT = (ROOT / "params-demo.yaml").read_text()
TREE = YAML(typ="safe").load(TEXT)
FACTORY = TREE | {"factories": {"mine": "my_networks:mine"}}
KEPT = {
    "as it is": TEXT,
    "lists in brackets": TEXT.replace("\n  - alexnet\n  - resnet18", ' ["alexnet", resnet18]'),
    "a section in braces": TEXT.replace(
        "\n  size: 64\n  resize: 72\n  shrink: true", " {size: 64, resize: 72, shrink: true}"
    ),
    "a factory in a line": TEXT.replace("factories: {}", 'factories:\n  mine: "my_networks:mine"'),
    "an anchor": TEXT.replace("train:", "train: &recipe"),
    "a value used twice": TEXT.replace("size: 8", "size: &n 8").replace("step: 7", "step: *n"),
    "JSON": json.dumps(TREE),
    "a tag": TEXT.replace("random", "!!str random"),
    "a document's start": "---\n" + TEXT,
    "Windows": TEXT.replace("\n", "\r\n"),
}
BROKEN = {
    "a factory in braces": (
        TEXT.replace("factories: {}", 'factories: {mine: "my_networks:mine"}'),
        8,
        "factories:\n  mine: my_networks:mine\n",
    ),
    "an address in braces": (
        TEXT.replace("\n  url: generated\n  man", ' {url: "https://x.org/a.zip", man').replace(
            "manifest.csv\n  folds: 0", "manifest.csv, folds: 0}"
        ),
        2,
        "dataset:\n  url: https://x.org/a.zip\n",
    ),
    "a factory in JSON": (json.dumps(FACTORY), 1, "factories:\n  mine: my_networks:mine\nmodes:\n"),
    "a tab": (TEXT.replace("lr: 0.001", "lr:\t0.001"), 19, "a tab; use spaces"),
}


def dvc_changes_only_what_is_set():
    """Set the learning rate with DVC's writer; return whether all else stays as it was."""
    expected = YAML(typ="safe").load(Path("params.yaml"))
    expected["train"]["lr"] = 0.5
    try:
        apply_overrides("params.yaml", ["train.lr=0.5"])
        return YAML(typ="safe").load(Path("params.yaml")) == expected
    except Exception:
        return False


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("form", KEPT)
def test_yaml_that_dvc_keeps_is_accepted(folder, form):
    Path("params.yaml").write_text(KEPT[form])
    params.check_round_trip()
    assert dvc_changes_only_what_is_set()


@pytest.mark.parametrize("form", BROKEN)
def test_yaml_that_dvc_would_break_is_refused_with_the_line_and_the_form_to_use(folder, form):
    text, line, help_ = BROKEN[form]
    Path("params.yaml").write_text(text)
    assert params.load().train.lr == 0.001
    with pytest.raises(UserError) as error:
        params.check_round_trip()
    assert f"params.yaml, line {line}" in str(error.value)
    assert help_ in str(error.value) and "headswap check" in str(error.value)
    assert not dvc_changes_only_what_is_set()


def test_check_shows_a_form_that_it_accepts(workspace):
    parameters = Path("params.yaml")
    tree = YAML(typ="safe").load(parameters)
    parameters.write_text(json.dumps(tree))
    message = headswap("check", code=1)[1]
    assert "params.yaml, line 1" in message
    parameters.write_text(message.split("\n\n")[1])
    headswap("check")
    assert YAML(typ="safe").load(parameters) == tree


@pytest.mark.parametrize("url", ["${oc.env:HOME}", "???"])
def test_a_text_that_dvc_replaces_is_refused(url):
    with pytest.raises(UserError, match="dataset.url: DVC would replace"):
        params.parse(TREE | {"dataset": TREE["dataset"] | {"url": url}})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("models", "resnet18", r"models: should be a list, as in \[a, b\], not"),
        ("seeds", 3, r"seeds: should be a list, as in \[a, b\], not 3"),
        ("modes", None, r"modes: should be a list, as in \[a, b\], not None"),
    ],
)
def test_a_value_where_a_list_is_meant_is_told_how_to_write_one(key, value, message):
    with pytest.raises(UserError, match=message):
        params.parse(TREE | {key: value})


@pytest.mark.slow
def test_a_long_path_of_temporary_files_stops_no_worker(prepared):
    folder = prepared / ("long" * 30)
    folder.mkdir()
    sh("headswap", "train", "tiny", "frozen", TMPDIR=str(folder))
    assert Path("models/tiny-frozen").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["embed tiny", "train tiny frozen"])
def test_a_number_of_workers_beyond_all_bounds_is_no_more_than_there_is_work(prepared, command):
    sh("headswap", *command.split(), HEADSWAP_WORKERS="1000000000")


def test_check_refuses_a_number_of_workers_that_is_none(workspace, monkeypatch):
    monkeypatch.setenv("HEADSWAP_WORKERS", "two")
    assert "HEADSWAP_WORKERS is 'two'" in headswap("check", code=1)[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", ["import no_such_module", "raise OSError('libtorch.so: cannot open shared object')"]
)
def test_an_error_in_an_import_of_a_worker_is_shown_as_it_is(prepared, line):
    module = Path("src/headswap/train/run.py")
    module.write_text(module.read_text().replace("\nimport ", f"\n{line}\nimport ", 1))
    stage = start("headswap", "train", "tiny", "frozen")
    message, _ = stage.communicate(timeout=300)
    assert stage.returncode == 1
    assert re.search(r"^headswap train: tiny-frozen seed \d", message, re.MULTILINE)
    assert f"    {line}\n" in message


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(2, "No such file", "a.txt"), "a.txt: No such file"),
        (OSError("AF_UNIX path too long"), "AF_UNIX path too long"),
        (OSError(5, "Input/output error"), "[Errno 5] Input/output error"),
        (OSError(), "OSError"),
    ],
)
def test_an_error_of_the_system_is_reported_with_what_there_is(error, text):
    assert os_error_text(error) == text


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_all_characters_stops_no_comparison(workspace, encoding):
    write_alexnet(40)
    edit(models=["alexnet"])
    printed = sh("headswap", "compare", PYTHONIOENCODING=encoding)
    assert "standard deviation" in printed and Path("metrics/comparison.md").exists()


def test_a_seed_that_json_cannot_hold_is_refused():
    with pytest.raises(UserError, match="less than or equal to 9007199254740991"):
        params.parse(TREE | {"seeds": [2**53]})
    assert params.parse(TREE | {"seeds": [2**53 - 1]}).seeds == [9007199254740991]


@pytest.mark.parametrize(("share", "expected"), [("200000 100000", 2), ("50000 100000", 1)])
def test_a_container_has_as_many_workers_as_its_share_of_the_cores(
    tmp_path, monkeypatch, share, expected
):
    monkeypatch.delenv("HEADSWAP_WORKERS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(16))
    monkeypatch.setattr("headswap.runs.workers.CPU_LIMIT", tmp_path / "cpu.max")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert worker_count() == 16
    (tmp_path / "cpu.max").write_text(f"{share}\n")
    assert worker_count() == expected


def test_of_a_long_list_the_first_lines_and_the_number_of_others_are_given():
    assert bulleted(["a", "b", "c"], limit=2) == "  a\n  b\n  … and 1 more"
    assert bulleted(["a", "b"], limit=2) == "  a\n  b"
