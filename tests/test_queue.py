"""All unfinished runs in one queue, here, on the workers of a scheduler, and on two hosts."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from conftest import BIN, ROOT, copy_of, edit, enter, finish, project, read_until, sh, start

from headswap import params
from headswap.errors import UserError
from headswap.io import read_json, sha256, write_json
from headswap.runs import cluster
from headswap.runs.cluster import available_memory, run_parallel
from headswap.runs.locks import is_locked
from headswap.runs.queue import chosen_cells, queued_runs
from headswap.runs.store import runs_root
from headswap.runs.workers import Task

pytestmark = pytest.mark.slow
HOSTS = ("headswap1", "headswap2")
BRIDGE = "headswap0"
DASK = {"PATH": f"{BIN}:{os.environ['PATH']}"}


def results():
    """Return the digests of what the cells wrote that has no clock."""
    folders = ("models", "metrics/cells", "plots/curves", "plots/predictions")
    paths = [path for folder in folders for path in Path(folder).rglob("*.*") if path.is_file()]
    return {path.as_posix(): sha256(path) for path in sorted(paths)}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = project(tmp_path_factory.mktemp("prepared") / "project")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        prepare()
        sh("dvc", "repro", "weights", "embed")
    return folder


@pytest.fixture(scope="module")
def made_by_dvc(prepared, tmp_path_factory):
    """Return a project that `dvc repro` alone made."""
    with pytest.MonkeyPatch.context() as patch:
        folder = copy_of(prepared, tmp_path_factory.mktemp("alone"), patch)
        sh("dvc", "repro")
    return folder


@pytest.fixture(scope="module")
def undisturbed(made_by_dvc):
    """Return the results of a project that `dvc repro` alone made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made_by_dvc)
        return results()


def prepare(epochs=4):
    edit(
        models=["slow"],
        factories={"slow": "my_networks:slow"},
        train={"epochs": epochs, "batch_size": 2},
        embed={"views": 1},
        seeds=[0, 1, 2],
    )
    subprocess.run(["git", "init", "--quiet"], check=True)


@pytest.fixture
def ready(prepared, tmp_path, monkeypatch):
    """Return a project in which all is ready for training."""
    return copy_of(prepared, tmp_path, monkeypatch)


def test_the_queue_trains_what_the_stages_then_collect(ready, undisturbed):
    planned = sh("headswap", "runs", "--dry-run").splitlines()
    cells = ("finetune", "frozen", "probe")
    runs = [f"slow-{mode} seed {seed}" for mode in cells for seed in range(3)]
    assert planned[:-1] == runs and planned[-1].startswith("9 runs to train")
    assert not list(Path("runs").rglob("run.json"))
    output = sh("headswap", "runs", "slow-finetune", "slow-probe")
    assert "seed 2: epoch 4/4" in output and "(6/6 runs" in output and "frozen" not in output
    assert "3 runs trained" in sh("headswap", "runs")
    assert "0 runs" in sh("headswap", "runs")
    collected = sh("dvc", "repro")
    assert "epoch" not in re.sub("best\nepoch|epoch, %|best epoch|last epoch", "", collected)
    assert results() == undisturbed


def test_an_epoch_of_a_cell_is_expected_to_take_as_long_as_before_or_as_those_of_its_kind(ready):
    def expected():
        tasks = queued_runs(params.load().cells(), params.load())
        return {task.name.split()[0]: task.seconds for task in tasks}

    def write(name, timing):
        folder = Path("runs", name, "seed-0")
        folder.mkdir(parents=True)
        write_json(folder / "timing.json", timing)

    assert expected() == {"slow-finetune": 1, "slow-frozen": 1, "slow-probe": 1 / 400}
    for name, content in {
        "slow-finetune/a": {"epochs": [{"wall": 2}, {"wall": 6}]},
        "slow-finetune/b": {"epochs": [{"wall": 8}]},
        "slow-frozen/of-an-older-version": {"epochs": [{"seconds": 2}]},
        "slow-probe/damaged": {"epochs": 3},
    }.items():
        write(name, content)
    assert expected() == {"slow-finetune": 6, "slow-frozen": 6, "slow-probe": 6 / 400}
    write("slow-probe/a", {"epochs": [{"wall": 3}]})
    assert expected()["slow-probe"] == 3


