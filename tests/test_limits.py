"""Terminals, limits of the system, forms of YAML, no Git: nothing stops without a clear message."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, copy_of, edit, enter, project
from dvc.utils.hydra import apply_overrides
from fake_cells import write_alexnet
from ruamel.yaml import YAML

from headswap import params
from headswap.errors import UserError, os_error_text

BIN = Path(sys.executable).parent
TEXT = (ROOT / "params-demo.yaml").read_text()
TREE = YAML(typ="safe").load(TEXT)
PROBE = TEXT[TEXT.index("probe:") : TEXT.index("embed:")]
ANCHOR = TEXT.replace("train:", "train: &recipe")
FACTORY = TREE | {"factories": {"mine": "my_networks:mine"}}
KEPT = {
    "as it is": TEXT,
    "lists in brackets": TEXT.replace("\n  - alexnet\n  - resnet18", ' ["alexnet", resnet18]'),
    "a section in braces": TEXT.replace("\n  views: 4\n  seed: 0", " {views: 4, seed: 0}"),
    "a factory in a line": TEXT.replace("factories: {}", 'factories:\n  mine: "my_networks:mine"'),
    "an anchor": ANCHOR,
    "a value used twice": TEXT.replace("- 0", "- &first 0").replace("seed: 0", "seed: *first"),
    "a merge": ANCHOR.replace(PROBE, "probe:\n  <<: *recipe\n  lr: 0.1\n"),
    "JSON": json.dumps(TREE),
    "a tag": TEXT.replace("random", "!!str random"),
    "a document's start": "---\n" + TEXT,
    "Windows": TEXT.replace("\n", "\r\n"),
}
BROKEN = {
    "an alias": (ANCHOR.replace(PROBE, "probe: *recipe\n"), 23, "probe:\n  epochs: 3\n"),
    "a factory in braces": (
        TEXT.replace("{}", '{mine: "my_networks:mine"}'),
        8,
        "factories:\n  mine: my_networks:mine\n",
    ),
    "an address in braces": (
        TEXT.replace("\n  url: generated\n  man", ' {url: "https://x.org/a.zip", man').replace(
            "manifest.csv", "manifest.csv}"
        ),
        2,
        "dataset:\n  url: https://x.org/a.zip\n",
    ),
    "a factory in JSON": (json.dumps(FACTORY), 1, "factories:\n  mine: my_networks:mine\nmodes:\n"),
    "a tab": (TEXT.replace("lr: 0.001", "lr:\t0.001"), 19, "cannot start any token"),
}


def dvc_changes_only_what_is_set():
    """Set learning rates with DVC's writer; return whether all else stays as it was."""
    for section in ("train", "probe"):
        expected = YAML(typ="safe").load(Path("params.yaml"))
        expected[section] = expected[section] | {"lr": 0.5}
        try:
            apply_overrides("params.yaml", [f"{section}.lr=0.5"])
            if YAML(typ="safe").load(Path("params.yaml")) != expected:
                return False
        except Exception:
            return False
    return True


def headswap(*arguments, **environment):
    return subprocess.run(
        [BIN / "headswap", *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, **environment},
    )


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
    refused = headswap("check")
    assert refused.returncode == 1 and "params.yaml, line 1" in refused.stderr
    parameters.write_text(refused.stderr.split("\n\n")[1])
    assert headswap("check").returncode == 0
    assert YAML(typ="safe").load(parameters) == tree


