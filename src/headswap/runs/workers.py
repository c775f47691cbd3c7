"""A task in a child process: one thread, forked from a warm server, ended with its parent."""

import contextlib
import gc
import math
import multiprocessing
import os
import pkgutil
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver, util
from multiprocessing.connection import Connection
from typing import Any

from headswap.errors import UserError, os_error_text
from headswap.progress import OnProgress

WORKERS = "HEADSWAP_WORKERS"
TRAIN_RUN = "headswap.train.run:train_run"
"""The function that trains a run. Named, since this process does not need torch."""
PRELOADED = ["headswap.train.training"]
"""What the server that workers are forked from imports: torch, and all that uses it."""
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Of a worker: the number of threads changes the order of sums, and so the result."""
RESTARTS = 2
"""How often a task goes on from its checkpoint after a signal has killed its process."""
LONGEST_FOLDER = 70
"""Bytes of a path that leave room for the name of a socket: together at most 107, on macOS 103."""
CPU_LIMIT = "/sys/fs/cgroup/cpu.max"
"""What a container may use: microseconds of the processors in so many of the clock, or ``max``."""
_start_lock = threading.Lock()


@dataclass(frozen=True)
class Task:
    """A function to call in a process of its own, or in this one."""

    name: str
    function: str
    """As ``module:function``; called with `arguments` and an `OnProgress`, which comes last."""
    arguments: tuple[Any, ...]
    memory: int = 0
    """The bytes that it takes at most; 0 if that is not known."""
    steps: int = 1
    seconds: float = 1
    """How long a step takes, or in what ratio to those of other tasks."""

    def run(self, on_progress: OnProgress) -> Any:
        """Call the function; it may report progress as often as it likes."""
        function = pkgutil.resolve_name(self.function)
        return function(*self.arguments, _at_most_twice_a_second(on_progress))


def _at_most_twice_a_second(on_progress: OnProgress) -> OnProgress:
    """Leave out what comes sooner, unless it ends a step or has a note."""
    since = -math.inf

    def on_some_progress(
        done: float | None, figures: dict[str, float] | None = None, note: str = ""
    ) -> None:
        nonlocal since
        is_whole = done is None or done % 1 == 0
        if figures or note or is_whole or time.monotonic() - since > 0.5:
            since = time.monotonic()
            on_progress(done, figures, note)

    return on_some_progress


def worker_count() -> int:
    """Return the maximum number of tasks in parallel: ``HEADSWAP_WORKERS``, else one per core.

    A container has as many cores as its share. 0 means that tasks are computed one after another in
    the command's own process.
    """
    if not (text := os.environ.get(WORKERS)):
        affinity = getattr(os, "sched_getaffinity", None)
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        with contextlib.suppress(OSError, ValueError), open(CPU_LIMIT) as file:
            share, period = map(int, file.read().split())
            cores = max(1, min(cores, share // period))
        return cores
    if not text.isdecimal():
        raise UserError(f"{WORKERS} is {text!r}; set it to a whole number, or unset it.")
    return int(text)


def run_here(task: Task, on_progress: OnProgress) -> Any:
    """Run a task in this process, with one thread as in a child, for debuggers and profilers."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return task.run(on_progress)


def warm_up() -> None:
    """Start the server that workers are forked from; it imports torch once for all, meanwhile."""
    os.environ.update(ENVIRONMENT)
    if worker_count() == 0:
        return
    multiprocessing.set_forkserver_preload(PRELOADED)
    if len(os.fsencode(tempfile.gettempdir())) > LONGEST_FOLDER:
        folder, tempfile.tempdir = tempfile.tempdir, "/tmp"
        util.get_temp_dir()  # creates the folder in which this process keeps its sockets
        tempfile.tempdir = folder
    # Block SIGINT in the fork server, from its start on: the parent handles Ctrl-C.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def run_in_child(
    task: Task, folder: str, on_progress: OnProgress, is_wanted: Callable[[], bool]
) -> Any:
    """Run a task in a child process, which is started again if a signal kills it.

    The child works in `folder`. It is stopped when `is_wanted`, asked repeatedly, returns false.
    """
    if multiprocessing.current_process().daemon:
        raise UserError("This Dask worker may not start processes; use: dask worker --no-nanny")
    for restarts_left in reversed(range(RESTARTS + 1)):
        with _child(task, folder) as (process, receiver):
            try:
                while is_wanted():
                    if receiver.poll(0.2):
                        kind, content = receiver.recv()
                        if kind == "result":
                            return content
                        if kind == "failure":
                            raise UserError(f"{task.name} failed: {content}")
                        on_progress(*content)
                return None
            except EOFError:
                process.join()
                code = process.exitcode or 0
                reason = f"ended with exit code {code}"
                if code < 0:
                    reason = f"was killed by {signal.Signals(-code).name}"
                if code >= 0 or not restarts_left:
                    memory = f" If memory ran out, set {WORKERS}=1." * (code == -signal.SIGKILL)
                    raise UserError(
                        f"The process of {task.name} {reason}. Its finished epochs are saved."
                        f"{memory}\nContinue from there with: dvc repro"
                    ) from None
                on_progress(None, note=f"{reason}; it goes on from its checkpoint")


@contextlib.contextmanager
def _child(task: Task, folder: str) -> Iterator[tuple[Any, Connection]]:
    """Start a child process; yield it, and the connection that it writes to."""
    context = multiprocessing.get_context("forkserver")
    with _start_lock:  # two threads may not start processes at once
        warm_up()
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_run_task, args=(task, folder, sender), daemon=True)
        try:
            process.start()
        except EOFError:
            raise UserError(
                f"{task.name} could not be started, because of the error that is shown above.\n"
                "Correct it, then run: dvc repro"
            ) from None
        sender.close()
    try:
        yield process, receiver
    finally:
        process.terminate()
        process.join()
        receiver.close()


def _run_task(task: Task, folder: str, sender: Connection) -> None:
    """Run a task in its own process."""
    gc.freeze()  # speed: neither this process nor its exit searches torch's objects for garbage
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and stops its workers
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        _enter(folder)
        sender.send(("result", task.run(lambda *message: sender.send(("progress", message)))))
    except UserError as error:
        sender.send(("failure", str(error)))
    except Exception as error:
        text = traceback.format_exc()
        if isinstance(error, OSError) and error.filename:
            text = os_error_text(error)
        sender.send(("failure", text))


def _enter(folder: str) -> None:
    try:
        os.chdir(folder)
    except OSError as error:
        raise UserError(
            f"the folder {folder} cannot be entered: {error.strerror}.\n"
            "A worker on another machine needs the project's folder at the same path."
        ) from None


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
