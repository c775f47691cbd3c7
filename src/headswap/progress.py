"""Progress: bars on a terminal, a line for each step elsewhere."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column

# Called as `on_progress([name of the task,] done, figures=None, note="")`. `done`: the finished
# steps and the share of the next, or None for as before; `figures`, such as the loss, are known
# when a step ends; `note`: a line to print.
OnProgress = Callable[..., None]
console = Console(highlight=False, markup=False)
console.soft_wrap = not console.is_terminal  # on a terminal lines are broken between words


def seconds_left(work: Iterable[tuple[float, float]], workers: int) -> float:
    """Return how long tasks take side by side, from the steps left and seconds a step of each."""
    seconds = [steps * of_step for steps, of_step in work if steps]
    return sum(seconds) / max(1, min(workers, len(seconds)))


@dataclass
class _Task:
    steps: int
    seconds: float
    bar: TaskID
    done: float = 0
    since: float | None = None  # when `done` was known; None before the first time
    figures: str = ""


@contextlib.contextmanager
def progress(
    unit: str, steps: int | Mapping[str, int], seconds: Mapping[str, float] | None = None
) -> Iterator[OnProgress]:
    """Show the progress of tasks that run side by side; yields what is to be called with it.

    `unit` names a step. `steps` has each task, or, by name, those of a queue, whose whole is shown,
    too. `seconds` is how long a step of these takes, or in what ratio.
    """
    debugged = os.environ.get("HEADSWAP_WORKERS") == "0"  # bars would be drawn over a debugger
    shows_bars = console.is_terminal and not console.is_dumb_terminal and not debugged
    # The figures get what the others leave: on a narrow terminal they are cut, and nothing else.
    cut = TextColumn("{task.fields[figures]}", table_column=Column(ratio=1, no_wrap=True))
    columns = "{task.description}", BarColumn(8), MofNCompleteColumn(), "{task.fields[left]}", cut
    bars = Progress(*columns, expand=True, console=console, disable=not shows_bars)
    queue = steps if isinstance(steps, Mapping) else {}
    whole = bars.add_task("all runs", total=len(queue), visible=bool(queue), left="", figures="")
    workers, passed, expected = 1, 0.0, 0.0

    def task_of(name: str, steps: int) -> _Task:
        bar = bars.add_task(name, total=steps, visible=False, left="", figures="")
        return _Task(steps, (seconds or {}).get(name, 1), bar)

    tasks = {name: task_of(name, of_task) for name, of_task in queue.items()}

    def on_progress(name: str, done: float | None, figures: Any = None, note: str = "") -> None:
        nonlocal workers, passed, expected
        if isinstance(steps, int) and name not in tasks:
            tasks[name] = task_of(name, steps)
        task, has_ended = tasks[name], bool(figures)
        if done is not None:
            before, now = task.since, time.monotonic()
            if before is not None:  # else it may have run in another process
                has_ended |= math.floor(done) > math.floor(task.done)
                passed += now - before
                expected += (done - task.done) * task.seconds
            task.done, task.since = done, now
        if figures:
            texts = [f"{key} {value:.4f}" for key, value in figures.items()]
            is_narrow = shows_bars and console.width < 100
            task.figures = texts[0].removeprefix("validation ") if is_narrow else "  ".join(texts)
        pace = passed / expected if expected else 0
        left = _left([task], pace) if pace and 0 < task.done < task.steps else ""
        unfinished = [one for one in tasks.values() if one.done < one.steps]
        workers = max(workers, sum(one.since is not None for one in unfinished))
        about = f"about {_left(unfinished, pace, workers)}" if pace and unfinished else ""
        finished, shown = len(tasks) - len(unfinished), not queue or task in unfinished
        bars.update(whole, completed=finished, left=about)
        if not shown and not shows_bars:
            left = f"({f'{finished}/{len(tasks)} runs  {about}'.rstrip()})"
        bars.update(task.bar, completed=task.done, left=left, figures=task.figures, visible=shown)
        if has_ended and not shows_bars:
            ended = f"{name}: {unit} {math.floor(task.done)}/{task.steps}"
            console.print("  ".join(filter(None, (ended, task.figures, left))))
        if note:
            console.print(f"{name}: {note}")

    with bars:
        yield on_progress


def _left(tasks: list[_Task], pace: float, workers: int = 1) -> str:
    work = [(task.steps - task.done, task.seconds * pace) for task in tasks]
    return f"{timedelta(seconds=round(seconds_left(work, workers)))} left"