@pytest.mark.parametrize("url", ["${oc.env:HOME}", "???"])
def test_a_text_that_dvc_replaces_is_refused(url):
    with pytest.raises(UserError, match="dataset.url: DVC would replace"):
        params.parse(TREE | {"dataset": TREE["dataset"] | {"url": url}})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("models", "resnet18", r"models: must be a list, as in models: \[resnet18\], not"),
        ("seeds", 3, r"seeds: must be a list, as in seeds: \[3\], not 3"),
        ("modes", None, r"modes: must be a list, as in modes: \[\.\.\.\], not None"),
    ],
)
def test_a_value_where_a_list_is_meant_is_told_how_to_write_one(key, value, message):
    with pytest.raises(UserError, match=message):
        params.parse(TREE | {key: value})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Return a project in which ``tiny`` can be trained."""
    folder = project(tmp_path_factory.mktemp("prepared") / "project")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        for stage in (["fetch"], ["verify"], ["weights", "tiny"]):
            assert headswap(*stage).returncode == 0
    return folder


@pytest.fixture
def ready(prepared, tmp_path, monkeypatch):
    return copy_of(prepared, tmp_path, monkeypatch)


@pytest.mark.slow
def test_a_long_path_of_temporary_files_stops_no_worker(ready):
    folder = ready / ("long" * 30)
    folder.mkdir()
    assert headswap("train", "tiny", "frozen", TMPDIR=str(folder)).returncode == 0
    assert headswap("embed", "tiny", TMPDIR=str(folder)).returncode == 0
    assert Path("models/tiny-frozen").exists()


@pytest.mark.slow
def test_a_number_of_workers_beyond_all_bounds_is_no_more_than_there_is_work(ready):
    assert headswap("embed", "tiny", HEADSWAP_WORKERS="1000000000").returncode == 0
    assert headswap("train", "tiny", "frozen", HEADSWAP_WORKERS="1000000000").returncode == 0


def test_check_refuses_a_number_of_workers_that_is_none(workspace):
    refused = headswap("check", HEADSWAP_WORKERS="two")
    assert refused.returncode == 1 and "HEADSWAP_WORKERS is 'two'" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", ["import no_such_module", "raise OSError('libtorch.so: cannot open shared object')"]
)
def test_an_error_in_an_import_of_a_worker_is_shown_as_it_is(ready, line):
    module = Path("src/headswap/train/run.py")
    module.write_text(module.read_text().replace("\nimport ", f"\n{line}\nimport ", 1))
    failed = headswap("train", "tiny", "frozen")
    assert failed.returncode == 1
    assert re.search(
        r"headswap train: tiny-frozen seed \d (failed: Traceback|could not be started)",
        failed.stderr,
    )
    assert f"    {line}\n" in failed.stderr


@pytest.mark.slow
def test_what_was_started_with_nohup_outlives_its_shell(ready):
    command = f"nohup {BIN / 'headswap'} train tiny frozen &"
    subprocess.run(["sh", "-c", command], capture_output=True)  # until its output is closed
    assert Path("models/tiny-frozen").exists()


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "dash"])  # dash starts the command as a child of its own
def test_nothing_outlives_a_killed_dvc(ready, shell):
    if not shutil.which(shell):
        pytest.skip(f"needs {shell}")
    subprocess.run(["git", "init", "--quiet"], check=True)
    edit(train={"epochs": 3000})
    command = [BIN / "dvc", "repro", "--single-item", "train@tiny-frozen"]
    path = f"{BIN}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SHELL": shutil.which(shell)}
    dvc = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    for line in dvc.stdout:
        if "epoch 1/" in line:
            dvc.kill()
    assert dvc.wait() == -signal.SIGKILL  # and by now the output is closed
    assert list(Path("runs").rglob("*.pt"))
    assert not list(Path("runs").rglob("run.json"))


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


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_all_characters_stops_no_comparison(workspace, encoding):
    write_alexnet(40)
    edit(models=["alexnet"])
    done = headswap("compare", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert "standard deviation" in done.stdout and Path("metrics/comparison.md").exists()


@pytest.mark.parametrize("where", [{"seeds": [2**53]}, {"embed": {"views": 2, "seed": 2**53}}])
def test_a_seed_that_json_cannot_hold_is_refused(where):
    with pytest.raises(UserError, match="less than or equal to 9007199254740991"):
        params.parse(TREE | where)
    assert params.parse(TREE | {"seeds": [2**53 - 1]}).seeds == [9007199254740991]
