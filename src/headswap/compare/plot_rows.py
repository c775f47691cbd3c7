"""The rows of the plots: what each picture shows, as tables."""

import itertools
import json

import numpy as np
import pandas as pd
from scipy import stats

from headswap.compare.intervals import contrast, reliability
from headswap.compare.results import COSTS, confidence
from headswap.io import write_text

MOST_CLASSES = 20
"""In a confusion matrix."""


def accuracies(results, table):
    """Return the rows of the plot of accuracy.

    Returns
    -------
    pandas.DataFrame
        ``cell``, ``what`` (``replicate``, ``mean`` or ``write-up``), ``accuracy`` of the best
        epoch, and for means the interval, ``low`` and ``high``.
    """
    replicates = [
        {"cell": cell, "what": "replicate", "seed": seed, "accuracy": accuracy}
        for cell in results.cells
        for seed, accuracy in results.correct[cell, "best"].mean(axis=1).items()
    ]
    columns = {
        "best_val_accuracy_mean": "accuracy",
        "best_val_accuracy_ci_low": "low",
        "best_val_accuracy_ci_high": "high",
    }
    means = table[["cell", *columns]].rename(columns=columns).assign(what="mean")
    columns = {"published_best_val_accuracy": "accuracy"}
    theirs = table[["cell", *columns]].rename(columns=columns).assign(what="write-up")
    rows = pd.concat([means, theirs, pd.DataFrame(replicates)]).dropna(subset="accuracy")
    return rows.reindex(columns=["cell", "what", "seed", "accuracy", "low", "high"]).round(6)


def curves(results):
    """Return the learning curves, ours (``what`` is ``replicate``) and the write-up's."""
    ours = results.curves.assign(what="replicate")
    theirs = results.published["curves"].assign(what="write-up")
    theirs = theirs[theirs["cell"].isin(list(results.cells))]
    rows = pd.concat([ours, theirs]) if len(theirs) else ours
    return rows[["cell", "what", "seed", "epoch", "split", "loss", "accuracy"]]


def differences(results):
    """Return for each pair of cells how much more accurate the first is.

    Returns
    -------
    pandas.DataFrame
        ``pair``, ``cell``, ``other``, ``which`` (the epoch: ``best`` or ``last``),
        ``seeds`` (how many they have in common), ``difference`` of accuracies with ``low`` and
        ``high``, ``differ`` (whether zero is left out), ``images_needed`` to tell if not. Pairs
        without a common seed are left out.
    """
    rows = []
    for cell, other in itertools.combinations(results.cells, 2):
        for which in ("best", "last"):
            values = results.contrast({cell: 1, other: -1}, which)
            if len(values):
                estimate = contrast(values)
                names = {"pair": f"{cell} − {other}", "cell": cell, "other": other, "which": which}
                figures = {
                    "seeds": len(values),
                    "difference": estimate.value,
                    "low": estimate.low,
                    "high": estimate.high,
                    "differ": bool(estimate.sign),
                    "images_needed": None if estimate.sign else estimate.images_needed,
                }
                rows.append(names | figures)
    columns = ["pair", "cell", "other", "which", "seeds", "difference", "low", "high", "differ"]
    return pd.DataFrame(rows, columns=[*columns, "images_needed"]).round(6)


def confusions(results):
    """Return for each cell, label and prediction the mean number of images over replicates.

    Returns
    -------
    pandas.DataFrame
        ``cell``, ``label``, ``predicted``, ``images`` (mean of the best epochs) and ``share`` of
        the label's images. Of more than `MOST_CLASSES` classes only the most confused.
    """
    best = results.predictions[results.predictions["which"] == "best"]
    wrong = best[best["label"] != best["predicted"]]
    confused = pd.concat([wrong["label"], wrong["predicted"]]).value_counts()
    every_class = sorted(set(best["label"]) | set(best["predicted"]))
    ranked = sorted(every_class, key=lambda name: -confused.get(name, 0))
    classes = sorted(ranked[:MOST_CLASSES])
    every = pd.MultiIndex.from_product(
        [[cell for cell in results.cells if cell in set(best["cell"])], classes, classes],
        names=["cell", "label", "predicted"],
    )
    counted = best.groupby(["cell", "label", "predicted"]).size().reindex(every, fill_value=0)
    replicates = best.groupby("cell")["seed"].nunique()
    images = counted.div(replicates, level="cell").rename("images")
    of_label = best.groupby(["cell", "label"]).size().div(replicates, level="cell")
    probabilities = images.div(of_label).reindex(every).rename("share")
    return pd.concat([images, probabilities], axis=1).reset_index().round(6)


