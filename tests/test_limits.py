"""Terminals, limits of the system, forms of YAML, no Git: nothing stops without a clear message."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from headswap import params
from headswap.errors import UserError

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
