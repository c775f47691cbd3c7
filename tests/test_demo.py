"""`make demo` runs the six cells of the default matrix in the folder demo/, without Git."""

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
    *("dvc.yaml", "params.yaml", "params-demo.yaml", ".dvcignore", ".dvc/plots", ".dvc/config"),
    *("data", "scripts", "src"),
)


@pytest.mark.slow
def test_the_demo_learns_without_git_and_changes_no_file_of_the_project(tmp_path, monkeypatch):
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
        ["sh", "scripts/demo.sh"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert demo.returncode == 0, demo.stderr
    assert "resnet18-finetune" in demo.stdout and "dvc_plots/index.html" in demo.stdout
    assert (tmp_path / "demo/dvc_plots/index.html").exists()
    summary = read_json(tmp_path / "demo/metrics/summary.json")
    cells = [cell.name for cell in params.load(ROOT / "params.yaml").cells()]
    assert summary.pop("near_duplicates") == 0
    assert {key.split(".")[0] for key in summary} == set(cells)
    assert all(summary[f"{cell}.best"] >= 0.9 for cell in cells if cell.endswith("probe"))
    after = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert {path for path in after if tmp_path / "demo" not in path.parents} == set(before)
    assert all(path.read_bytes() == content for path, content in before.items())
    monkeypatch.chdir(tmp_path / "demo")
    memory_is_as_expected()
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


def readmes_commands_work(project, environment):
    """Run all of README's commands of headswap, and its snippet, as they are written."""
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"^    (headswap .*)$", readme, re.MULTILINE)
    commands += sorted(set(re.findall(r"`(headswap [^`]*)`", readme)), key=lambda c: "--use" in c)
    assert len(commands) >= 9 and "--use" in commands[-1]
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
