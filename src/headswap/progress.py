"""Progress: bars on a terminal, a line for each step elsewhere."""

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column

OnProgress = Callable[[str, dict[str, Any]], None]
"""Called with a task's name and a message after each of its steps (see `progress`)."""

OWN_KEYS = ("done", "by", "share", "note")
"""The keys of a message that are not figures to show."""
NARROW = 100
"""On fewer columns a bar has its first figure only."""
console = Console(highlight=False)
console.soft_wrap = not console.is_terminal  # on a terminal lines are broken between words


@contextlib.contextmanager
def progress(
    unit: str, steps: int | Mapping[str, int], seconds: Mapping[str, float] | None = None
) -> Iterator[OnProgress]:
    """Show the progress of tasks that run side by side.

    Parameters
    ----------
    unit
        The name of a step: ``epoch``, ``view``.
    steps
        How many steps each task has; or for each task of a queue its number, so that the progress
        of the whole is shown, too.
    seconds
        About how long a step of each of these tasks takes, or in what ratio; by default all steps
        take the same time.

    Yields
    ------
    callable
        ``on_progress(name, message)``, to be called after each step of a task. The message holds
        figures to show and, if it has these keys: ``done``, the number of finished steps; or
        ``by``, by how much that grew, where it is not one step; ``share``, which share of the
        next step is finished; ``note``, a line to print.
    """
    shows_bars = console.is_terminal and not console.is_dumb_terminal
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=8),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
        # What the others leave: on a narrow terminal the figures are cut, and nothing else.
        TextColumn("{task.fields[figures]}", table_column=Column(ratio=1, no_wrap=True)),
        expand=True,
        console=console,
        disable=not shows_bars,
    )
    queue = _Queue(steps, seconds or {}) if isinstance(steps, Mapping) else None
    whole = (
        bars.add_task("all runs", total=len(queue.steps), left="", figures="") if queue else None
    )
    tasks: dict[str, TaskID] = {}
    done_by_task: dict[str, float] = {}
    started: dict[str, tuple[float, float]] = {}
    figures_by_task: dict[str, str] = {}

    def on_progress(name: str, message: dict[str, Any]) -> None:
        total = queue.steps[name] if queue else steps
        assert isinstance(total, int)
        before = done_by_task.get(name, 0)
        ended = message.get("done", before + message.get("by", 0 if "share" in message else 1))
        ended = round(ended, 6)  # of many small steps
        done_by_task[name], done = ended, ended + message.get("share", 0)
        # The first step does not count for the speed: it may have been done long ago.
        first, since = started.get(name, (done, time.monotonic()))
        if done:
            started[name] = first, since
        values = {key: value for key, value in message.items() if key not in OWN_KEYS}
        if shows_bars and console.width < NARROW:
            values = dict(itertools.islice(values.items(), 1))
        if values:
            figures_by_task[name] = "  ".join(f"{key} {value:.4f}" for key, value in values.items())
        figures = figures_by_task.get(name, "")
        left = ""
        if first < done < total:
            seconds = (time.monotonic() - since) / (done - first) * (total - done)
            left = f"{timedelta(seconds=round(seconds))} left"
        if queue and whole is not None:
            queue.update(name, done)
            bars.update(whole, completed=queue.finished, left=queue.time_left())
            if not shows_bars and done == total:
                left += f"({queue.finished}/{len(queue.steps)} runs  {queue.time_left()})"
        if name not in tasks:
            tasks[name] = bars.add_task(name, total=total, left="", figures="")
        visible = not queue or done < total
        bars.update(tasks[name], completed=done, left=left, figures=figures, visible=visible)
        step = math.floor(ended)
        if step > math.floor(before) and "share" not in message and not shows_bars:
            console.print(
                f"{name}: {unit} {step}/{total}  {figures}  {left}".rstrip(), markup=False
            )
        if note := message.get("note"):
            console.print(f"{name}: {note}", markup=False)

    with bars:
        yield on_progress


class _Queue:
    """How much of a queue of tasks is done, and how long the rest will take."""

    def __init__(self, steps: Mapping[str, int], seconds: Mapping[str, float]):
        self.steps, self.seconds, self.finished = steps, seconds, 0
        self._done = dict.fromkeys(steps, 0.0)
        self._start, self._computed = time.monotonic(), 0.0

    def update(self, name: str, done: float) -> None:
        step = done - self._done[name]
        if step <= 1:  # others were done before
            self._computed += step * self.seconds.get(name, 1)
        self._done[name] = done
        self.finished = sum(self._done[task] >= self.steps[task] for task in self.steps)

    def time_left(self) -> str:
        left = sum(
            (steps - self._done[name]) * self.seconds.get(name, 1)
            for name, steps in self.steps.items()
        )
        if not self._computed or not left:
            return ""
        seconds = (time.monotonic() - self._start) / self._computed * left
        return f"about {timedelta(seconds=round(seconds))} left"
