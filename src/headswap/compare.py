"""The comparison: all cells in one table, what follows from it, and the rows of its plots."""

import itertools
import json

import numpy as np
import pandas as pd
from scipy import stats

from . import claims, pictures, report
from .files import write_json, write_text
from .results import COSTS, METRICS, PLOTS, read
from .similar import look_alikes
from .statistics import LEVEL, contrast, reliability

MOST_CLASSES = 20
"""In a confusion matrix."""


def provide(params):
    """Write the comparison of the cells that the parameters name, and show its tables.

    Parameters
    ----------
    params : Params
        Whose ``models`` and ``modes`` say which cells are read; others leave no trace.

    Raises
    ------
    Problem
        If a cell has not been trained yet, or a file is missing or damaged: then nothing is
        written.
    """
    results = read(params)
    alike = look_alikes(results)
    table = comparison(results, alike)
    verdicts = [claims.test(claim, results) for claim in claims.read()]
    wrong = hardest(results)
    rows = {
        "accuracy": accuracies(results, table),
        "confusion": confusions(results),
        "costs": costs(table, results.timed_alike(results.cells)),
        "curves": curves(results),
        "differences": differences(results),
        "phases": phases(results),
        "reliability": calibration(results),
        "time": times(results, table),
    }
    photographs = pictures.thumbnails(wrong.head(12))
    write_json(METRICS / "summary.json", summary(table))
    write_json(METRICS / "claims.json", verdicts)
    write_text(METRICS / "comparison.csv", table.to_csv(index=False))
    write_text(
        METRICS / "comparison.md", report.markdown(results, table, rows, verdicts, wrong, alike)
    )
    for name, of_plot in rows.items():
        _write_rows(PLOTS / f"{name}.json", of_plot)
        getattr(pictures, name)(results.cells, of_plot, PLOTS / f"{name}.png")
    pictures.gallery(wrong.head(12), photographs, PLOTS / "gallery.png")
    report.show(table, rows["differences"], verdicts)


def comparison(results, alike=None):
    """Put the cells side by side, and the write-up's figures beside them.

    Parameters
    ----------
    results : results.Results
    alike : pandas.DataFrame, optional
        From `similar.look_alikes`.

    Returns
    -------
    pandas.DataFrame
        A row a cell: ``cell``; all of ``metrics/cells/<cell>.json``; ``bonus``, the best epoch's
        accuracy less the last's, with its interval, ``bonus_ci_low`` and ``bonus_ci_high``, for
        other replicates on the same images, since the choice of the epoch depends on these;
        ``calibration_error``, the expected one; ``best_val_accuracy_new``, the mean accuracy
        without the look-alikes; ``seconds_per_run_mean``, in `probe` with a share of computing the
        features; ``published_best_val_accuracy`` and ``published_train_seconds``. What cannot be
        told is empty.
    """
    new = _new_images(results, alike)
    rows = []
    for cell in results.cells:
        best, last = (results.hits[cell, which] for which in ("best", "last"))
        row = {"cell": cell, **{key: results.figures[key][cell] for key in results.figures}}
        if len(best):
            row |= _bonus(best.mean(axis=1) - last.mean(axis=1))
            row["calibration_error"] = reliability(*_confidence(results, cell))[1]
            if new is not None:
                row["best_val_accuracy_new"] = best[new].to_numpy().mean()
        row["seconds_per_run_mean"] = round(results.seconds(cell).mean(), 3)
        rows.append(row)
    columns = ("bonus", "bonus_ci_low", "bonus_ci_high", "calibration_error")
    table = pd.DataFrame(rows)
    for column in (*columns, "best_val_accuracy_new"):
        table[column] = table[column].astype(float).round(6) if column in table else np.nan
    published = results.published["summary"].set_index("cell").add_prefix("published_")
    return table.join(published, on="cell")


def _bonus(of_runs):
    """Return the mean, and Student's interval if there are two runs; it is never negative."""
    bonus = {"bonus": of_runs.mean()}
    if len(of_runs) > 1:
        half = stats.sem(of_runs) * stats.t.ppf((1 + LEVEL) / 2, len(of_runs) - 1)
        bonus["bonus_ci_low"] = max(0.0, bonus["bonus"] - half)
        bonus["bonus_ci_high"] = bonus["bonus"] + half
    return bonus


def _new_images(results, alike):
    """Return the validation images that are no look-alikes, or None if that is not known."""
    if alike is None:
        return None
    known = set(alike["val"].str.removeprefix("val/"))
    return [image for image in results.predictions["image"].unique() if image not in known]


def _confidence(results, cell):
    """Return each predicted class's probability at the best epoch, and whether it was right."""
    rows = results.predictions
    rows = rows[(rows["cell"] == cell) & (rows["which"] == "best")]
    shares = rows.filter(regex="^p_").max(axis=1)
    return shares.to_numpy(), (rows["label"] == rows["predicted"]).to_numpy()


def summary(table):
    """Return the flat metrics that DVC compares between branches: two keys a cell."""
    return {
        f"{row.cell}.{which}": _or_none(row[f"{which}_val_accuracy_mean"])
        for _, row in table.iterrows()
        for which in ("best", "last")
    }


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
        for seed, accuracy in results.hits[cell, "best"].mean(axis=1).items()
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
    theirs = theirs[theirs["cell"].isin(results.cells)]
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
    shares = images.div(of_label).reindex(every).rename("share")
    return pd.concat([images, shares], axis=1).reset_index().round(6)


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
        confidence, hits = _confidence(results, cell)
        if len(hits):
            bins, error = reliability(confidence, hits)
            rows += [(cell, *of_bin, error) for of_bin in bins]
    columns = ["cell", "confidence", "accuracy", "predictions", "calibration_error"]
    return pd.DataFrame(rows, columns=columns).round(6)


def hardest(results):
    """Return the validation images that most runs get wrong at their best epoch.

    Returns
    -------
    pandas.DataFrame
        ``image``, ``label``, ``wrong`` and ``runs`` (how many, of all cells), ``probability`` of
        the right class (their mean); those with the most errors first, none without any.
    """
    best = results.predictions[results.predictions["which"] == "best"]
    shares = best.filter(regex="^p_")
    of_label = shares.columns.get_indexer("p_" + best["label"])
    best = best.assign(
        wrong=best["label"] != best["predicted"],
        probability=shares.to_numpy()[np.arange(len(best)), of_label],
    )
    rows = best.groupby(["image", "label"], as_index=False).agg(
        wrong=("wrong", "sum"), runs=("wrong", "size"), probability=("probability", "mean")
    )
    rows = rows[rows["wrong"] > 0].sort_values(
        ["wrong", "probability", "image"], ascending=[False, True, True]
    )
    return rows.reset_index(drop=True)


def _write_rows(path, rows):
    """Write rows for DVC's plots: a JSON array with one row a line, the same keys in each."""
    records = [
        {key: _or_none(value) for key, value in row.items()} for row in rows.to_dict("records")
    ]
    write_text(path, "[\n" + ",\n".join(json.dumps(row) for row in records) + "\n]\n")


def _or_none(value):
    return None if pd.isna(value) else value
