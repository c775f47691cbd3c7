"""A task in a child process: one thread, forked from a warm server, ended with its parent."""

import contextlib
import gc
import multiprocessing
import os
import pkgutil
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any

from headswap.errors import UserError, os_error_text
from headswap.progress import OnProgress

WORKERS = "HEADSWAP_WORKERS"
# Of a worker: the number of threads changes the order of sums, and so the result.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
CPU_LIMIT = "/sys/fs/cgroup/cpu.max"  # of a container: its share and the period, in microseconds
_start_lock = threading.Lock()  # two threads may not start processes at once


@dataclass(frozen=True)
class Task:
    """A function to call in a process of its own, or in this one."""

    name: str
    function: str  # as module:function
    arguments: tuple[Any, ...]  # an `OnProgress` follows them
    memory: int = 0  # the bytes that it takes at most, if that is known
    steps: int = 1
    seconds: float = 1  # how long a step takes, or in what ratio to those of other tasks

    def run(self, on_progress: OnProgress) -> Any:
        """Call the function; within a step, its progress is passed on at most twice a second."""
        since = 0.0

        def on_some_progress(done: float | None, figures: Any = None, note: str = "") -> None:
            nonlocal since
            is_whole = done is None or done % 1 == 0
            if figures or note or is_whole or time.monotonic() - since > 0.5:
                since = time.monotonic()
                on_progress(done, figures, note)

        return pkgutil.resolve_name(self.function)(*self.arguments, on_some_progress)


def worker_count() -> int:
    """Return the most tasks in parallel, by default one a core; 0: in the command's own process."""
    if text := os.environ.get(WORKERS):
        if not text.isdecimal():
            raise UserError(f"{WORKERS} is {text!r}; set it to a whole number, or unset it.")
        return int(text)
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError), open(CPU_LIMIT) as file:
        share, period = map(int, file.read().split())
        cores = max(1, min(cores, share // period))
    return cores


def warm_up() -> None:
    """Start the server that workers are forked from; it imports torch once for all, meanwhile."""
    os.environ.update(ENVIRONMENT)
    multiprocessing.set_forkserver_preload(["headswap.train.training"])
    if len(os.fsencode(tempfile.gettempdir())) > 70:
        tempfile.tempdir = "/tmp"  # a socket's path has at most 107 bytes, on macOS 103
    # Block SIGINT in the fork server, from its start on: the parent handles Ctrl-C.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def run_in_child(
    task: Task, folder: str, on_progress: OnProgress, is_wanted: Callable[[], bool]
) -> Any:
    """Run a task in a child process for as long as it is wanted, again if a signal kills it."""
    if multiprocessing.current_process().daemon:
        raise UserError("This Dask worker may not start processes; use: dask worker --no-nanny")
    for restarts_left in (2, 1, 0):
        process, receiver = _start(task, folder)
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
            killer = f"was killed by {signal.Signals(-code).name}" if code < 0 else ""
            if not killer or not restarts_left:
                memory = f" If memory ran out, set {WORKERS}=1." * (code == -signal.SIGKILL)
                text = f"The process of {task.name} {killer or f'ended with exit code {code}'}. "
                text += f"Its finished epochs are saved.{memory}\nContinue with: dvc repro"
                raise UserError(text) from None
            on_progress(None, None, f"{killer}; it goes on from its checkpoint")
        finally:
            process.terminate()
            process.join()
            receiver.close()


def _start(task: Task, folder: str) -> tuple[Any, Connection]:
    """Start a child process; return it, and the connection that it writes to."""
    context = multiprocessing.get_context("forkserver")
    with _start_lock:
        warm_up()
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_run_task, args=(task, folder, sender), daemon=True)
        try:
            process.start()
        except EOFError:
            error = f"{task.name} could not be started, because of the error that is shown above."
            raise UserError(f"{error}\nCorrect it, then run: dvc repro") from None
        sender.close()
    return process, receiver


def _run_task(task: Task, folder: str, sender: Connection) -> None:
    gc.freeze()  # speed: neither this process nor its exit searches torch's objects for garbage
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and stops its workers
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        if not os.path.isdir(folder):
            remedy = "A worker on another machine needs the project's folder at the same path."
            raise UserError(f"there is no folder {folder}.\n{remedy}")
        os.chdir(folder)
        sender.send(("result", task.run(lambda *message: sender.send(("progress", message)))))
    except UserError as error:
        sender.send(("failure", str(error)))
    except BrokenPipeError:  # the parent was killed just now
        os._exit(1)
    except Exception as error:
        text = traceback.format_exc()
        if isinstance(error, OSError) and error.filename:
            text = os_error_text(error)
        sender.send(("failure", text))


def _exit_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)
