"""The outputs of the `compare` stage: metrics, a report, pictures, and tables on the terminal."""

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from headswap import paths
from headswap.compare import plots
from headswap.compare.comparison import Comparison, compare
from headswap.compare.report import collect_facts, render
from headswap.compare.results import read_results
from headswap.errors import UserError
from headswap.io import MAKE_ANEW, existing, read_csv, write_csv, write_json, write_text
from headswap.params import Params
from headswap.paths import METRICS
from headswap.progress import console

OPTIONAL_COLUMNS = ["parameters", "trained", "last loss", "without near-duplicates, %"]
OPTIONAL_COLUMNS += ["balanced, % (95 %)"]  # a narrow terminal lacks these, the first one first


def write_comparison(params: Params) -> None:
    """Write the comparison and print its tables; with a UserError nothing is written."""
    results = read_results(params)
    comparison = compare(results)
    facts = collect_facts(results, comparison)
    gallery = plots.gallery_rows(comparison.misclassified, results.design.folds)
    delete_other_results(params)
    write_json(METRICS / "summary.json", summary_metrics(comparison))
    write_json(METRICS / "claims.json", comparison.verdicts)
    write_text(METRICS / "comparison.csv", comparison.table.to_csv(index=False))
    for name in ("misclassified", "near_duplicates"):
        table = getattr(comparison, name).round(6)
        write_csv(METRICS / f"{name}.csv", table.columns, table.itertuples(index=False))
    write_text(METRICS / "comparison.md", render("report.md", facts))
    in_order = [results.cells[cell] for cell in comparison.in_order["cell"]]
    plots.write_pictures(comparison.rows, in_order, gallery)
    print_comparison(facts)


def delete_other_results(params: Params) -> None:
    """Delete files of cells that the parameters no longer name, which a clone would not have."""
    expected = {cell.name for cell in params.cells()}
    embedded = {f"{model}-embed" for model in params.models}
    for folder in (paths.CELL_METRICS, paths.CURVES, paths.PREDICTIONS, paths.TIMING):
        for path in folder.glob("[!.]*"):
            if path.stem not in expected | (embedded if folder == paths.TIMING else set()):
                path.unlink()


def summary_metrics(comparison: Comparison) -> dict[str, Any]:
    """Return the flat metrics that DVC compares between branches: of the 12 best cells."""
    cells = comparison.in_order.astype(object).where(comparison.in_order.notna(), None)
    shown, best = cells.head(12).sort_index(), cells.iloc[0]
    return {
        "best": None if best["rank"] is None else best["cell"],
        "expected": best["expected_accuracy"],
        "expected_ci_low": best["expected_accuracy_ci_low"],
        "expected_ci_high": best["expected_accuracy_ci_high"],
        **dict(zip(shown["cell"] + ".last", shown["last_val_accuracy_mean"], strict=True)),
        "near_duplicates": comparison.near_duplicates["val"].nunique(),
    }


def best_models(params: Params, count: int) -> list[str]:
    """Return the networks of the comparison's best cells, the best first."""
    table = existing(METRICS / "comparison.csv")
    models = {cell.name: cell.model for cell in params.cells()}
    ranked = [row for row in read_csv(table, MAKE_ANEW) if row["rank"] and row["cell"] in models]
    ranked.sort(key=lambda row: int(row["rank"]))
    best = list(dict.fromkeys(models[row["cell"]] for row in ranked))
    if len(best) < count:
        text = f"{table} ranks {len(best)} networks of params.yaml, not {count}."
        raise UserError(f"{text}\nChoose fewer, or bring it up to date with: dvc repro")
    return best[:count]


def print_comparison(facts: Mapping[str, Any]) -> None:
    """Print the verdicts on the claims, the differences, the accuracies, and the summary last."""
    tables = Console(width=console.width if console.is_terminal else 150)
    if any(claim["verdict"] != "not tested" for claim in facts["claims"]):
        tables.print(Markdown(render("claims.md", facts)), "")
    _print("differences.md", facts)
    of = "" if facts["one_run_each"] else ": mean ± standard deviation over the replicates"
    title = f"Accuracy on the validation set{of}"
    shown, unlimited = facts["accuracies"], Console(width=1000)
    for column in OPTIONAL_COLUMNS:
        if unlimited.measure(_table(title, shown)).maximum > tables.width:
            shown = shown.drop(columns=column, errors="ignore")
    tables.print(_table(title, shown))
    _print("summary.md", facts)
    left_out = facts["accuracies"].shape[1] - shown.shape[1]
    columns = f", with {left_out} more columns" if left_out else ""
    console.print(f"The report: {METRICS / 'comparison.md'}{columns}, or `headswap report`")
    console.print(f"The pictures: {paths.COMPARISON_PLOTS}/, or `dvc plots show`")


def _print(template: str, facts: Mapping[str, Any]) -> None:
    """Print a filled template without Markdown's signs for bold and for literal characters."""
    text = re.sub(r"\\(\W|_)", r"\1", render(template, facts).replace("**", "")).strip()
    console.print(text + "\n")


def _table(title: str, lines: pd.DataFrame) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place, heading in enumerate(lines):
        justify: Any = "right" if place else "left"
        table.add_column(heading.replace(" ", "\n", 1), justify=justify, overflow="fold")
    for row in lines.itertuples(index=False):
        table.add_row(*map(Text, row))
    return table
