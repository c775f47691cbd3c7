"""Runs on the workers of a Dask scheduler: what is refused, what is said, and what is recorded."""

import io
import re
import time
from pathlib import Path

import psutil
import pytest
from conftest import finish, project, read_until, sh, start
from distributed.system import memory_limit

from headswap.errors import UserError
from headswap.io import read_json
from headswap.runs.cluster import run_parallel
from headswap.runs.workers import Task

TRAIN = ("headswap", "train", "tiny", "frozen")


def nap(on_progress):
    begin = time.time()
    time.sleep(1)
    return begin, time.time()


@pytest.mark.slow
def test_tasks_that_need_more_memory_than_there_is_wait_for_each_other(workspace, monkeypatch):
    monkeypatch.setenv("HEADSWAP_WORKERS", "3")
    total = memory_limit()
    sizes = [0.3 * total, 0.3 * total, 0.6 * total, 0.6 * total, 50 * total]
    tasks = [Task(f"task {n}", f"{__name__}:nap", (), int(size)) for n, size in enumerate(sizes)]
    spans = run_parallel(tasks, lambda *_: None)

    def together(one, other):
        return max(one[0], other[0]) < min(one[1], other[1])

    assert together(spans[0], spans[1])
    assert not together(spans[2], spans[3])
    assert not any(together(spans[4], other) for other in spans[:4])


@pytest.mark.parametrize(("text", "limit"), [("1000000\n", 10**6), ("max\n", None)])
def test_the_memory_limit_of_a_container_counts(monkeypatch, text, limit):
    total = memory_limit()
    monkeypatch.setattr("distributed.system.open", lambda path: io.StringIO(text), raising=False)
    assert memory_limit() == (limit or total)


@pytest.mark.slow
def test_the_processor_of_a_worker_is_recorded(prepared, scheduler, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "from pathlib import Path\n"
        "read = Path.read_text\n"
        "Path.read_text = lambda path, *args, **options: ('model name: Another'\n"
        "    if path == Path('/proc/cpuinfo') else read(path, *args, **options))\n"
    )
    scheduler.worker(PYTHONPATH=str(tmp_path))
    sh(*TRAIN, **scheduler.variables)
    assert read_json("metrics/timing/tiny-frozen.json")["processor"] == "Another"


@pytest.mark.slow
def test_without_a_scheduler_at_the_address_it_is_said_what_to_type(prepared):
    address = "tcp://127.0.0.1:9"
    message = sh(*TRAIN, code=1, DASK_SCHEDULER_ADDRESS=address)
    assert "No Dask scheduler answers at tcp://127.0.0.1:9" in message
    assert "unset DASK_SCHEDULER_ADDRESS" in message


@pytest.mark.slow
def test_without_a_worker_it_is_said_and_ends_well_when_one_joins(prepared, scheduler):
    stage = start(*TRAIN, **scheduler.variables)
    read_until(stage, "No worker has joined")
    scheduler.worker()
    finish(stage)


@pytest.mark.slow
@pytest.mark.parametrize("difference", ["code", "versions", "nanny"])
def test_a_worker_that_would_compute_something_else_is_refused(
    prepared, scheduler, tmp_path, difference
):
    if difference == "code":
        loop = project(tmp_path / "other") / "src/headswap/train/loop.py"
        loop.write_text(loop.read_text() + "OTHER = 1\n")
        scheduler.worker(PYTHONPATH=str(tmp_path / "other/src"))
    elif difference == "versions":
        (tmp_path / "pillow-0.1.dist-info").mkdir()
        (tmp_path / "pillow-0.1.dist-info/METADATA").write_text("Name: pillow\nVersion: 0.1\n")
        scheduler.worker(PYTHONPATH=str(tmp_path))
    else:
        scheduler.worker(nanny="--nanny")
    message = sh(*TRAIN, code=1, **scheduler.variables)
    said = {"code": "other code", "versions": "versions.pillow", "nanny": "--no-nanny"}
    assert said[difference] in message
    assert not list(Path("runs").rglob("seed-*/run.json"))


@pytest.mark.slow
def test_a_full_disk_of_a_worker_is_reported_and_leaves_no_partial_file(prepared, scheduler):
    psutil.Process(scheduler.worker().pid).rlimit(psutil.RLIMIT_FSIZE, (2**12, 2**12))
    message = sh("headswap", "train", "tiny", "finetune", code=1, **scheduler.variables)
    assert re.search(r"tiny-finetune seed \d failed: .* could not be written", message)
    assert not list(Path("runs").rglob("*.pt")) and not list(Path("runs").rglob("*.partial"))


@pytest.mark.slow
def test_a_worker_without_the_folder_is_told_to_share_it(workspace, scheduler, monkeypatch):
    scheduler.worker()
    monkeypatch.setenv(*scheduler.variables.popitem())
    monkeypatch.setattr("os.getcwd", lambda: "/nowhere")
    monkeypatch.setenv("HEADSWAP_WORKERS", "1")
    with pytest.raises(UserError, match="/nowhere(.|\n)*same path"):
        run_parallel([Task("task", "builtins:print", ())], lambda *_: None)
