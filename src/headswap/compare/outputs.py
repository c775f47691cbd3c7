"""The outputs of the `compare` stage: metrics, a report, pictures, and tables on the terminal."""

from typing import Any

from headswap.compare import plots, report, terminal
from headswap.compare.comparison import Comparison, compare
from headswap.compare.results import read_results
from headswap.io import write_csv, write_json, write_text
from headswap.params import Params
from headswap.paths import CELL_METRICS, CURVES, METRICS, PREDICTIONS, TIMING

MOST_METRICS = 12
"""Cells in ``metrics/summary.json``, which is a table with a column per number."""


def write_comparison(params: Params) -> None:
    """Write the comparison of the cells that the parameters name, and print its tables.

    A UserError says if a cell has not been trained yet, or a file is missing or damaged: then
    nothing is written.
    """
    results = read_results(params)
    comparison = compare(results)
    facts = report.collect_facts(results, comparison)
    gallery = plots.gallery_rows(comparison.misclassified, results.design.folds)
    delete_other_results(params)
    write_json(METRICS / "summary.json", summary_metrics(comparison))
    write_json(METRICS / "claims.json", comparison.verdicts)
    write_text(METRICS / "comparison.csv", comparison.table.to_csv(index=False))
    wrong = comparison.misclassified.round(6)
    write_csv(METRICS / "misclassified.csv", wrong.columns, wrong.itertuples(index=False))
    pairs = comparison.near_duplicates
    write_csv(METRICS / "near_duplicates.csv", pairs.columns, pairs.itertuples(index=False))
    write_text(METRICS / "comparison.md", report.render("report.md", facts))
    in_order = [results.cells[cell] for cell in comparison.in_order["cell"]]
    plots.write_pictures(comparison.rows, in_order, gallery)
    terminal.print_comparison(facts)


def delete_other_results(params: Params) -> None:
    """Delete what is left of cells that the parameters no longer name.

    They lie in folders that the stage depends on, and a clone that pulls does not have them: there
    the stage would not be up to date. DVC's cache and ``runs/`` keep them.
    """
    cells = {cell.name for cell in params.cells()}
    names = dict.fromkeys((CELL_METRICS, CURVES, PREDICTIONS), cells)
    names[TIMING] = cells | {f"{model}-embed" for model in params.models}
    for folder, expected in names.items():
        for path in folder.glob("[!.]*"):
            if path.stem not in expected:
                path.unlink()


def summary_metrics(comparison: Comparison) -> dict[str, Any]:
    """Return the flat metrics that DVC compares between branches, one key per cell.

    ``best`` names the best cell, and ``expected`` is its accuracy corrected for the choice; of many
    cells only `MOST_METRICS` are there. ``near_duplicates`` counts the validation images with any.
    """
    cells = comparison.in_order.astype(object).where(comparison.in_order.notna(), None)
    shown = cells.head(MOST_METRICS).sort_index()
    best = cells.iloc[0]
    return {
        "best": None if best["rank"] is None else best["cell"],
        **{
            name: best[f"expected_accuracy{name.removeprefix('expected')}"]
            for name in ("expected", "expected_ci_low", "expected_ci_high")
        },
        **dict(zip(shown["cell"] + ".last", shown["last_val_accuracy_mean"], strict=True)),
        "near_duplicates": comparison.near_duplicates["val"].nunique(),
    }
