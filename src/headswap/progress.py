"""Progress: bars on a terminal, a line for each step elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

OnProgress = Callable[[str, dict[str, Any]], None]
"""Called with a task's name and a message after each of its steps (see `progress`)."""

console = Console(soft_wrap=True, highlight=False)


@contextlib.contextmanager
def progress(total: int, unit: str) -> Iterator[OnProgress]:
    """Show the progress of tasks that run side by side.

    Parameters
    ----------
    total
        Steps of each task.
    unit
        The name of a step: ``epoch``, ``view``.

    Yields
    ------
    callable
        ``on_progress(name, message)``, to be called after each step of a task. The message holds
        figures to show; ``done``, the steps done, if the task did not start with the first; and
        ``note``, a line to print.
    """
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        console=console,
        disable=not console.is_terminal,
    )
    tasks: dict[str, TaskID] = {}
    steps: dict[str, int] = {}
    started: dict[str, tuple[int, float]] = {}

    def on_progress(name: str, message: dict[str, Any]) -> None:
        done = message.get("done", steps.get(name, 0) + 1)
        steps[name] = done
        # The first message does not count for the speed: its step may have been done long ago.
        first, since = started.setdefault(name, (done, time.monotonic()))
        figures = "  ".join(
            f"{key} {value:.4f}" for key, value in message.items() if key not in ("done", "note")
        )
        if first < done < total:
            left = (time.monotonic() - since) / (done - first) * (total - done)
            figures += f"  {timedelta(seconds=round(left))} left"
        if name not in tasks:
            tasks[name] = bars.add_task(name, total=total, figures="")
        bars.update(tasks[name], completed=done, figures=figures)
        if done and not console.is_terminal:
            console.print(f"{name}: {unit} {done}/{total}  {figures}".rstrip(), markup=False)
        if note := message.get("note"):
            console.print(f"{name}: {note}", markup=False)

    with bars:
        yield on_progress
