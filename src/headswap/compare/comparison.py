"""The comparison: all cells in one table, and what follows from it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from headswap.compare import plot_rows
from headswap.compare.claims import evaluate_claim, read_claims
from headswap.compare.intervals import (
    Estimate,
    accuracy,
    balanced_accuracy,
    mean_of_replicates,
    reliability,
)
from headswap.compare.near_duplicates import near_duplicates
from headswap.compare.results import EPOCHS, Results, confidence
from headswap.compare.variance import Array, replicate_prior

UNKNOWN = Estimate(np.nan, np.nan, np.nan)


@dataclass(frozen=True)
class Comparison:
    """What follows from the results of all cells.

    Attributes
    ----------
    table
        From `comparison_table`.
    rows
        The rows of each plot, by its name.
    verdicts
        For each claim, from `claims.evaluate_claim`.
    misclassified
        From `most_misclassified`.
    duplicates
        From `near_duplicates.near_duplicates`.
    """

    table: pd.DataFrame
    rows: dict[str, pd.DataFrame]
    verdicts: list[dict[str, Any]]
    misclassified: pd.DataFrame
    duplicates: pd.DataFrame | None


def compare(results: Results) -> Comparison:
    """Compare the cells.

    Raises
    ------
    UserError
        If the claims or the embeddings are missing, damaged, or of other images.
    """
    duplicates = near_duplicates(results)
    table = comparison_table(results, duplicates)
    same_conditions = results.timed_under_same_conditions(results.cells)
    rows = {
        "accuracy": plot_rows.accuracies(results, table),
        "confusion": plot_rows.confusions(results),
        "costs": plot_rows.costs(table, same_conditions),
        "curves": plot_rows.curves(results),
        "differences": plot_rows.differences(results),
        "reliability": plot_rows.calibration(results),
        "time": plot_rows.times(results, table),
    }
    verdicts = [evaluate_claim(claim, results) for claim in read_claims()]
    return Comparison(table, rows, verdicts, most_misclassified(results), duplicates)


def comparison_table(results: Results, duplicates: pd.DataFrame | None) -> pd.DataFrame:
    """Return the figures of all cells, next to the write-up's.

    Parameters
    ----------
    results
        What the cells' files say.
    duplicates
        From `near_duplicates.near_duplicates`.

    Returns
    -------
    pandas.DataFrame
        A row per cell, with an empty field where a figure is not known: ``cell``; for the best and
        the last epoch the mean accuracy, its standard deviation over the replicates, and the
        interval of the mean (``best_val_accuracy_mean``, ``_std``, ``_ci_low``, ``_ci_high``), and
        the interval that follows from the cell alone (``_alone_ci_low``, ``_alone_ci_high``);
        ``balanced_accuracy``, the mean of the classes' recalls at the best epoch, with its
        interval; ``best_epoch_mean``; ``val_loss_last_mean``; the content of
        ``metrics/cells/<cell>.json`` without the preprocessing;
        ``selection_optimism``, the accuracy at the best epoch less that at the last, with its
        interval for other replicates on the same images, because the choice of the epoch depends
        on these; ``calibration_error``, the expected one; ``seconds_per_run_mean`` (of the
        processor) and ``wall_seconds_per_run_mean``, in `probe` with a share of computing the
        features; ``accuracy_without_near_duplicates``; and
        ``published_best_val_accuracy`` and ``published_train_seconds``.
    """
    accuracies = pd.DataFrame([_accuracies(results, cell) for cell in results.cells]).round(6)
    others = pd.DataFrame([_others(results, cell, duplicates) for cell in results.cells])
    cells = pd.DataFrame({"cell": list(results.cells)})
    published = results.published["summary"].set_index("cell").add_prefix("published_")
    figures = results.figures.drop(columns="preprocessing").reset_index(drop=True)
    table = pd.concat([cells, accuracies, figures, others], axis=1)
    return table.join(published, on="cell")


def _accuracies(results: Results, cell: str) -> dict[str, float]:
    row: dict[str, float] = {}
    for which in EPOCHS:
        correct = results.correct[cell, which]
        prior = results.replicate_prior(which, without=cell)
        estimate = accuracy(correct, prior) if len(correct) else UNKNOWN
        alone = accuracy(correct) if len(correct) else UNKNOWN
        row |= {
            f"{which}_val_accuracy_mean": estimate.value,
            f"{which}_val_accuracy_std": correct.mean(axis=1).std(),
            f"{which}_val_accuracy_ci_low": estimate.low,
            f"{which}_val_accuracy_ci_high": estimate.high,
            f"{which}_val_accuracy_alone_ci_low": alone.low,
            f"{which}_val_accuracy_alone_ci_high": alone.high,
        }
    correct = results.correct[cell, "best"]
    labels = results.labels.reindex(correct.columns)
    prior = results.replicate_prior(without=cell)
    balanced = balanced_accuracy(correct, labels, prior) if len(correct) else UNKNOWN
    best = results.predictions.query("cell == @cell and which == 'best'")
    val = results.curves.query("cell == @cell and split == 'val'")
    last_losses = val.groupby("seed")["loss"].last()
    return row | {
        "balanced_accuracy": balanced.value,
        "balanced_accuracy_ci_low": balanced.low,
        "balanced_accuracy_ci_high": balanced.high,
        "best_epoch_mean": best.groupby("seed")["epoch"].first().mean(),
        "val_loss_last_mean": last_losses[best["seed"].unique()].mean(),
    }


def _others(results: Results, cell: str, duplicates: pd.DataFrame | None) -> dict[str, float]:
    best, last = (results.correct[cell, which] for which in EPOCHS)
    optimism, calibration_error, without_duplicates = UNKNOWN, np.nan, np.nan
    if len(best):
        optimism = mean_of_replicates(best.astype(float) - last, _optimism_prior(results, cell))
        _, calibration_error = reliability(*confidence(results, cell))
        if duplicates is not None:
            kept = best.columns.difference(duplicates["val"].str.removeprefix("val/"))
            without_duplicates = best[kept].to_numpy().mean()
    return {
        "selection_optimism": round(optimism.value, 6),
        "selection_optimism_ci_low": round(np.maximum(0.0, optimism.low), 6),  # never negative
        "selection_optimism_ci_high": round(np.minimum(1.0, optimism.high), 6),
        "calibration_error": round(calibration_error, 6),
        "seconds_per_run_mean": round(results.seconds(cell).mean(), 3),
        "wall_seconds_per_run_mean": round(
            pd.Series(results.timing[cell]["wall_seconds_per_run"], dtype=float).mean(), 3
        ),
        "accuracy_without_near_duplicates": round(without_duplicates, 6),
    }


def _optimism_prior(results: Results, cell: str) -> Array | None:
    tables = {
        name: [results.correct[name, which].astype(float) for which in EPOCHS]
        for name in results.cells
        if name != cell
    }
    return replicate_prior(best - last for best, last in tables.values() if len(best))


def most_misclassified(results: Results) -> pd.DataFrame:
    """Return the validation images that most runs misclassify at their best epoch.

    Returns
    -------
    pandas.DataFrame
        ``image``; ``label``; ``wrong``, the number of runs that misclassified it, of ``runs`` in
        all cells; ``probability`` of its own class (their mean); ``predicted``, the class that it
        was most often mistaken for. Those with the most errors first, none without any.
    """
    best = results.predictions[results.predictions["which"] == "best"]
    probabilities = best.filter(regex="^p_")
    of_label = probabilities.columns.get_indexer("p_" + best["label"])
    best = best.assign(
        wrong=best["label"] != best["predicted"],
        probability=probabilities.to_numpy()[np.arange(len(best)), of_label],
    )
    mistakes = best[best["wrong"]].groupby(["image", "predicted"], as_index=False).size()
    mistakes = mistakes.sort_values("size", ascending=False, kind="stable")
    images = best.groupby(["image", "label"], as_index=False).agg(
        wrong=("wrong", "sum"), runs=("wrong", "size"), probability=("probability", "mean")
    )
    rows = images.merge(mistakes.drop_duplicates("image")[["image", "predicted"]], on="image")
    order = ["wrong", "probability", "image"]
    return rows.sort_values(order, ascending=[False, True, True], ignore_index=True)
