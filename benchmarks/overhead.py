"""Measure what the pipeline costs besides the training.

A `dvc repro` with nothing to do, against one of an empty pipeline of as many stages, in turn; all
stages once more when each run is finished already; the start of the command line; and that of a
stage with work and without, against the revision before the runs were queued. On generated images,
in folders of its own. Run it with:

    python benchmarks/overhead.py > benchmarks/OVERHEAD.md
"""

import os
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from bench import CORES, ROOT, measured, spread
from ruamel.yaml import YAML

from headswap.runs import provenance

sys.path.insert(0, str(ROOT / "tests"))

from conftest import edit, project  # noqa: E402

REPEATS = 5
BEFORE = "2b23fa4~1"
"""The last revision in which a stage had workers of its own in place of Dask."""
FINISHED = ["dvc", "repro", "--quiet", "--force", "--no-run-cache", "-s", "train@tiny-frozen"]
UNFINISHED = ["sh", "-c", "rm -rf runs && headswap train tiny frozen"]


def count(folder):
    """Return the number of stages."""
    return len(YAML(typ="safe").load(folder / "dvc.lock")["stages"])


def empty(folder, stages):
    """Make a pipeline of as many stages, each of which depends on one file and writes another."""
    folder.mkdir()
    (folder / "0").write_text("")
    steps = {
        f"stage{number}": {
            "cmd": f"cp {number} {number + 1}",
            "deps": [str(number)],
            "outs": [str(number + 1)],
        }
        for number in range(stages)
    }
    YAML().dump({"stages": steps}, folder / "dvc.yaml")
    measured(["dvc", "init", "--quiet", "--no-scm"], folder)
    measured(["dvc", "repro", "--quiet"], folder)


def seconds(command, *folders):
    """Return for each folder the seconds that a command took in it, several times, in turn."""
    times = [[measured(command, folder)[1] for folder in folders] for _ in range(REPEATS)]
    return [list(of_folder) for of_folder in zip(*times, strict=True)]


def small(folder, revision=None):
    """Make a project whose stage `train` takes one run of one epoch, maybe with earlier code."""
    project(folder)
    edit(folder / "params.yaml", modes=["frozen"], seeds=[0], train={"epochs": 1})
    if revision:
        shutil.rmtree(folder / "src")
        archive = subprocess.Popen(
            ["git", "archive", revision, "src", "scripts", "dvc.yaml"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        subprocess.run(["tar", "-x", "-C", folder], stdin=archive.stdout, check=True)
    measured(["dvc", "config", "core.no_scm", "true"], folder)
    measured(["dvc", "repro", "--quiet"], folder)
    return folder


def main():
    """Print the table as Markdown."""
    os.environ.pop("HEADSWAP_MIRROR", None)
    machine, made_by = provenance.machine(), provenance.versions()
    with tempfile.TemporaryDirectory() as temporary:
        ours, none = Path(temporary, "ours"), Path(temporary, "empty")
        project(ours)
        edit(ours / "params.yaml", models=["alexnet", "resnet18"], modes=["finetune", "frozen"])
        measured(["dvc", "config", "core.no_scm", "true"], ours)
        measured(["dvc", "repro", "--quiet"], ours)
        stages = count(ours)
        empty(none, stages)
        idle, of_none = seconds(["dvc", "repro", "--quiet"], ours, none)
        _, again, _ = measured(["dvc", "repro", "--quiet", "--force", "--no-run-cache"], ours)
        (helps,) = seconds(["headswap", "--help"], ours)
        folders = small(Path(temporary, "now")), small(Path(temporary, "before"), BEFORE)
        work, work_before = seconds(UNFINISHED, *folders)
        no_work, no_work_before = seconds(FINISHED, *folders)
    ratios, of_work, of_no_work = (
        spread([a / b for a, b in zip(*pair, strict=True)], 2)
        for pair in ((idle, of_none), (work, work_before), (no_work, no_work_before))
    )
    print(f"""# What the pipeline costs besides the training

Made by `python benchmarks/overhead.py` on {date.today()}: {machine["processor"]}, {CORES} cores, \
Python {made_by["python"]}, torch {made_by["torch"]}. Whole processes; median and range of \
{REPEATS}.

| | seconds |
|---|---:|
| `dvc repro` with nothing to do, {stages} stages | {spread(idle, 2)} |
| the same of an empty pipeline of {stages} stages | {spread(of_none, 2)} |
| their ratio | {ratios} |
| `headswap --help` | {spread(helps, 2)} |
| all {stages} stages again, each run being finished in `runs/` (`dvc repro --force`), once | \
{again:.0f} |
| of that, a stage (mean) | {again / stages:.1f} |
| `headswap train` of one run of one epoch of a tiny network | {spread(work, 2)} |
| the same before runs were queued (`{BEFORE}`) | {spread(work_before, 2)} |
| their ratio | {of_work} |
| `dvc repro` of that stage when its run is finished | {spread(no_work, 2)} |
| the same before runs were queued | {spread(no_work_before, 2)} |
| their ratio | {of_no_work} |""")


if __name__ == "__main__":
    main()
