"""The comparison: all cells in one table, and the rows of its plots."""

import json
from pathlib import Path

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from . import pictures
from .display import console
from .errors import Problem
from .files import read_json, write_json, write_text

CELLS, TIMING = Path("metrics/cells"), Path("metrics/timing")
CURVES, PREDICTIONS = Path("plots/curves"), Path("plots/predictions")
PUBLISHED = Path("data/published")
METRICS, PLOTS = Path("metrics"), Path("plots")


def provide(params):
    """Write the comparison of the cells that the parameters name, and show its table.

    Parameters
    ----------
    params : Params
        Whose ``models`` and ``modes`` say which cells are read; others leave no trace.

    Raises
    ------
    Problem
        If a cell has not been trained yet.
    """
    cells = params.cells()
    _all_there(cells)
    table = comparison(cells)
    curves = _stacked(cells, CURVES)
    predictions = _stacked(cells, PREDICTIONS)
    accuracy, confusion = accuracies(table, predictions), confusions(cells, predictions)

    write_json(METRICS / "summary.json", summary(table))
    write_text(METRICS / "comparison.csv", table.to_csv(index=False))
    write_text(METRICS / "comparison.md", report(table))
    for name, rows in (("accuracy", accuracy), ("confusion", confusion), ("curves", curves)):
        _write_rows(PLOTS / f"{name}.json", rows)
    pictures.accuracy(cells, accuracy, PLOTS / "accuracy.png")
    pictures.confusion(cells, confusion, PLOTS / "confusion.png")
    pictures.curves(cells, curves, _published("curves"), PLOTS / "curves.png")
    show(table)


def _all_there(cells):
    missing = [cell for cell in cells if not (CELLS / f"{cell}.json").exists()]
    if missing:
        raise Problem(f"These cells have no results yet: {', '.join(missing)}.\nRun: dvc repro")


def _stacked(cells, folder):
    """Return the tables of all cells in one, with a first column ``cell``."""
    tables = {cell: pd.read_csv(folder / f"{cell}.csv", dtype={"image": str}) for cell in cells}
    return pd.concat(tables, names=["cell"]).reset_index(level="cell").reset_index(drop=True)


def comparison(cells):
    """Put the metrics and times of cells side by side, and the write-up's beside them.

    Parameters
    ----------
    cells : list of str
        Names of trained cells.

    Returns
    -------
    pandas.DataFrame
        A row a cell, in the given order: ``cell``, all of ``metrics/cells/<cell>.json``,
        ``seconds_per_run_mean`` and ``seconds_per_epoch_mean``, ``published_best_val_accuracy``
        and ``published_train_seconds`` (empty where the write-up has no such cell or other images).
    """
    clocks = ["seconds_per_run_mean", "seconds_per_epoch_mean"]
    rows = []
    for cell in cells:
        timing = read_json(TIMING / f"{cell}.json")
        figures = read_json(CELLS / f"{cell}.json")
        rows.append({"cell": cell, **figures, **{clock: timing[clock] for clock in clocks}})
    published = _published("summary").set_index("cell").add_prefix("published_")
    return pd.DataFrame(rows).join(published, on="cell")


def _published(name):
    """Return a table of the write-up's: empty unless the images are the ones that it used."""
    table = pd.read_csv(PUBLISHED / f"{name}.csv")
    same_images = read_json(METRICS / "dataset.json") == read_json(PUBLISHED / "dataset.json")
    return table if same_images else table.iloc[:0]


def summary(table):
    """Return the flat metrics that DVC compares between branches: two keys a cell."""
    return {
        f"{row.cell}.{which}": _or_none(row[f"{which}_val_accuracy_mean"])
        for _, row in table.iterrows()
        for which in ("best", "last")
    }


def accuracies(table, predictions):
    """Return the rows of the plot of accuracy.

    Parameters
    ----------
    table : pandas.DataFrame
        From `comparison`.
    predictions : pandas.DataFrame
        Of all cells, as ``plots/predictions/<cell>.csv`` with a column ``cell``.

    Returns
    -------
    pandas.DataFrame
        ``cell``, ``what`` (``replicate``, ``mean`` or ``write-up``), ``accuracy`` of the best
        epoch, and for means the interval, ``low`` and ``high``.
    """
    best = predictions[predictions["which"] == "best"]
    hits = (best["label"] == best["predicted"]).groupby([best["cell"], best["seed"]]).mean()
    replicates = hits.rename("accuracy").reset_index().assign(what="replicate")
    key = "best_val_accuracy"
    means = pd.DataFrame(
        {
            "cell": table["cell"],
            "what": "mean",
            "accuracy": table[f"{key}_mean"],
            "low": table[f"{key}_ci_low"],
            "high": table[f"{key}_ci_high"],
        }
    )
    published = pd.DataFrame(
        {"cell": table["cell"], "what": "write-up", "accuracy": table[f"published_{key}"]}
    )
    rows = pd.concat([means, published, replicates]).dropna(subset="accuracy")
    return rows[["cell", "what", "seed", "accuracy", "low", "high"]].round(6)