def test_what_dvc_has_got_is_not_trained_again(made_by_dvc, tmp_path, monkeypatch):
    copy_of(made_by_dvc, tmp_path, monkeypatch)
    shutil.rmtree("runs")  # as in a clone that pulled the results
    assert "0 runs" in sh("headswap", "runs")
    edit(train={"lr": 0.05})
    assert "6 runs to train" in sh("headswap", "runs", "--dry-run")


def test_a_queue_whose_stages_are_not_ready_says_which_to_run(workspace):
    prepare()
    sh("dvc", "repro", "weights")
    message = sh("headswap", "runs", code=1)
    assert "Not up to date: embed@slow, fetch, verify." in message
    (command,) = re.findall("Run first: (.*)", message)
    sh(*command.split())
    assert "9 runs" in sh("headswap", "runs", "--dry-run")


def test_an_unknown_cell_is_told_the_one_that_was_meant(workspace):
    with pytest.raises(UserError, match="did you mean tiny-frozen"):
        chosen_cells(params.load(), ["tiny-frosen"])


def test_tasks_that_need_more_memory_than_there_is_wait_for_each_other(workspace, monkeypatch):
    monkeypatch.setenv("HEADSWAP_WORKERS", "3")
    total = available_memory()
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
    total = available_memory()
    monkeypatch.setattr(cluster, "open", lambda path: io.StringIO(text), raising=False)
    assert available_memory() == (limit or total)


def nap(on_progress):
    begin = time.time()
    time.sleep(1)
    return begin, time.time()


@pytest.mark.parametrize("address", ["here", "elsewhere"])
def test_ctrl_c_ends_the_queue_and_all_of_its_processes(ready, scheduler, address):
    edit(train={"epochs": 400})
    tcp, worker, _ = scheduler
    variables = {"DASK_SCHEDULER_ADDRESS": tcp} if address == "elsewhere" else {}
    a_worker = worker()
    queue = start("headswap", "runs", **variables)
    read_until(queue, "epoch 1/400")
    processes = psutil.Process(queue.pid).children(recursive=True)
    queue.send_signal(signal.SIGINT)
    assert "Stopped. Finished runs and epochs are saved" in finish(queue, code=1)
    psutil.wait_procs(processes, timeout=20)
    assert not any(alive(process) for process in processes)
    deadline = time.monotonic() + 40
    while training(a_worker) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not training(a_worker)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_listens_beyond_loopback(ready):
    stage = start("headswap", "train", "slow", "finetune")
    read_until(stage, "epoch 1/4")
    processes = [psutil.Process(stage.pid), *psutil.Process(stage.pid).children(recursive=True)]
    open_ports = [c for p in processes for c in p.net_connections() if c.status == "LISTEN"]
    assert {c.laddr.ip for c in open_ports} == {"127.0.0.1"}
    finish(stage)


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


