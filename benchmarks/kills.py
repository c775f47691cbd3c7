"""Kill `dvc repro` at random moments, again and again, and see whether it ends as if undisturbed.

On generated images and a tiny network, in a folder of its own. Each time DVC, the stage, one of its
workers, or all together are killed, asked to stop, or interrupted; what is still running a second
later is killed. Then every process must be gone, and the next `dvc repro` goes on. Whenever a
pipeline comes to its end, every file but the clocks' must be what an undisturbed one wrote, byte
for byte; then another is begun. Run it with

    python benchmarks/kills.py --kills 50

which prints a table; its exit code is 1 if anything was left behind or different.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import psutil
import typer
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from conftest import edit, project  # noqa: E402

BIN = Path(sys.executable).parent
OUTPUTS = ("data/images", "data/weights", "data/embeddings", "models", "plots", "metrics")
CLOCKED = re.compile(r"/timing/|/comparison\.|/claims\.json|/plots/comparison/(time|costs)\.")
"""What a clock has a part in; all else is the same bytes each time."""
PATIENCE = 20
"""Seconds within which every process must be gone."""
VICTIMS = {
    "DVC": lambda tree: tree[:1],
    "the stage": lambda tree: [process for process in tree if _runs(process, "/bin/headswap")][:1],
    "a worker": lambda tree: [process for process in tree if _runs(process, "forkserver")][-1:],
    "all": lambda tree: tree,
}
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}


def _runs(process, word):
    try:
        return any(word in part for part in process.cmdline()[:4])
    except psutil.Error:
        return False


def lay_out(folder):
    """Make a project that takes about a minute, so that there is something to interrupt."""
    project(folder)
    edit(
        folder / "params.yaml",
        models=["slow"],
        factories={"slow": "my_networks:slow"},
        seeds=[0, 1, 2],
        train={"epochs": 8},
    )
    dvc(folder, "config", "core.no_scm", "true").wait()


def dvc(folder, *arguments):
    """Start DVC in a session of its own."""
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    environment.pop("HEADSWAP_MIRROR", None)
    with open(folder / "log", "a") as log:
        return subprocess.Popen(
            ["dvc", *arguments],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def inside(folder):
    """Return the processes that work in a folder, this one aside."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == folder and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:
            continue
    return found


def disturb(folder, chance):
    """Start `dvc repro` and kill part of it; return what was done, or None if it ended before."""
    running = dvc(folder, "repro")
    time.sleep(chance.uniform(0.2, 15))
    who, name = chance.choice(list(VICTIMS)), chance.choice(list(SIGNALS))
    if running.poll() is not None:
        if running.returncode:
            sys.exit(f"dvc repro failed by itself:\n{(folder / 'log').read_text()[-3000:]}")
        return None
    main = psutil.Process(running.pid)
    hit = VICTIMS[who]([main, *main.children(recursive=True)])
    if not hit:
        who, hit = "DVC", [main]
    for process in hit:
        with contextlib.suppress(psutil.Error):
            process.send_signal(SIGNALS[name])
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.wait(1)
    if running.poll() is None:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    return who, name


def left_over(folder):
    """Return how many processes are still there when patience is at its end; stop them then."""
    until = time.monotonic() + PATIENCE
    while inside(folder) and time.monotonic() < until:
        time.sleep(0.2)
    rest = inside(folder)
    for process in rest:
        with contextlib.suppress(psutil.Error):
            print("left behind:", *process.cmdline(), file=sys.stderr)
            process.kill()
    return len(rest)


def mend_locks(folder):
    """Remove DVC's files that the kill cut short, as docs/faults.md says; return how many."""
    cut = 0
    for path in (folder / ".dvc/tmp/rwlock", folder / "dvc.lock"):
        with contextlib.suppress(FileNotFoundError):
            try:
                content = YAML(typ="safe").load(path.read_text())  # JSON is YAML, too
                whole = path.name == "rwlock" or set(content) == {"schema", "stages"}
                whole = whole and isinstance(content, dict)
            except (TypeError, YAMLError):
                whole = False
            if not whole:
                path.unlink()
                cut += 1
    return cut


def contents(folder):
    """Return every output's bytes but those of what a clock said."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for output in OUTPUTS
        for path in sorted((folder / output).rglob("*"))
        if path.is_file() and not CLOCKED.search(path.as_posix())
    }


def differing(expected, folder):
    """Return the names of the files in a folder that are not what is expected, or not there."""
    found = contents(folder)
    names = expected.keys() | found.keys()
    return {name for name in names if expected.get(name) != found.get(name)}


def main(
    kills: Annotated[int, typer.Option(help="How many.", min=1)] = 50,
    seed: Annotated[int, typer.Option(help="Of the moments and the victims.")] = 0,
):
    """Kill, repeat, compare."""
    chance, tally, different = random.Random(seed), Counter(), set()
    orphans, locks, ends = 0, 0, 0
    with tempfile.TemporaryDirectory() as temporary:
        undisturbed, disturbed = Path(temporary, "undisturbed"), Path(temporary, "disturbed")
        lay_out(undisturbed)
        if dvc(undisturbed, "repro").wait():
            sys.exit((undisturbed / "log").read_text())
        expected = contents(undisturbed)
        lay_out(disturbed)
        while tally.total() < kills:
            done = disturb(disturbed, chance)
            orphans += left_over(disturbed)
            locks += mend_locks(disturbed)
            if done:
                tally[done] += 1
                print(*done, file=sys.stderr, flush=True)
            else:
                ends, different = ends + 1, different | differing(expected, disturbed)
                shutil.rmtree(disturbed)
                lay_out(disturbed)
        if dvc(disturbed, "repro").wait():
            sys.exit((disturbed / "log").read_text()[-3000:])
        ends, different = ends + 1, different | differing(expected, disturbed)
    print("| hit | " + " | ".join(SIGNALS) + " |\n|---|" + "---:|" * len(SIGNALS))
    for who in VICTIMS:
        print(f"| {who} | " + " | ".join(str(tally[who, name]) for name in SIGNALS) + " |")
    print(
        f"\n{kills} kills; {ends} pipelines came to their end. Processes left behind after "
        f"{PATIENCE} s: {orphans}. Files of DVC's own cut short: {locks}. "
        f"Files that differ: {', '.join(sorted(different)) or 'none'} of {len(expected)}."
    )
    sys.exit(bool(different or orphans))


if __name__ == "__main__":
    typer.run(main)
