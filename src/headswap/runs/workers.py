"""A task in a child process: one thread, forked from a warm server, ended with its parent."""

import gc
import multiprocessing
import os
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver, util
from multiprocessing.connection import Connection
from typing import Any

from headswap.errors import UserError, os_error_text

WORKERS = "HEADSWAP_WORKERS"
ENVIRONMENT = {
    # One thread per run: the number of threads changes the order of sums, and so the result.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""Variables that a worker's libraries read when they are loaded."""
RESTARTS = 2
"""How often a task goes on from its checkpoint after a signal has killed its process."""
LONGEST_FOLDER = 70
"""Bytes of a path that leave room for the name of a socket: together at most 107, on macOS 103."""
_start_lock = threading.Lock()


@dataclass(frozen=True)
class Task:
    """A function to call in a process of its own.

    Attributes
    ----------
    name
        The task's name in messages.
    function
        Called with `arguments` and ``on_progress``, which takes keyword arguments. It can be
        pickled, and so can its arguments and result.
    arguments
    memory
        The bytes of memory that it is expected to take at most; 0 if that is not known.
    steps
        How many messages it will send.
    seconds
        About how long a step takes, or in what ratio to those of other tasks.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    memory: int = 0
    steps: int = 1
    seconds: float = 1


def worker_count() -> int:
    """Return the maximum number of tasks in parallel: ``HEADSWAP_WORKERS``, else one per core.

    Raises
    ------
    UserError
        If the variable is not a positive whole number.
    """
    text = os.environ.get(WORKERS, "")
    if not text:
        affinity = getattr(os, "sched_getaffinity", None)
        return len(affinity(0)) if affinity else os.cpu_count() or 1
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{WORKERS} is {text!r}; set it to a whole number from 1, or unset it.")
    return int(text)


def warm_up() -> None:
    """Start the server process that workers are forked from; it imports torch once for all.

    The import takes seconds; this process continues in the meantime.
    """
    os.environ.update(ENVIRONMENT)
    multiprocessing.set_forkserver_preload(["headswap.runs.preload"])
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
    task: Task,
    folder: str,
    send: Callable[[dict[str, Any]], None],
    is_wanted: Callable[[], bool],
) -> Any:
    """Run a task in a child process, which is started again if a signal kills it.

    Parameters
    ----------
    task
        What to run.
    folder
        The project's folder, in which the child works.
    send
        Called with each message of the task.
    is_wanted
        Asked from time to time; when it is false, the child is stopped.

    Returns
    -------
    object
        The task's result.

    Raises
    ------
    UserError
        If the task fails, or its process dies once more than `RESTARTS`.
    """
    if multiprocessing.current_process().daemon:
        raise UserError(
            "This Dask worker may not start processes.\nStart it with: dask worker --no-nanny"
        )
    context = multiprocessing.get_context("forkserver")
    for restarts_left in reversed(range(RESTARTS + 1)):
        with _start_lock:  # two threads may not start processes at once
            warm_up()
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_run_task, args=(task, folder, sender), daemon=True)
            process.start()
            sender.close()
        try:
            while is_wanted():
                if receiver.poll(0.2):
                    kind, content = receiver.recv()
                    if kind == "result":
                        return content
                    if kind == "failure":
                        raise UserError(f"{task.name} failed: {content}")
                    send(content)
            return None
        except EOFError:
            process.join()
            code = process.exitcode or 0
            if code >= 0 or not restarts_left:
                raise UserError(_exit_message(task, code)) from None
            note = f"was killed by {signal.Signals(-code).name}; it goes on from its checkpoint"
            send({"by": 0, "note": note})
        finally:
            process.terminate()
            process.join()
            receiver.close()


def _exit_message(task: Task, code: int) -> str:
    reason = f"ended with exit code {code}"
    if code < 0:
        reason = f"was killed by {signal.Signals(-code).name}"
    hint = f" If memory ran out, set {WORKERS}=1." if code == -signal.SIGKILL else ""
    return (
        f"The process of {task.name} {reason}. Its finished epochs are saved.{hint}\n"
        "Continue from there with: dvc repro"
    )


def _run_task(task: Task, folder: str, sender: Connection) -> None:
    """Run a task in its own process."""
    gc.freeze()  # speed: neither this process nor its exit searches torch's objects for garbage
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and stops its workers
    threading.Thread(target=_exit_with_parent, daemon=True).start()

    def on_progress(**message: Any) -> None:
        sender.send(("progress", message))

    try:
        _enter(folder)
        sender.send(("result", task.function(*task.arguments, on_progress=on_progress)))
    except UserError as error:
        sender.send(("failure", str(error)))
    except Exception as error:
        text = traceback.format_exc()
        if isinstance(error, OSError) and error.filename:
            text = os_error_text(error)
        sender.send(("failure", text))


def _enter(folder: str) -> None:
    """Make the project's folder the working folder; raise a UserError if it is not there."""
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
