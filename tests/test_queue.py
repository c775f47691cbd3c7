"""The plan of the queue: which runs, how long they take, and where they are kept."""

import subprocess
from pathlib import Path

import pytest

from headswap import params
from headswap.errors import UserError
from headswap.io import write_json
from headswap.runs.queue import chosen_cells, queued_runs
from headswap.runs.store import runs_root


def test_an_epoch_of_a_cell_is_expected_to_take_as_long_as_before_or_as_those_of_its_kind(prepared):
    def expected():
        tasks, _ = queued_runs(params.load().cells(), params.load())
        return {task.name.split()[0]: task.seconds for task in tasks}

    def write(name, timing):
        folder = Path("runs", name, "seed-0")
        folder.mkdir(parents=True)
        write_json(folder / "timing.json", timing)

    assert expected() == {"tiny-finetune": 1, "tiny-frozen": 1, "tiny-probe": 1 / 400}
    for name, content in {
        "tiny-finetune/a": {"epochs": [{"wall": 2}, {"wall": 6}]},
        "tiny-finetune/b": {"epochs": [{"wall": 8}]},
        "tiny-frozen/of-an-older-version": {"epochs": [{"seconds": 2}]},
        "tiny-probe/damaged": {"epochs": 3},
    }.items():
        write(name, content)
    assert expected() == {"tiny-finetune": 6, "tiny-frozen": 6, "tiny-probe": 6 / 400}
    write("tiny-probe/a", {"epochs": [{"wall": 3}]})
    assert expected()["tiny-probe"] == 3


def test_an_unknown_cell_is_told_the_one_that_was_meant(workspace):
    with pytest.raises(UserError, match="did you mean tiny-frozen"):
        chosen_cells(params.load(), ["tiny-frosen"])


def test_experiments_and_worktrees_share_the_runs_of_the_main_checkout(workspace, monkeypatch):
    assert runs_root() == Path("runs")
    experiment = workspace / ".dvc/tmp/exps/standalone/tmp123"
    experiment.mkdir(parents=True)
    monkeypatch.chdir(experiment)
    assert runs_root() == workspace / "runs"
    worktree = workspace.parent / "worktree"
    git = ["git", "-C", workspace]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "dvc.yaml"], check=True)
    commit = ["-c", "user.name=n", "-c", "user.email=e", "commit", "--quiet", "--message", "m"]
    subprocess.run([*git, *commit], check=True)
    subprocess.run([*git, "worktree", "add", "--quiet", worktree], check=True)
    monkeypatch.chdir(worktree)
    assert runs_root() == workspace / "runs"
