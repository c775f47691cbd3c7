"""`make demo` runs three cells in the folder demo/, where README's commands work as written."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from headswap import params
from headswap.io import read_json
from headswap.runs.store import expected_memory

COPIED = (
    "networks",
    *("dvc.yaml", "params.yaml", "params-demo.yaml", ".dvcignore", ".gitignore"),
    *(".dvc/plots", ".dvc/config", ".dvc/.gitignore", "data", "scripts", "src"),
)


@pytest.mark.slow
def test_the_demo_learns_and_readmes_commands_work_in_its_folder_alone(tmp_path, monkeypatch):
    for name in COPIED:
        source, target = ROOT / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            outputs = ("*.zip", "images", "weights", "embeddings")
            ignored = shutil.ignore_patterns("__pycache__", *outputs if name == "data" else ())
            shutil.copytree(source, target, ignore=ignored)
        else:
            shutil.copy(source, target)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    demo = subprocess.run(
        ["sh", "scripts/demo.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert demo.returncode == 0, demo.stderr
    assert "ants and bees" in demo.stdout.splitlines()[0]
    assert "resnet18-finetune" in demo.stdout and "write-up" not in demo.stdout
    places = re.findall("file://(.*)", demo.stdout)
    assert [Path(place).name for place in places] == ["accuracy.png", "report.html"]
    assert all(Path(place).exists() for place in places)
    summary = read_json(tmp_path / "demo/metrics/summary.json")
    cells = [cell.name for cell in params.load(ROOT / "params-demo.yaml").cells()]
    assert summary.pop("near_duplicates") == 0
    assert {key.removesuffix(".last") for key in summary if "." in key} == set(cells)
    assert all(summary[f"{cell}.last"] >= 0.9 for cell in cells if cell.endswith("probe"))
    after = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert {path for path in after if tmp_path / "demo" not in path.parents} == set(before)
    assert all(path.read_bytes() == content for path, content in before.items())
    monkeypatch.chdir(tmp_path / "demo")
    memory_is_as_expected()
    notebook_runs(tmp_path)
    commands_of_dvc_and_git_work(environment)
    readmes_commands_work(tmp_path / "demo", environment)


def memory_is_as_expected():
    """Check that no run took more memory than is expected of a cell without earlier runs."""
    peaks = {}
    for path in Path("runs").glob("*/*/seed-*/timing.json"):
        cell = path.parents[2].name
        peaks[cell] = max(peaks.get(cell, 0), read_json(path)["memory_bytes"])
    Path("runs").rename("finished")
    for cell in params.load().cells():
        assert 0 < peaks[cell.name] <= expected_memory(cell), cell.name
    Path("finished").rename("runs")


def notebook_runs(folder):
    """Execute docs/notebook.ipynb beside the demo, and look at its tables and pictures."""
    import nbclient
    import nbformat

    notebook = nbformat.read(ROOT / "docs/notebook.ipynb", as_version=4)
    (folder / "Makefile").touch()
    nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(folder)}}
    ).execute()
    (folder / "Makefile").unlink()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [kind for output in outputs for kind in output.get("data", {})]
    assert shown.count("image/png") == 3 and shown.count("text/html") == 2
    (answer,) = re.findall(
        r"\{'ants': ([\d.e-]+), 'bees': ([\d.e-]+)\}", outputs[-1].data["text/plain"]
    )
    assert sum(map(float, answer)) == pytest.approx(1)


def commands_of_dvc_and_git_work(environment):
    """Run README's commands of dvc and git as they are written; then commit a branch."""

    def shell(command):
        done = subprocess.run(
            ["sh", "-ec", command], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    assert shell("headswap status").endswith("They are compared; nothing is left to do.\n")
    assert not shell("git status --short") and "up to date" in shell("dvc repro")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = list(dict.fromkeys(re.findall(r"`((?:dvc|git) [^`]*)`", readme)))
    assert commands[0] == "dvc repro" and "dvc exp run -n lr-0.01 -S train.lr=0.01" in commands
    # Without Git; and the bare command, which would start another experiment.
    commands = [one for one in commands if "no_scm" not in one and one != "dvc exp run"]
    for command in commands:
        shell(command)
    assert read_json("models/resnet18-frozen/run-0.json")["recipe"]["lr"] == 0.01
    shell("git switch --quiet --create faster; git commit --quiet --all --message faster")
    shell("git switch --quiet main; dvc checkout")
    assert "up to date" in shell("dvc repro")
    assert read_json("models/resnet18-frozen/run-0.json")["recipe"]["lr"] == 0.001


def readmes_commands_work(project, environment):
    """Run all of README's commands of headswap, and its snippet, as they are written."""
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"^    (headswap .*)$", readme, re.MULTILINE)
    commands += sorted(set(re.findall(r"`(headswap [^`]*)`", readme)), key=lambda c: "--use" in c)
    assert len(commands) >= 9 and "--use" in commands[-1]
    commands = [one.replace("choose 3", "choose 1") for one in commands]  # it has one network
    for number, image in enumerate(sorted((project / "data/images/val").rglob("*.*"))):
        target = project / "photos" / image.parent.name / f"{number}{image.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, target)
        shutil.copy(image, project / "a.jpg")
        shutil.copy(image, project / "photo.jpg")
    shutil.copytree(project / "photos", project / "new")
    (snippet,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    for command in [["python", "-c", snippet], *(["sh", "-c", command] for command in commands)]:
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    for name in ("found.csv", "why", "for-others/model.onnx", "report.html"):
        assert (project / name).exists()
    assert "url: photos" in (project / "params.yaml").read_text()
