"""The comparison's tables on the terminal."""

import re
from collections.abc import Mapping
from typing import Any, Literal

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headswap.compare.report import render
from headswap.paths import COMPARISON_PLOTS, METRICS
from headswap.progress import console

FILE_WIDTH = 150
"""The width of the tables where the output does not go to a terminal."""
OPTIONAL_COLUMNS = (
    *("parameters", "trained", "last loss", "without near-duplicates, %", "balanced, % (95 %)"),
)
"""The columns that a narrow terminal does without, the first of them first."""


def print_comparison(facts: Mapping[str, Any]) -> None:
    """Print the verdicts on the claims, the differences, the accuracies, and the summary last."""
    tables = Console(width=console.width if console.is_terminal else FILE_WIDTH)
    if len(facts["claims"]["tested"]):
        tables.print(_table("What the write-up concluded", facts["claims"]["tested"], "left"))
    if facts["claims"]["about_these_cells"]:
        _print("claims.md", facts)
    _print("differences.md", facts)
    title = "Accuracy on the validation set"
    if not facts["one_run_each"]:
        title += ": mean ± standard deviation over the replicates"
    lines = facts["accuracies"]
    unlimited = Console(width=1000)
    for column in OPTIONAL_COLUMNS:
        if unlimited.measure(_table(title, lines, "right")).maximum > tables.width:
            lines = lines.drop(columns=column, errors="ignore")
    tables.print(_table(title, lines, "right"))
    _print("summary.md", facts)
    left_out = facts["accuracies"].shape[1] - lines.shape[1]
    columns = f", with {left_out} more columns" if left_out else ""
    console.print(f"The report: {METRICS / 'comparison.md'}{columns}, or `headswap report`")
    console.print(f"The pictures: {COMPARISON_PLOTS}/, or `dvc plots show`")


def _print(template: str, facts: Mapping[str, Any]) -> None:
    """Print a filled template without Markdown's signs for bold and for literal characters."""
    text = re.sub(r"\\(\W|_)", r"\1", render(template, facts).replace("**", "")).strip()
    console.print(text + "\n")


def _table(title: str, lines: pd.DataFrame, justify: Literal["left", "right"]) -> Table:
    """Return a table; its first column is aligned to the left."""
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place, heading in enumerate(lines):
        broken = heading.replace(" ", "\n", 1) if justify == "right" else heading
        table.add_column(broken, justify=justify if place else "left")
    for row in lines.itertuples(index=False):
        table.add_row(*map(Text, row))
    return table