@pytest.fixture
def scheduler(tmp_path):
    """Start a scheduler of its own; return its address, and a function that starts a worker."""
    processes = []

    def start_process(*command, cwd=None, **variables):
        process = subprocess.Popen(
            [str(BIN / "dask"), *map(str, command)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=cwd,
            env={**os.environ, **DASK, **variables},
        )
        processes.append(process)
        return process

    file = tmp_path / "scheduler.json"
    options = ("--host", "127.0.0.1", "--port", "0", "--scheduler-file", file, "--no-dashboard")
    scheduler = start_process("scheduler", *options)
    deadline = time.monotonic() + 30
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    address = re.search(r"tcp://[\d.:]+", file.read_text()).group()

    def worker(nanny=False, **variables):
        options = ["--nthreads", "2", "--host", "127.0.0.1", "--no-dashboard"]
        options += ["--memory-limit", "0", *["--no-nanny"] * (not nanny)]
        return start_process("worker", address, *options, cwd=tmp_path, **variables)

    yield address, worker, scheduler
    for process in processes:
        process.kill()
        process.wait()


def test_runs_on_the_workers_of_a_scheduler_have_the_same_bytes(ready, undisturbed, scheduler):
    address, worker, _ = scheduler
    first, _ = worker(), worker()
    stage = start("headswap", "runs", DASK_SCHEDULER_ADDRESS=address)
    read_until(stage, "epoch 2/4")
    children = psutil.Process(first.pid).children(recursive=True)
    first.kill()  # its runs go on elsewhere, from their checkpoints
    first.wait()
    assert "9 runs trained" in finish(stage)
    psutil.wait_procs(children, timeout=20)
    assert not any(alive(child) for child in children)
    assert "epoch 1/4" not in sh("dvc", "repro", DASK_SCHEDULER_ADDRESS=address)
    assert results() == undisturbed


@pytest.mark.parametrize("what", ["child", "stage", "scheduler", "nothing, but started twice"])
def test_after_a_kill_the_same_bytes_come_out_and_no_lock_is_left(
    ready, undisturbed, scheduler, what
):
    address, worker, its_process = scheduler
    a_worker, cell = worker(), "slow-finetune"
    stage = start("headswap", "runs", cell, DASK_SCHEDULER_ADDRESS=address)
    read_until(stage, "epoch 1/4")
    if what == "child":
        training(a_worker)[0].kill()
        assert "was killed by SIGKILL; it goes on from its checkpoint" in finish(stage)
    elif what == "stage":
        stage.kill()
        finish(stage, code=-signal.SIGKILL)
    elif what == "scheduler":
        its_process.kill()
        message = finish(stage, code=1)
        assert "connection to the Dask scheduler" in message and "unset DASK" in message
    else:
        another = start("headswap", "runs", cell, DASK_SCHEDULER_ADDRESS=address)
        finish(stage), finish(another)
    sh("dvc", "repro", f"train@{cell}")
    expected = {name: digest for name, digest in undisturbed.items() if cell in name}
    assert len(expected) > 5 and results() == expected
    assert not any(is_locked(path) for path in Path("runs").rglob("*.lock"))
    assert not list(Path("runs").rglob("*.partial")) and not list(Path("runs").rglob("*.pt"))


def test_the_processor_of_a_worker_is_recorded(ready, scheduler, tmp_path):
    address, worker, _ = scheduler
    (tmp_path / "sitecustomize.py").write_text(
        "from pathlib import Path\n"
        "read = Path.read_text\n"
        "Path.read_text = lambda path, *args, **options: ('model name: Another'\n"
        "    if path == Path('/proc/cpuinfo') else read(path, *args, **options))\n"
    )
    worker(PYTHONPATH=str(tmp_path))
    sh("headswap", "train", "slow", "finetune", DASK_SCHEDULER_ADDRESS=address)
    assert read_json("metrics/timing/slow-finetune.json")["processor"] == "Another"


def alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_a_killed_stage_stops_its_runs_on_other_workers(ready, scheduler):
    address, worker, _ = scheduler
    edit(train={"epochs": 400})
    a_worker = worker()
    stage = start("headswap", "train", "slow", "finetune", DASK_SCHEDULER_ADDRESS=address)
    read_until(stage, "epoch 1/400")
    stage.send_signal(signal.SIGKILL)
    stage.wait()
    deadline = time.monotonic() + 40
    while training(a_worker) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not training(a_worker) and a_worker.poll() is None


def training(worker):
    """Return the processes under a worker that compute: those below its fork server."""
    return [
        process
        for process in psutil.Process(worker.pid).children(recursive=True)
        if process.ppid() != worker.pid and alive(process)
    ]


def test_without_a_scheduler_at_the_address_it_is_said_what_to_type(ready):
    address = "tcp://127.0.0.1:9"
    message = sh("headswap", "train", "slow", "finetune", code=1, DASK_SCHEDULER_ADDRESS=address)
    assert "No Dask scheduler answers at tcp://127.0.0.1:9" in message
    assert "unset DASK_SCHEDULER_ADDRESS" in message


def test_without_a_worker_it_is_said_and_ends_well_when_one_joins(ready, scheduler):
    address, worker, _ = scheduler
    stage = start("headswap", "train", "slow", "finetune", DASK_SCHEDULER_ADDRESS=address)
    read_until(stage, "No worker has joined")
    worker()
    finish(stage)


@pytest.mark.parametrize("difference", ["code", "versions", "nanny"])
def test_a_worker_that_would_compute_something_else_is_refused(
    ready, scheduler, tmp_path, difference
):
    address, worker, _ = scheduler
    if difference == "code":
        loop = project(tmp_path / "other") / "src/headswap/train/loop.py"
        loop.write_text(loop.read_text() + "OTHER = 1\n")
        worker(PYTHONPATH=str(tmp_path / "other/src"))
    elif difference == "versions":
        (tmp_path / "pillow-0.1.dist-info").mkdir()
        (tmp_path / "pillow-0.1.dist-info/METADATA").write_text("Name: pillow\nVersion: 0.1\n")
        worker(PYTHONPATH=str(tmp_path))
    else:
        worker(nanny=True)
    message = sh("headswap", "train", "slow", "finetune", code=1, DASK_SCHEDULER_ADDRESS=address)
    said = {"code": "other code", "versions": "versions.pillow", "nanny": "--no-nanny"}
    assert said[difference] in message
    assert not list(Path("runs").rglob("seed-*/run.json"))


def test_a_full_disk_of_a_worker_is_reported_and_leaves_no_partial_file(ready, scheduler):
    address, worker, _ = scheduler
    psutil.Process(worker().pid).rlimit(psutil.RLIMIT_FSIZE, (2**12, 2**12))
    message = sh("headswap", "train", "slow", "finetune", code=1, DASK_SCHEDULER_ADDRESS=address)
    assert re.search(r"slow-finetune seed \d failed: .* could not be written", message)
    assert not list(Path("runs").rglob("*.pt")) and not list(Path("runs").rglob("*.partial"))


def test_a_worker_without_the_folder_is_told_to_share_it(workspace, scheduler, monkeypatch):
    address, worker, _ = scheduler
    worker()
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
    monkeypatch.setattr("os.getcwd", lambda: "/nowhere")
    with pytest.raises(UserError, match="/nowhere(.|\n)*same path"):
        run_parallel([Task("task", "time:sleep", (0,))], lambda *_: None)


def ip(*arguments, check=True):
    return subprocess.run(["ip", *arguments], check=check, capture_output=True, text=True)


@pytest.fixture
def hosts():
    """Make two network namespaces, 10.77.0.2 and 10.77.0.3; this one is 10.77.0.1."""
    if not shutil.which("ip") or ip("netns", "add", HOSTS[0], check=False).returncode:
        pytest.skip("needs iproute2, and the right to make network namespaces")
    try:
        ip("netns", "add", HOSTS[1])
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("addr", "add", "10.77.0.1/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for number, host in enumerate(HOSTS, 2):
            ip(
                "link",
                "add",
                f"cable{number}",
                "type",
                "veth",
                "peer",
                "name",
                "net",
                "netns",
                host,
            )
            ip("link", "set", f"cable{number}", "master", BRIDGE, "up")
            ip("-n", host, "addr", "add", f"10.77.0.{number}/24", "dev", "net")
            ip("-n", host, "link", "set", "net", "up")
            ip("-n", host, "link", "set", "lo", "up")
        yield
    finally:
        for host in HOSTS:
            ip("netns", "del", host, check=False)
        ip("link", "del", BRIDGE, check=False)


@pytest.fixture
def shared(prepared, monkeypatch):
    """Return a project that is not under /tmp, of which each host has its own."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        copy = copy_of(prepared, Path(folder), monkeypatch)
        Path(".venv").symlink_to(BIN.parent)
        yield copy


def commands():
    """Return the blocks of shell commands of the page."""
    return re.findall(r"```sh\n(.*?)```", (ROOT / "docs/cluster.md").read_text(), re.DOTALL)


def test_the_commands_of_the_page_train_on_two_hosts_with_the_same_bytes(
    hosts, shared, undisturbed
):
    certificate, machines, runs = commands()
    subprocess.run(["sh", "-ec", certificate], check=True, capture_output=True)
    scheduler, worker = machines.strip().splitlines()
    worker = re.search('"(.*)"', worker).group(1).replace("$PWD", str(shared))
    quiet = "exec 2> /dev/null"
    # A /tmp of its own, unless that would hide the environment that runs the tests.
    own_tmp = "true" if str(BIN).startswith("/tmp/") else "mount -t tmpfs tmpfs /tmp"
    started = [subprocess.Popen(["sh", "-c", f"{quiet}; {scheduler}"], start_new_session=True)]
    try:
        for host in HOSTS:
            script = f"{own_tmp}; cd /tmp; {quiet}; {worker}"
            command = ["ip", "netns", "exec", host, "unshare", "-m", "sh", "-c", script]
            started.append(subprocess.Popen(command, start_new_session=True))
        process = subprocess.Popen(
            ["sh", "-ec", runs], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        read_until(process, "seed 0: epoch 1/4")
        ip("link", "set", "cable2", "down")
        time.sleep(5)
        ip("link", "set", "cable2", "up")
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        assert "9 runs trained" in output
        assert results() == undisturbed
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