def times(results, table):
    """Return each cell's accuracy and the seconds of its runs: mean, fastest and slowest."""
    seconds = {cell: results.seconds(cell) for cell in results.cells}
    return pd.DataFrame(
        {
            "cell": table["cell"],
            "accuracy": table["best_val_accuracy_mean"],
            "low": table["best_val_accuracy_ci_low"],
            "high": table["best_val_accuracy_ci_high"],
            "seconds": [seconds[cell].mean() for cell in results.cells],
            "fastest": [seconds[cell].min() for cell in results.cells],
            "slowest": [seconds[cell].max() for cell in results.cells],
        }
    ).round(6)


def phases(results):
    """Return what an epoch's seconds go into, by cell; a probe's features are one phase more."""
    rows = []
    for cell in results.cells:
        timing = results.timing[cell]
        ending = "_seconds_per_epoch_mean"
        parts = {key.removesuffix(ending): timing[key] for key in timing if key.endswith(ending)}
        if parts:
            epochs = timing["seconds_per_run_mean"] / timing["seconds_per_epoch_mean"]
            parts["features"] = timing["features_seconds"] / epochs
        rows += [
            {"cell": cell, "phase": phase, "seconds": seconds} for phase, seconds in parts.items()
        ]
    return pd.DataFrame(rows, columns=["cell", "phase", "seconds"]).round(6)


def costs(table, alike=True):
    """Return what might make a cell slow beside how slow it is.

    Parameters
    ----------
    table : pandas.DataFrame
        From `comparison`.
    alike : bool
        Whether the cells were timed alike (see `results.Results.timed_alike`).

    Returns
    -------
    pandas.DataFrame
        ``cell``, ``cost`` (its name), ``amount`` (to three digits: what differs by less takes
        as long), ``seconds`` of a run, and of all cells with a finished run
        ``rank_correlation``, Spearman's, of amounts and seconds (empty if they are equal, or if
        the times are those of unlike machines).
    """
    rows, timed = [], table.dropna(subset="seconds_per_run_mean")
    seconds = timed["seconds_per_run_mean"]
    for cost in COSTS:
        amounts = table[cost].map(lambda amount: float(f"{amount:.3g}"))
        known = amounts[timed.index]
        varies = alike and known.nunique() > 1 and seconds.nunique() > 1
        correlation = stats.spearmanr(known, seconds).statistic if varies else np.nan
        rows.append(
            pd.DataFrame(
                {
                    "cell": table["cell"],
                    "cost": cost,
                    "amount": amounts,
                    "seconds": table["seconds_per_run_mean"],
                    "rank_correlation": correlation,
                }
            )
        )
    return pd.concat(rows).round(6)


def calibration(results):
    """Return how sure predictions were and how often right, by cell and tenth of confidence."""
    rows = []
    for cell in results.cells:
        confidences, correct = confidence(results, cell)
        if len(correct):
            bins, error = reliability(confidences, correct)
            rows += [(cell, *of_bin, error) for of_bin in bins]
    columns = ["cell", "confidence", "accuracy", "predictions", "calibration_error"]
    return pd.DataFrame(rows, columns=columns).round(6)


def write_rows(path, rows):
    """Write rows for DVC's plots: a JSON array with one row a line, the same keys in each."""
    records = [
        {key: or_none(value) for key, value in row.items()} for row in rows.to_dict("records")
    ]
    write_text(path, "[\n" + ",\n".join(json.dumps(row) for row in records) + "\n]\n")


def or_none(value):
    """Return None for a missing value, else the value: JSON has no NaN."""
    return None if pd.isna(value) else value
