"""Measure what the pipeline costs besides the training.

A `dvc repro` with nothing to do, against one of an empty pipeline of as many stages, in turn; all
stages once more when each run is finished already; and the start of the command line. On generated
images, in a folder of its own. Run it with:

    python benchmarks/overhead.py > benchmarks/OVERHEAD.md
"""

import os
import sys
import tempfile
from datetime import date
from pathlib import Path

from bench import CORES, ROOT, measured, spread
from ruamel.yaml import YAML

from headswap.train import provenance

sys.path.insert(0, str(ROOT / "tests"))

from conftest import edit, project  # noqa: E402

REPEATS = 5


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
    ratios = [a / b for a, b in zip(idle, of_none, strict=True)]
    print(f"""# What the pipeline costs besides the training

Made by `python benchmarks/overhead.py` on {date.today()}: {machine["processor"]}, {CORES} cores, \
Python {made_by["python"]}, torch {made_by["torch"]}. Whole processes; median and range of \
{REPEATS}.

| | seconds |
|---|---:|
| `dvc repro` with nothing to do, {stages} stages | {spread(idle, 2)} |
| the same of an empty pipeline of {stages} stages | {spread(of_none, 2)} |
| their ratio | {spread(ratios, 2)} |
| `headswap --help` | {spread(helps, 2)} |
| all {stages} stages again, each run being finished in `runs/` (`dvc repro --force`), once | \
{again:.0f} |
| of that, a stage (mean) | {again / stages:.1f} |""")


if __name__ == "__main__":
    main()
