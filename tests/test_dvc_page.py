"""The commands of docs/dvc.md, in a project with a tiny network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, edit

from headswap.io import read_json

BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/dvc.md").read_text(), re.DOTALL)


@pytest.fixture
def shell(workspace):
    """Return a function that runs a block of the page that has some text in it."""
    edit(modes=["frozen"], seeds=[0], train={"epochs": 1})
    identity = {"GIT_AUTHOR_NAME": "n", "GIT_AUTHOR_EMAIL": "e"}
    environment = {
        **os.environ,
        **identity,
        **{name.replace("AUTHOR", "COMMITTER"): value for name, value in identity.items()},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COLUMNS": "120",
    }

    def run(text):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            capture_output=True,
            text=True,
            env=environment,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("git init --quiet --initial-branch main; git add .; git commit --quiet --message start")
    return run


@pytest.mark.slow
def test_the_commands_of_the_page_do_what_it_says(shell):
    outputs = {block: shell(block) for block in BLOCKS}

    def output(text):
        (found,) = [outputs[block] for block in BLOCKS if text in block]
        return found

    assert "up to date" in output("../colleague")
    assert (
        Path("../colleague/models/tiny-frozen").exists() and not Path("../colleague/runs").exists()
    )
    table = output("scripts/experiments.sh")
    assert all(name in table for name in ("lr-0.005", "lr-0.002", "two-epochs", "tiny-frozen.last"))
    assert max(map(len, table.splitlines())) <= 80
    paired = output("headswap diff")
    assert "lr-0.002 minus main" in paired and "tiny-frozen" in paired and "seed" in paired
    assert "up to date" in output("dvc exp branch")
    assert "tiny-frozen.last" in output("plots diff")
    assert Path("diff/index.html").exists()
    assert "| tiny-frozen.last" in Path("report.md").read_text()
    assert read_json("models/tiny-frozen/run-0.json")["recipe"]["lr"] == 0.004
    assert "MERGE_HEAD" not in os.listdir(".git") and "lr: 0.004" in shell(
        "git show HEAD:params.yaml"
    )
    assert shell("git rev-list --count --merges HEAD").strip() == "1"
    shell("git switch --quiet lr-twice; dvc checkout; dvc repro")  # gc kept the branch's results
    assert read_json("models/tiny-frozen/run-0.json")["recipe"]["lr"] == 0.002