def confusions(cells, predictions):
    """Return for each cell, label and prediction the mean number of images over replicates.

    Returns
    -------
    pandas.DataFrame
        ``cell``, ``label``, ``predicted``, ``images`` (mean of the best epochs) and ``share`` of
        the label's images.
    """
    best = predictions[predictions["which"] == "best"]
    classes = sorted(set(best["label"]) | set(best["predicted"]))
    every = pd.MultiIndex.from_product(
        [[cell for cell in cells if cell in set(best["cell"])], classes, classes],
        names=["cell", "label", "predicted"],
    )
    counted = best.groupby(["cell", "label", "predicted"]).size().reindex(every, fill_value=0)
    replicates = best.groupby("cell")["seed"].nunique()
    rows = counted.div(replicates, level="cell").rename("images").reset_index()
    of_label = rows.groupby(["cell", "label"])["images"].transform("sum")
    return rows.assign(share=rows["images"] / of_label).round(6)


HEADINGS = (
    "cell",
    "best epoch, %",
    "interval (95 %)",
    "last epoch, %",
    "last loss",
    "parameters",
    "trained",
    "seconds a run",
    "write-up, %",
    "its seconds",
)


def lines(table):
    """Return the table as a person reads it: a tuple of texts a cell, under `HEADINGS`."""
    for _, row in table.iterrows():
        yield (
            row.cell + (f" ({row.diverged} of {row.seeds} diverged)" if row.diverged else ""),
            _spread(row, "best_val_accuracy"),
            _range(row, "best_val_accuracy"),
            _spread(row, "last_val_accuracy"),
            _figure(row.val_loss_last_mean, ".3f"),
            f"{row.parameters:,}",
            f"{row.trainable_parameters:,}",
            _figure(row.seconds_per_run_mean, ".0f" if row.seconds_per_run_mean > 10 else ".1f"),
            _figure(row.published_best_val_accuracy, ".1%"),
            _figure(row.published_train_seconds, ".0f"),
        )


def _filled(table):
    """Return headings and lines without the columns in which nothing stands."""
    columns = zip(HEADINGS, *lines(table), strict=True)
    return list(zip(*(column for column in columns if set(column[1:]) != {"–"}), strict=True))


def _spread(row, key):
    spread = _figure(row[f"{key}_std"], ".1%")
    return _figure(row[f"{key}_mean"], ".1%") + (f" ± {spread}" if spread != "–" else "")


def _range(row, key):
    if pd.isna(row[f"{key}_ci_low"]):
        return "–"
    return f"{row[f'{key}_ci_low']:.1%} to {row[f'{key}_ci_high']:.1%}".replace("%", "")


def _figure(value, form):
    """Format a figure; percentages bare, for their unit stands in the heading."""
    return "–" if pd.isna(value) else format(value, form).replace("%", "")


def show(table):
    """Print the table."""
    drawn = Table(
        title="Accuracy on the validation set: mean ± standard deviation of the replicates",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    headings, *rows = _filled(table)
    for heading in headings:
        justify = "left" if heading == "cell" else "right"
        drawn.add_column("\n".join(heading.split(" ", 1)), justify=justify, no_wrap=True)
    for row in rows:
        drawn.add_row(*row)
    Console(width=max(console.width, 130)).print(drawn)


WRITE_UP = " *Write-up*: the published\nfigures, one run each."


def report(table):
    """Return the comparison as Markdown."""
    headings, *rows = _filled(table)
    rows = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    drawn = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    seeds = "replicate" if (table["seeds"] == 1).all() else "replicates"
    beside = "" if table["published_best_val_accuracy"].isna().all() else WRITE_UP
    return f"""# Comparison

Accuracy on the validation set, mean ± standard deviation over {table["seeds"].max()} {seeds}, with
the 95 % interval of the mean (for other images and other replicates). *Best epoch* is chosen on the
set that is reported, which is optimistic; *last epoch* is not.{beside}

{drawn}

![Accuracy of each cell](../plots/accuracy.png)
![Learning curves of each cell](../plots/curves.png)
![Confusion matrix of each cell](../plots/confusion.png)
"""


def _write_rows(path, rows):
    """Write rows for DVC's plots: a JSON array with one row a line, the same keys in each."""
    records = [
        {key: _or_none(value) for key, value in row.items()} for row in rows.to_dict("records")
    ]
    write_text(path, "[\n" + ",\n".join(json.dumps(row) for row in records) + "\n]\n")


def _or_none(value):
    return None if pd.isna(value) else value
