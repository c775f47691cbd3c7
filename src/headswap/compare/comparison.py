"""The comparison: all cells in one table, what follows from it, and the rows of its plots."""

import numpy as np
import pandas as pd
from scipy import stats

from headswap.compare import claims, plots, report
from headswap.compare.intervals import LEVEL, accuracy, reliability
from headswap.compare.near_duplicates import near_duplicates
from headswap.compare.plot_rows import (
    accuracies,
    calibration,
    confusions,
    costs,
    curves,
    differences,
    or_none,
    phases,
    times,
)
from headswap.compare.results import METRICS, confidence, read
from headswap.io import write_json, write_text


def compare(params):
    """Write the comparison of the cells that the parameters name, and show its tables.

    Parameters
    ----------
    params : Params
        Whose ``models`` and ``modes`` say which cells are read; others leave no trace.

    Raises
    ------
    UserError
        If a cell has not been trained yet, or a file is missing or damaged: then nothing is
        written.
    """
    results = read(params)
    alike = near_duplicates(results)
    table = comparison(results, alike)
    verdicts = [claims.test(claim, results) for claim in claims.read()]
    wrong = most_misclassified(results)
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
    gallery = plots.gallery(wrong.head(12))
    write_json(METRICS / "summary.json", summary(table))
    write_json(METRICS / "claims.json", verdicts)
    write_text(METRICS / "comparison.csv", table.to_csv(index=False))
    write_text(
        METRICS / "comparison.md", report.markdown(results, table, rows, verdicts, wrong, alike)
    )
    plots.write(rows, results.cells, gallery)
    report.show(table, rows["differences"], verdicts)


def comparison(results, alike=None):
    """Put the cells side by side, and the write-up's figures beside them.

    Parameters
    ----------
    results : results.Results
    alike : pandas.DataFrame, optional
        From `similar.near_duplicates`.

    Returns
    -------
    pandas.DataFrame
        A row a cell: ``cell``; all of ``metrics/cells/<cell>.json``; ``selection_optimism``, the best epoch's
        accuracy less the last's, with its interval, ``selection_optimism_ci_low`` and ``selection_optimism_ci_high``, for
        other replicates on the same images, since the choice of the epoch depends on these;
        ``calibration_error``, the expected one; ``accuracy_without_near_duplicates``, the mean accuracy
        without the near-duplicates; ``seconds_per_run_mean``, in `probe` with a share of computing the
        features; ``published_best_val_accuracy`` and ``published_train_seconds``. What cannot be
        told is empty.
    """
    new = _new_images(results, alike)
    rows = []
    for cell in results.cells:
        best, last = (results.correct[cell, which] for which in ("best", "last"))
        row = {"cell": cell, **_accuracy("best", best), **_accuracy("last", last)}
        row |= {key: results.figures[key][cell] for key in results.figures}
        if len(best):
            row |= _selection_optimism(best.mean(axis=1) - last.mean(axis=1))
            row["calibration_error"] = reliability(*confidence(results, cell))[1]
            if new is not None:
                row["accuracy_without_near_duplicates"] = best[new].to_numpy().mean()
        row["seconds_per_run_mean"] = round(results.seconds(cell).mean(), 3)
        rows.append(row)
    columns = (
        "selection_optimism",
        "selection_optimism_ci_low",
        "selection_optimism_ci_high",
        "calibration_error",
    )
    table = pd.DataFrame(rows)
    for column in (*columns, "accuracy_without_near_duplicates"):
        table[column] = table[column].astype(float).round(6) if column in table else np.nan
    published = results.published["summary"].set_index("cell").add_prefix("published_")
    return table.join(published, on="cell")


def _accuracy(which, correct):
    """Return a cell's mean accuracy, its standard deviation over replicates, and its interval."""
    parts = dict.fromkeys(("mean", "std", "ci_low", "ci_high"))
    if len(correct):
        estimate = accuracy(correct)
        parts |= {"mean": estimate.value, "ci_low": estimate.low, "ci_high": estimate.high}
    if len(correct) > 1:
        parts["std"] = correct.mean(axis=1).std(ddof=1)
    return {
        f"{which}_val_accuracy_{part}": None if value is None else round(float(value), 6)
        for part, value in parts.items()
    }


def _selection_optimism(of_runs):
    """Return the mean, and Student's interval if there are two runs; it is never negative."""
    selection_optimism = {"selection_optimism": of_runs.mean()}
    if len(of_runs) > 1:
        half = stats.sem(of_runs) * stats.t.ppf((1 + LEVEL) / 2, len(of_runs) - 1)
        selection_optimism["selection_optimism_ci_low"] = max(
            0.0, selection_optimism["selection_optimism"] - half
        )
        selection_optimism["selection_optimism_ci_high"] = (
            selection_optimism["selection_optimism"] + half
        )
    return selection_optimism


def _new_images(results, alike):
    """Return the validation images that are no near-duplicates, or None if that is not known."""
    if alike is None:
        return None
    known = set(alike["val"].str.removeprefix("val/"))
    return [image for image in results.predictions["image"].unique() if image not in known]


def summary(table):
    """Return the flat metrics that DVC compares between branches: two keys a cell."""
    return {
        f"{row.cell}.{which}": or_none(row[f"{which}_val_accuracy_mean"])
        for _, row in table.iterrows()
        for which in ("best", "last")
    }


def most_misclassified(results):
    """Return the validation images that most runs get wrong at their best epoch.

    Returns
    -------
    pandas.DataFrame
        ``image``, ``label``, ``predicted`` (the wrong class that most runs name), ``wrong`` and
        ``runs`` (how many, of all cells), ``probability`` of the right class (their mean); those
        with the most errors first, none without any.
    """
    best = results.predictions[results.predictions["which"] == "best"]
    probabilities = best.filter(regex="^p_")
    of_label = probabilities.columns.get_indexer("p_" + best["label"])
    best = best.assign(
        wrong=best["label"] != best["predicted"],
        probability=probabilities.to_numpy()[np.arange(len(best)), of_label],
    )
    rows = best.groupby(["image", "label"], as_index=False).agg(
        wrong=("wrong", "sum"), runs=("wrong", "size"), probability=("probability", "mean")
    )
    named = best[best["wrong"]].groupby("image")["predicted"].agg(lambda names: names.mode()[0])
    rows.insert(2, "predicted", rows["image"].map(named))
    rows = rows[rows["wrong"] > 0].sort_values(
        ["wrong", "probability", "image"], ascending=[False, True, True]
    )
    return rows.reset_index(drop=True)
