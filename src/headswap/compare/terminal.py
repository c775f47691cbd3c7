"""The comparison's tables on the terminal."""

from collections.abc import Mapping
from typing import Any, Literal

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headswap.compare.report import render
from headswap.progress import console

FILE_WIDTH = 150
"""The width of the tables where the output does not go to a terminal."""
LEAVE_OUT = (
    *("wall seconds", "parameters", "trained", "last loss", "best − last, points"),
    "write-up, seconds",
)
"""The columns that a narrow terminal does without, the first of them first."""


def show(facts: Mapping[str, Any]) -> None:
    """Print the accuracies, the differences, and the verdicts on the claims.

    Parameters
    ----------
    facts
        From `report.facts`.
    """
    tables = Console(width=console.width if console.is_terminal else FILE_WIDTH)
    title = "Accuracy on the validation set: mean ± standard deviation over the replicates"
    lines = facts["accuracy"]["table"]
    unlimited = Console(width=1000)
    for column in LEAVE_OUT:
        if unlimited.measure(_table(title, lines, "right")).maximum > tables.width:
            lines = lines.drop(columns=column, errors="ignore")
    tables.print(_table(title, lines, "right"))
    console.print(render("differences.md", facts), markup=False)
    if len(facts["claims"]["tested"]):
        tables.print(_table("What the write-up concluded", facts["claims"]["tested"], "left"))
    console.print(render("claims.md", facts), markup=False, end="")


def _table(title: str, lines: pd.DataFrame, justify: Literal["left", "right"]) -> Table:
    """Return a table; its first column is aligned to the left."""
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place, heading in enumerate(lines):
        broken = heading.replace(" ", "\n", 1) if justify == "right" else heading
        table.add_column(broken, justify=justify if place else "left")
    for row in lines.itertuples(index=False):
        table.add_row(*map(Text, row))
    return table
