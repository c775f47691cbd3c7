"""Jobs side by side: one process and one thread each, and none left behind."""

import contextlib
import fcntl
import multiprocessing
import os
import pkgutil
import signal
import threading
import time
import traceback
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path

from headswap.errors import UserError

WORKERS = "HEADSWAP_WORKERS"
ENVIRONMENT = {
    # One thread a run: the number of threads changes the order of sums, and so the result.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # Keep freed memory: to hand gradients to the kernel, and ask for more, takes time at each step.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    # Ask for large pages, which large weights are read through a little faster.
    "THP_MEM_ALLOC_ENABLE": "1",
}


@dataclass
class Job:
    """A function to call in a process of its own.

    Attributes
    ----------
    name : str
        As messages call it.
    function : str
        Its name with its module's, which this process need not import; it is called with
        `arguments` and ``report``.
    arguments : tuple
        What can be pickled.
    """

    name: str
    function: str
    arguments: tuple


def stop_with_parent():
    """End this process, and so its workers, when the one that started it is gone.

    DVC, when it is killed, leaves its stage running.
    """
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def how_many():
    """Return the number of jobs to run side by side: ``HEADSWAP_WORKERS``, else one a core.

    Raises
    ------
    UserError
        If the variable is not a number from 1.
    """
    text = os.environ.get(WORKERS, "")
    if not text:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{WORKERS} is {text!r}; set it to a number from 1, or unset it.")
    return int(text)


def warm_up(module):
    """Start the process that workers fork from, which imports a module once for all of them.

    Importing torch takes seconds: called early, it goes on while this process does the same.
    `params`, which jobs are given, is imported there too.
    """
    os.environ.update(ENVIRONMENT)
    multiprocessing.set_forkserver_preload([module, "headswap.params"])
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server shall not, even as it starts
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, heard)


def side_by_side(jobs, on_progress):
    """Run jobs, as many at a time as there are workers.

    Parameters
    ----------
    jobs : list of Job
        Started in this order.
    tell : callable
        Called with a job's name and each dict that it reports.

    Returns
    -------
    list
        What the jobs returned, in their order.

    Raises
    ------
    UserError
        If a job fails or dies: the others are stopped first, and what they finished is kept.
    """
    if jobs:
        warm_up(jobs[0].function.rpartition(".")[0])
    context = multiprocessing.get_context("forkserver")
    waiting, running, results = list(enumerate(jobs)), {}, {}
    try:
        while waiting or running:
            while waiting and len(running) < how_many():
                number, job = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(job, theirs), daemon=True)
                process.start()
                theirs.close()
                running[ours] = number, process
            for pipe in wait(list(running)):
                number, process = running[pipe]
                kind, content = _hear(jobs[number], pipe, process)
                if kind == "report":
                    on_progress(jobs[number].name, content)
                elif kind == "result":
                    results[number] = content
                elif number in results:
                    del running[pipe]
                else:
                    raise UserError(_obituary(jobs[number], process.exitcode))
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()
    return [results[number] for number in range(len(jobs))]


def _hear(job, pipe, process):
    """Return what a job says next: ``report`` or ``result`` with its content, or ``end``."""
    try:
        kind, content = pipe.recv()
    except EOFError:
        process.join()
        return "end", None
    if kind == "failure":
        raise UserError(f"{job.name} failed: {content}")
    return kind, content


def _obituary(job, code):
    why = f"exit code {code}"
    if code < 0:
        why = f"killed by {signal.Signals(-code).name}"
    hint = ""
    if code == -signal.SIGKILL:
        hint = f" If memory ran out, set {WORKERS}=1."
    return (
        f"{job.name}: its process {why}. Finished epochs are kept.{hint}\n"
        "Go on from there with: dvc repro"
    )


def _work(job, pipe):
    """Run one job, in its own process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it and stops its workers
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        function = pkgutil.resolve_name(job.function)
        result = function(
            *job.arguments, on_progress=lambda **message: pipe.send(("report", message))
        )
        pipe.send(("result", result))
    except UserError as error:
        pipe.send(("failure", str(error)))
    except Exception as error:
        file = getattr(error, "filename", None)
        told = f"{file}: {error.strerror}" if file else traceback.format_exc()
        pipe.send(("failure", told))


def _die_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


@contextlib.contextmanager
def only_one(path):
    """Hold a lock for the length of a block.

    Parameters
    ----------
    path : path-like
        The lock; it tells who holds it, and is free once that process is gone.

    Raises
    ------
    UserError
        If another process holds it: which.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UserError(
                f"{path.parent.name} is being worked on by process {lock.read().strip()}.\n"
                "Wait for it, or stop it with `kill`, then run the same command again."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
