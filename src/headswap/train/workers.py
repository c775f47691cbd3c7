"""Tasks in parallel: one process with one thread each, none of which outlives its parent."""

import gc
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any

from headswap.errors import UserError
from headswap.progress import OnProgress

WORKERS = "HEADSWAP_WORKERS"
ENVIRONMENT = {
    # One thread per run: the number of threads changes the order of sums, and so the result.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""Variables that a worker's libraries read when they are loaded."""


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
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


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
    multiprocessing.set_forkserver_preload(["headswap.train.run", "headswap.params"])
    # Ignore SIGINT in the fork server, from its start on: the parent handles Ctrl-C.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, handler)


def run_parallel(tasks: Sequence[Task], on_progress: OnProgress) -> list[Any]:
    """Run tasks in parallel, at most `worker_count` at a time.

    Parameters
    ----------
    tasks
        Started in this order.
    on_progress
        Called with a task's name and each message from it.

    Returns
    -------
    list
        The results of the tasks, in their order.

    Raises
    ------
    UserError
        If a task fails or its process dies. The other processes are stopped first.
    """
    if not tasks:
        return []
    warm_up()
    context = multiprocessing.get_context("forkserver")
    waiting = list(enumerate(tasks))
    running: dict[Connection, tuple[int, ForkServerProcess]] = {}
    results: dict[int, Any] = {}
    try:
        while waiting or running:
            while waiting and len(running) < worker_count():
                number, task = waiting.pop(0)
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_run_task, args=(task, sender), daemon=True)
                process.start()
                sender.close()
                running[receiver] = number, process
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                number, process = running[ready]
                kind, content = _receive(tasks[number], ready, process)
                if kind == "progress":
                    on_progress(tasks[number].name, content)
                elif kind == "result":
                    results[number] = content
                elif number in results:
                    del running[ready]
                else:
                    raise UserError(_exit_message(tasks[number], process.exitcode or 0))
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()
    return [results[number] for number in range(len(tasks))]


def _receive(task: Task, receiver: Connection, process: ForkServerProcess) -> tuple[str, Any]:
    """Return the next message of a task: ``progress`` or ``result`` with its content, or ``end``.

    Raises
    ------
    UserError
        If the message is that the task has failed.
    """
    try:
        kind, content = receiver.recv()
    except EOFError:
        process.join()
        return "end", None
    if kind == "failure":
        raise UserError(f"{task.name} failed: {content}")
    return kind, content


def _exit_message(task: Task, code: int) -> str:
    reason = f"ended with exit code {code}"
    if code < 0:
        reason = f"was killed by {signal.Signals(-code).name}"
    hint = f" If memory ran out, set {WORKERS}=1." if code == -signal.SIGKILL else ""
    return (
        f"The process of {task.name} {reason}. Its finished epochs are saved.{hint}\n"
        "Continue from there with: dvc repro"
    )


def _run_task(task: Task, sender: Connection) -> None:
    """Run a task in its own process."""
    gc.freeze()  # speed: neither this process nor its exit searches torch's objects for garbage
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and stops its workers
    threading.Thread(target=_exit_with_parent, daemon=True).start()

    def on_progress(**message: Any) -> None:
        sender.send(("progress", message))

    try:
        sender.send(("result", task.function(*task.arguments, on_progress=on_progress)))
    except UserError as error:
        sender.send(("failure", str(error)))
    except Exception as error:
        file = getattr(error, "filename", None)
        text = f"{file}: {getattr(error, 'strerror', error)}" if file else traceback.format_exc()
        sender.send(("failure", text))


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
