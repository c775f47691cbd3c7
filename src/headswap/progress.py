"""Progress: bars on a terminal, a line for each step elsewhere."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column

OnProgress = Callable[..., None]
"""Called as ``on_progress(done, figures=None, note="")`` with how far a task is.

``done`` is the number of its finished steps and the share of the next, None if that is as before;
``figures``, such as the loss, are known when a step ends; ``note`` is a line to print. Where there
are several tasks, the name of the task comes first.
"""

NARROW = 100
"""On fewer columns a bar has its first figure only, in few words."""
console = Console(highlight=False, markup=False)
console.soft_wrap = not console.is_terminal  # on a terminal lines are broken between words


def seconds_left(work: Iterable[tuple[float, float]], workers: int) -> float:
    """Return how long tasks take side by side, from the steps left and seconds a step of each.

    >>> seconds_left([(10, 6), (5, 6), (0, 6)], workers=4)
    45.0
    """
    seconds = [steps * of_step for steps, of_step in work if steps]
    return sum(seconds) / max(1, min(workers, len(seconds)))


@contextlib.contextmanager
def progress(
    unit: str, steps: int | Mapping[str, int], seconds: Mapping[str, float] | None = None
) -> Iterator[OnProgress]:
    """Show the progress of tasks that run side by side; yields what is to be called with it.

    `unit` names a step. `steps` is how many each task has; or those of each task of a queue, whose
    whole is then shown, too. `seconds` is how long a step of these takes, or in what ratio.
    """
    debugged = os.environ.get("HEADSWAP_WORKERS") == "0"  # bars would be drawn over a debugger
    shows_bars = console.is_terminal and not console.is_dumb_terminal and not debugged
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
    queue = steps if isinstance(steps, Mapping) else {}
    tasks = {name: _Task(queue[name], (seconds or {}).get(name, 1)) for name in queue}
    whole = bars.add_task("all runs", total=len(queue), left="", figures="") if queue else None
    workers = 1

    def on_progress(
        name: str, done: float | None, figures: Mapping[str, float] | None = None, note: str = ""
    ) -> None:
        nonlocal workers
        if isinstance(steps, int):
            tasks.setdefault(name, _Task(steps))
        task = tasks[name]
        if task.bar is None:
            task.bar = bars.add_task(name, total=task.steps, left="", figures="")
        has_ended = task.update(done) or bool(figures)
        if figures:
            texts = [f"{key} {value:.4f}" for key, value in figures.items()]
            if shows_bars and console.width < NARROW:
                texts = [texts[0].removeprefix("validation ")]
            task.figures = "  ".join(texts)
        pace = _pace(tasks.values())
        left = _left(task.left(pace)) if pace and 0 < task.done < task.steps else ""
        if whole is not None:
            workers = max(workers, sum(task.is_running for task in tasks.values()))
            finished = sum(task.done >= task.steps for task in tasks.values())
            of_all = seconds_left([(1, task.left(pace)) for task in tasks.values()], workers)
            about = f"about {_left(of_all)}" if pace and of_all else ""
            bars.update(whole, completed=finished, left=about)
            if task.done >= task.steps and not shows_bars:
                left = f"({f'{finished}/{len(tasks)} runs  {about}'.rstrip()})"
        visible = not queue or task.done < task.steps
        bars.update(task.bar, completed=task.done, left=left, figures=task.figures, visible=visible)
        if has_ended and not shows_bars:
            ended = f"{name}: {unit} {math.floor(task.done)}/{task.steps}"
            console.print("  ".join(filter(None, (ended, task.figures, left))))
        if note:
            console.print(f"{name}: {note}")

    with bars:
        yield on_progress


@dataclass
class _Task:
    """How far a task is, and was when that was first known."""

    steps: int
    seconds: float = 1
    done: float = 0
    last: float = 0
    first: tuple[float, float] | None = None
    figures: str = ""
    bar: TaskID | None = None

    def update(self, done: float | None) -> bool:
        """Return whether a step has ended, of a task that was known to run."""
        if done is None:
            return False
        has_ended = self.first is not None and math.floor(done) > math.floor(self.done)
        self.done, self.last = done, time.monotonic()
        self.first = self.first or (done, self.last)  # before, it may have run in another process
        return has_ended

    @property
    def is_running(self) -> bool:
        return self.first is not None and self.done < self.steps

    def left(self, pace: float) -> float:
        return (self.steps - self.done) * self.seconds * pace


def _pace(tasks: Iterable[_Task]) -> float:
    """Return the seconds that passed for each one that steps were said to take, 0 if not known."""
    passed = expected = 0.0
    for task in tasks:
        if task.first:
            done, since = task.first
            passed += task.last - since
            expected += (task.done - done) * task.seconds
    return passed / expected if expected else 0


def _left(seconds: float) -> str:
    return f"{timedelta(seconds=round(seconds))} left"
