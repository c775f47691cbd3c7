"""Tasks in parallel on a Dask cluster: one in this process, or that at DASK_SCHEDULER_ADDRESS."""

import logging
import os
import socket
import uuid
from collections.abc import Sequence
from concurrent.futures import CancelledError
from functools import partial
from typing import Any

from threadpoolctl import threadpool_limits

from headswap.errors import UserError
from headswap.progress import OnProgress, console
from headswap.runs.workers import Task, run_in_child, warm_up, worker_count

ADDRESS = "DASK_SCHEDULER_ADDRESS"  # Dask's own variable


def run_parallel(
    tasks: Sequence[Task], on_progress: OnProgress, in_process: bool = False
) -> list[Any]:
    """Run tasks, as many at a time as memory allows; return their results, or stop if one fails."""
    if in_process or worker_count() == 0:
        with threadpool_limits(1):  # as in a child
            return [task.run(partial(on_progress, task.name)) for task in tasks]
    from distributed.system import memory_limit

    topic, address = f"headswap-{uuid.uuid4()}", os.environ.get(ADDRESS)
    with _connect(len(tasks)) as client:
        client.subscribe_topic(topic, lambda event: on_progress(*event[1]))
        futures = [
            client.submit(
                _run_on_worker,
                *(task, os.getcwd(), topic),
                key=f"{task.name}-{uuid.uuid4()}",
                priority=-number,
                # One task must always fit; on other machines their owner decides on memory.
                resources={} if address else {"memory": min(task.memory, memory_limit())},
            )
            for number, task in enumerate(tasks)
        ]
        try:
            return client.gather(futures)
        except CancelledError:
            lost = f"The connection to the Dask scheduler at {address} was lost."
            remedy = f"Start it again, or unset {ADDRESS}; then run: dvc repro"
            raise UserError(f"{lost} Finished epochs are saved.\n{remedy}") from None
        except Exception as error:
            if isinstance(error, UserError):
                raise
            text = f"The workers at {address or 'this machine'} could not run a task: {error}"
            remedy = "Start the workers in this project's environment and folder, then: dvc repro"
            raise UserError(f"{text}\n{remedy}") from error
        finally:
            client.cancel(futures, force=True)


def _connect(tasks: int) -> Any:
    """Return a client of the scheduler at `ADDRESS`, or of one that is started in this process."""
    import dask
    from distributed import Client
    from distributed.system import memory_limit

    logging.disable(logging.CRITICAL)  # Dask's errors come as messages
    if address := os.environ.get(ADDRESS):
        try:
            client = Client(address, timeout=10, set_as_default=False)
        except (OSError, ValueError) as error:  # a TimeoutError is an OSError
            text = f"No Dask scheduler answers at {address} ({ADDRESS}): {error}"
            remedy = f"Start one with `dask scheduler`, or train on this machine: unset {ADDRESS}"
            raise UserError(f"{text}\n{remedy}") from None
        if not client.scheduler_info()["workers"]:
            remedy = "Waiting; start one with: dask worker --no-nanny"
            console.print(f"No worker has joined {address} yet. {remedy}")
        return client
    warm_up()
    # Speed: Dask's profiler and system monitor, which are not used here, took 4 % of a core.
    dask.config.set({"distributed.worker.profile.enabled": False})
    dask.config.set({"distributed.admin.system-monitor.interval": "10s"})
    return Client(
        set_as_default=False,
        n_workers=1,
        threads_per_worker=min(tasks, worker_count()),
        processes=False,
        # Within a process nothing needs to listen; what does so nevertheless, on loopback only.
        protocol="inproc",
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
        memory_limit=0,
        resources={"memory": memory_limit()},
        silence_logs="CRITICAL",
    )


def _run_on_worker(task: Task, folder: str, topic: str) -> Any:
    """Run a task in a child process of a Dask worker; what it reports is sent on `topic`."""
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()
    worker.log_event(topic, [task.name, None])  # so that its progress is shown from the start
    try:
        return run_in_child(
            *(task, folder),
            on_progress=lambda *message: worker.log_event(topic, [task.name, *message]),
            is_wanted=lambda: getattr(worker.state.tasks.get(key), "state", "") == "executing",
        )
    except UserError as error:
        where = f" (on {socket.gethostname()})" if os.environ.get(ADDRESS) else ""
        raise UserError(f"{error}{where}") from None
