"""Whatever is killed, no process and no lock is left, and the same bytes come out afterwards."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import BIN, SLOW, copy_of, edit, finish, headswap, read_until, results, sh, start

from headswap.runs.store import is_locked

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="ends processes with their parent by prctl"),
]
CELL = "slow-finetune"
TRAIN = ("headswap", "train", "slow", "finetune")
DVC = ("dvc", "repro", "--single-item", f"train@{CELL}")


def prepare():
    """Make epochs so long that a kill comes between two."""
    edit(**SLOW, train={"epochs": 5, "batch_size": 2})


@pytest.fixture
def ready(prepared):
    prepare()
    return prepared


@pytest.fixture(scope="module")
def undisturbed(prepared_once, tmp_path_factory):
    """Return the results of a cell whose training nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        copy_of(prepared_once, tmp_path_factory.mktemp("undisturbed"), patch)
        prepare()
        headswap(*TRAIN[1:])
        return results()


def children(process):
    return psutil.Process(process.pid).children(recursive=True)


def computing(process):
    """Return the processes that train: those that a fork server started."""
    return [child for child in children(process) if child.ppid() != process.pid]


def assert_gone(processes):
    _, left = psutil.wait_procs(processes, timeout=40)
    left = [process for process in left if process.status() != psutil.STATUS_ZOMBIE]
    assert not left, left


def assert_same_bytes_and_nothing_left(undisturbed):
    printed = headswap(*TRAIN[1:])[0]
    assert "seed 0: epoch 1/5" not in printed
    assert results() == undisturbed and len(undisturbed) > 5
    assert not any(is_locked(path) for path in Path("runs").rglob("*.lock"))
    assert not [*Path("runs").rglob("*.partial"), *Path("runs").rglob("*.pt")]


@pytest.mark.parametrize("shell", ["bash", "dash"])  # dash starts the command as a child of its own
def test_after_dvc_was_killed(ready, undisturbed, shell):
    if not shutil.which(shell):
        pytest.skip(f"needs {shell}")
    subprocess.run(["git", "init", "--quiet"], check=True)
    dvc = start(*DVC, SHELL=shutil.which(shell))
    read_until(dvc, "epoch 2/5")
    processes = children(dvc)
    assert len(processes) > 2
    dvc.kill()
    dvc.communicate()
    assert_gone(processes)
    assert list(Path("runs").rglob("*.pt")) and not Path("models/slow-finetune").exists()
    assert_same_bytes_and_nothing_left(undisturbed)


@pytest.mark.parametrize("what", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_after_a_stage_was_stopped(ready, undisturbed, what):
    stage = start(*TRAIN)
    read_until(stage, "epoch 2/5")
    processes = children(stage)
    open_ports = [c for p in processes for c in p.net_connections() if c.status == "LISTEN"]
    assert {c.laddr.ip for c in open_ports} <= {"127.0.0.1"}
    stage.send_signal(what)
    if what == signal.SIGINT:
        assert "Stopped. Finished runs and epochs are saved" in finish(stage, code=1)
    else:
        finish(stage, code=-what)
    assert_gone(processes)
    assert list(Path("runs").rglob("*.pt")) and not Path("models/slow-finetune").exists()
    assert_same_bytes_and_nothing_left(undisturbed)


def test_a_run_goes_on_from_its_checkpoint_twice_and_is_then_named(ready):
    edit(train={"epochs": 200}, seeds=[0])
    stage = start(*TRAIN)
    for kill in range(3):
        read_until(stage, f"epoch {2 * kill + 2}/200")
        computing(stage)[0].kill()
        if kill < 2:
            read_until(stage, "was killed by SIGKILL; it goes on from its checkpoint")
    complaint = finish(stage, code=1)
    assert "slow-finetune seed 0 was killed by SIGKILL" in complaint
    assert "HEADSWAP_WORKERS=1" in complaint


def test_of_two_stages_that_train_the_same_cell_one_waits_for_the_other(ready):
    edit(train={"epochs": 40})
    first = start(*TRAIN)
    read_until(first, "epoch 1/40")
    waiting = sh(*TRAIN)
    assert "waits for another process" in waiting and "epoch" not in waiting
    finish(first)
    assert len(list(Path("runs/slow-finetune").glob("*/seed-*/run.json"))) == 2


@pytest.mark.parametrize(
    "what",
    [*("a run", "worker", "scheduler", "stage", "stage, by Ctrl-C", "nothing, but started twice")],
)
def test_after_a_kill_on_a_cluster(ready, undisturbed, scheduler, what):
    workers = [scheduler.worker(), scheduler.worker()]
    stage = start(*TRAIN, **scheduler.variables)
    read_until(stage, "epoch 2/5")
    for _ in range(100):  # the other run may start a little later
        busy = [worker for worker in workers if computing(worker)]
        of_workers = [child for worker in busy for child in computing(worker)]
        if len(of_workers) == 2:
            break
        time.sleep(0.1)
    assert len(of_workers) == 2
    if what == "a run":
        of_workers[0].kill()
        assert "was killed by SIGKILL; it goes on from its checkpoint" in finish(stage)
    elif what == "worker":
        busy[0].kill()
        finish(stage)
    elif what == "scheduler":
        scheduler.process.kill()
        message = finish(stage, code=1)
        assert "connection to the Dask scheduler" in message and "unset DASK" in message
    elif what == "stage":
        stage.kill()
        finish(stage, code=-signal.SIGKILL)
    elif what == "stage, by Ctrl-C":
        stage.send_signal(signal.SIGINT)
        assert "Stopped. Finished runs and epochs are saved" in finish(stage, code=1)
    else:
        another = start(*TRAIN, **scheduler.variables)
        finish(stage), finish(another)
    assert_gone(of_workers)
    assert_same_bytes_and_nothing_left(undisturbed)


def test_what_was_started_with_nohup_outlives_its_shell(ready, undisturbed):
    command = f"nohup {BIN / 'headswap'} train slow finetune &"
    subprocess.run(["sh", "-c", command], capture_output=True)  # until its output is closed
    assert results() == undisturbed
