"""Find what the documents name and is not there: run by `make lint`, without a test.

Links and headings, commands, targets of make, and figures that are quoted from a recorded run.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml import YAML

from headswap.cli import app

ROOT = Path(__file__).parents[1]
PATTERNS = ("*.md", "docs/*.md", "docs/runs/*.md", "docs/runs/*/*.md", "benchmarks/*.md")
PAGES = {page: page.read_text("utf-8") for pattern in PATTERNS for page in ROOT.glob(pattern)}
"""Recorded reports are not among them: the photographs that they link to are not ours."""
QUOTED = ROOT / "docs/runs/recipes"
"""The recorded run whose table README.md shows."""


def broken_links() -> Iterator[str]:
    """Yield links to files and headings that are not there."""
    for page, text in PAGES.items():
        for link in re.findall(r"\]\(([^)\s:]+)\)", text):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                yield f"{page.relative_to(ROOT)}: the link to {link} leads nowhere"


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def missing_names() -> Iterator[str]:
    """Yield commands and targets of make that a page names and that do not exist."""
    commands = {str(c.name or c.callback.__name__) for c in app.registered_commands if c.callback}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page, text in PAGES.items():
        typed = re.findall(r"(?:`|^    )(headswap|make) (?:[A-Z]+=\S+ )*([a-z][\w-]*)", text, re.M)
        for program, name in typed:
            if name not in (commands if program == "headswap" else targets):
                yield f"{page.relative_to(ROOT)}: there is no `{program} {name}`"


def renamed_stages() -> Iterator[str]:
    """Yield stages whose command has another name."""
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    for name, stage in stages.items():
        if stage["cmd"].split()[:3] != ["sh", "scripts/headswap", name]:
            yield f"dvc.yaml: the stage {name} runs `{stage['cmd']}`"


def other_figures() -> Iterator[str]:
    """Yield what README.md and docs/statistics.md do not quote as it is recorded."""
    table = pd.read_csv(QUOTED / "metrics/comparison.csv")
    for row in table.itertuples():
        line = (
            f"| {row.cell} | {mean_and_spread(row, 'last')} | "
            f"{100 * row.last_val_accuracy_ci_low:.1f} to "
            f"{100 * row.last_val_accuracy_ci_high:.1f} | {mean_and_spread(row, 'best')} | "
            f"{row.val_loss_last_mean:.3f} | {row.parameters:,} | {row.trainable_parameters:,} |"
        )
        if line not in PAGES[ROOT / "README.md"]:
            yield f"README.md: the recorded table has the line {line}"
    finetune, frozen = (accuracies(f"efficientnet_lite0-{mode}") for mode in ("finetune", "frozen"))
    rows = pd.read_json(QUOTED / "plots/comparison/differences.json")
    (row,) = rows.query("differ == 1").itertuples()
    low, middle, high = sorted(abs(100 * value) for value in (row.difference, row.low, row.high))
    for page in ("README.md", "docs/statistics.md"):
        text = " ".join(PAGES[ROOT / page].split())
        for figure in (
            f"{frozen.max() - finetune.min():.1f} points ahead of `finetune`",
            f"{finetune.max() - frozen.min():.1f} behind",
            f"{middle:.1f} points",
            f"{low:.1f} to {high:.1f}",
        ):
            if figure not in text:
                yield f"{page}: does not say {figure}, as is recorded"


def accuracies(cell: str) -> pd.Series:
    """Return the accuracy of each run at its last epoch, in percent."""
    rows = pd.read_csv(QUOTED / f"plots/predictions/{cell}.csv").query("which == 'last'")
    return 100 * (rows["label"] == rows["predicted"]).groupby(rows["seed"]).mean()


def mean_and_spread(row: Any, which: str) -> str:
    """Return an accuracy as README.md shows it."""
    mean, spread = (getattr(row, f"{which}_val_accuracy_{part}") for part in ("mean", "std"))
    return f"{100 * mean:.1f}" + ("" if pd.isna(spread) else f" ± {100 * spread:.1f}")


def incomplete_runs() -> Iterator[str]:
    """Yield recorded runs without all that made them."""
    for parameters in ROOT.glob("docs/runs/*/params.yaml"):
        for name in ("dvc.lock", "metrics/comparison.md", "plots/comparison/accuracy.png"):
            if not (parameters.parent / name).exists():
                yield f"{parameters.parent.relative_to(ROOT)}: {name} is not recorded"


mistakes = [
    *broken_links(),
    *missing_names(),
    *renamed_stages(),
    *other_figures(),
    *incomplete_runs(),
]
sys.exit("\n".join(mistakes) or 0)
