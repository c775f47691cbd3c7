"""How far the work is: bars on a terminal, a line a step elsewhere."""

import contextlib
import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

console = Console(soft_wrap=True, highlight=False)


@contextlib.contextmanager
def progress(total, unit):
    """Show work that goes on side by side.

    Parameters
    ----------
    total : int
        Steps of each piece of work.
    unit : str
        What a step is called: ``epoch``, ``view``.

    Yields
    ------
    callable
        Called with a piece's name and what it reports after a step: figures to show; ``done``,
        the steps done, if it did not start with the first; ``note``, a line to leave behind.
    """
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        console=console,
        disable=not console.is_terminal,
    )
    tasks, steps, started = {}, {}, {}

    def on_progress(name, message):
        done = message.pop("done", None) or steps.get(name, 0) + 1
        note = message.pop("note", None)
        # The first step that is heard of gives no measure: it may have been done long ago.
        first, since = started.setdefault(name, (done, time.monotonic()))
        steps[name] = done
        figures = "  ".join(f"{key} {value:.4f}" for key, value in message.items())
        if first < done < total:
            left = (time.monotonic() - since) / (done - first) * (total - done)
            figures += f"  {timedelta(seconds=round(left))} left"
        if name not in tasks:
            tasks[name] = bars.add_task(name, total=total, figures="")
        bars.update(tasks[name], completed=done, figures=figures)
        if not console.is_terminal:
            console.print(f"{name}: {unit} {done}/{total}  {figures}".rstrip(), markup=False)
        if note:
            console.print(f"{name}: {note}", markup=False)

    with bars:
        yield on_progress
