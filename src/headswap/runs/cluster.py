"""Tasks in parallel on a Dask cluster: one in this process, or that at DASK_SCHEDULER_ADDRESS."""

import contextlib
import functools
import logging
import math
import os
import queue
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from headswap.errors import UserError
from headswap.progress import OnProgress, console
from headswap.runs.workers import Task, run_here, run_in_child, warm_up, worker_count

ADDRESS = "DASK_SCHEDULER_ADDRESS"
"""Dask's own variable: where the scheduler is whose workers compute the tasks."""
MEMORY = "memory"
"""The Dask resource that limits how many tasks run side by side: bytes."""
DASK_SETTINGS = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "10s",
}
"""Speed: Dask's profiler and system monitor, which are not used here, took 4 % of a core."""
PATIENCE = 10
"""Seconds to wait for a scheduler, and without any worker until that is said."""


def run_parallel(tasks: Sequence[Task], on_progress: OnProgress) -> list[Any]:
    """Start tasks in their order, as many at a time as memory allows, and return their results.

    If one fails, its process dies repeatedly, or the scheduler is lost, the others are stopped.
    """
    if worker_count() == 0:
        return [run_here(task, functools.partial(on_progress, task.name)) for task in tasks]
    available, results = available_memory(), dict[int, Any]()
    on_local = not os.environ.get(ADDRESS)  # on other machines their owner decides on memory
    with _client(len(tasks)) as client:
        messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        topic = f"headswap-{uuid.uuid4()}"
        client.subscribe_topic(topic, lambda event: messages.put(event[1]))
        futures = [
            client.submit(
                _run_on_worker,
                task,
                number,
                os.getcwd(),
                topic,
                key=f"{task.name}-{uuid.uuid4()}",
                priority=-number,
                # One task must always fit.
                resources={MEMORY: min(task.memory, available)} if on_local and task.memory else {},
            )
            for number, task in enumerate(tasks)
        ]
        for future in futures:
            future.add_done_callback(messages.put)
        try:
            for number, kind, content in _received(client, messages):
                if kind == "progress":
                    on_progress(tasks[number].name, *content)
                elif kind == "failure":
                    raise UserError(content)
                else:
                    results[number] = content
                    if len(results) == len(tasks):
                        break
        finally:
            client.cancel(futures, force=True)
    return [results[number] for number in range(len(tasks))]


@contextlib.contextmanager
def _client(tasks: int) -> Iterator[Any]:
    """Connect to the scheduler at `ADDRESS`, or start one in this process."""
    import dask
    from distributed import Client, LocalCluster

    logging.disable(logging.CRITICAL)  # Dask's errors come as messages
    if address := os.environ.get(ADDRESS):
        try:
            client = Client(address, timeout=PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:  # a TimeoutError is an OSError
            raise UserError(
                f"No Dask scheduler answers at {address} ({ADDRESS}): {error}\n"
                f"Start one with `dask scheduler`, or train on this machine: unset {ADDRESS}"
            ) from None
        with client:
            yield client
        return
    warm_up()
    # Within a process nothing needs to listen; what does so nevertheless, on loopback only.
    with (
        dask.config.set(DASK_SETTINGS),
        LocalCluster(
            n_workers=1,
            threads_per_worker=min(tasks, worker_count()),
            processes=False,
            protocol="inproc",
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            memory_limit=0,
            resources={MEMORY: available_memory()},
            silence_logs="CRITICAL",
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def available_memory() -> int:
    """Return the bytes of memory of this machine, or of its container if that has a limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError), open(path) as file:
            total = min(total, int(file.read()))
    return total


def _received(client: Any, messages: "queue.SimpleQueue[Any]") -> Iterator[tuple[int, str, Any]]:
    """Yield task number, kind and content of each message: a task's result after its progress.

    The two take different ways, and a result may overtake.
    """
    counts: dict[int, int] = {}
    waiting: dict[int, tuple[int, str, Any]] = {}
    idle_since = time.monotonic()
    while True:
        try:
            message = messages.get(timeout=1)
        except queue.Empty:
            if client.status != "running":
                raise _lost() from None
            if client.scheduler_info(n_workers=-1)["workers"]:
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > PATIENCE:
                idle_since = math.inf  # it is said once
                console.print(
                    f"No worker has joined the scheduler at {os.environ.get(ADDRESS)} yet. "
                    "Waiting; start one with: dask worker --no-nanny"
                )
            continue
        if isinstance(message, dict):
            number = message["task"]
            counts[number] = counts.get(number, 0) + 1
            yield number, "progress", message["progress"]
        else:
            number, sent, kind, content = _outcome(message)
            waiting[number] = sent, kind, content
        for number, (sent, kind, content) in list(waiting.items()):
            if counts.get(number, 0) >= sent or kind == "failure":
                del waiting[number]
                yield number, kind, content


def _outcome(future: Any) -> tuple[int, int, str, Any]:
    if future.status == "finished":
        return future.result()
    if future.status in ("cancelled", "lost"):
        raise _lost()
    error = future.exception()
    raise UserError(
        f"The workers at {os.environ.get(ADDRESS, 'this machine')} could not run a task: {error}\n"
        "Start the workers in this project's environment and folder, then run: dvc repro"
    )


def _lost() -> UserError:
    return UserError(
        f"The connection to the Dask scheduler at {os.environ.get(ADDRESS)} was lost. Finished "
        f"epochs are saved.\nStart it again, or unset {ADDRESS}; then run: dvc repro"
    )


def _run_on_worker(task: Task, number: int, folder: str, topic: str) -> tuple[int, int, str, Any]:
    """Run a task in a child process of a Dask worker; what it reports is sent on `topic`.

    Return its number, how often it reported, and ``result`` or ``failure`` with the content.
    """
    from distributed import get_worker

    worker, sent = get_worker(), 0
    key = worker.get_current_task()

    def send(done: float | None, figures: dict[str, float] | None = None, note: str = "") -> None:
        nonlocal sent
        sent += 1
        worker.log_event(topic, {"task": number, "progress": [done, figures, note]})

    def is_wanted() -> bool:
        state = worker.state.tasks.get(key)
        return state is not None and state.state == "executing"

    send(None)  # so that its progress is shown from the start
    try:
        return number, sent, "result", run_in_child(task, folder, send, is_wanted)
    except UserError as error:
        where = f" (on {socket.gethostname()})" if os.environ.get(ADDRESS) else ""
        return number, sent, "failure", f"{error}{where}"
