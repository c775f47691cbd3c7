"""The comparison: all cells in one table, and what follows from it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from headswap.compare import plot_rows
from headswap.compare.claims import evaluate_claim, read_claims
from headswap.compare.intervals import (
    Estimate,
    estimate_accuracy,
    estimate_balanced_accuracy,
    estimate_mean_of_replicates,
    reliability,
)
from headswap.compare.results import EPOCHS, Results, confidence
from headswap.compare.variance import Array, replicate_prior
from headswap.images.index import read_index
from headswap.images.near_duplicates import near_duplicate_pairs

UNKNOWN = Estimate(np.nan, np.nan, np.nan)
RANKED_BY = {
    "best_val_accuracy_mean": "its best epoch",
    "last_val_accuracy_mean": "its last epoch",
    "seconds_per_run_mean": "its time",
}
"""What decides which cell is the best, in the words of the report; the first counts most."""


@dataclass(frozen=True)
class Comparison:
    """What follows from the results of all cells."""

    table: pd.DataFrame
    rows: dict[str, pd.DataFrame]
    """Those of each picture, by its name."""
    verdicts: list[dict[str, Any]]
    misclassified: pd.DataFrame
    near_duplicates: pd.DataFrame


def compare(results: Results) -> Comparison:
    """Compare the cells.

    A UserError says if the claims or the index of the images are missing or damaged.
    """
    pairs = near_duplicates()
    table = comparison_table(results, pairs["val"].str.removeprefix("val/").tolist())
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
    return Comparison(table, rows, verdicts, most_misclassified(results), pairs)


def near_duplicates() -> pd.DataFrame:
    """Return the pairs of a validation and a training image that are near-duplicates.

    ``val`` and ``train`` are their paths in `paths.IMAGES`; ``bits``, by which the rows are sorted,
    is how many of their hashes' 64 bits differ.
    """
    index = read_index()
    val, train = ([row for row in index.rows if row.split == split] for split in ("val", "train"))
    pairs = near_duplicate_pairs([row.phash for row in val], [row.phash for row in train])
    rows = [(val[first].path, train[second].path, bits) for first, second, bits in pairs]
    table = pd.DataFrame(rows, columns=["val", "train", "bits"])
    return table.sort_values(["bits", "val", "train"], ignore_index=True)


def comparison_table(results: Results, repeated: list[str]) -> pd.DataFrame:
    """Return the figures of all cells, next to the write-up's.

    `repeated` names the validation images that are near-duplicates of training images.
    ``rank`` is 1 for the best cell. An ``_alone_ci`` is the interval that follows from the cell
    alone. ``balanced_accuracy`` is the mean of the classes' recalls at the best epoch.
    ``selection_optimism`` is the accuracy at the best epoch less that at the last; its interval is
    for other replicates on the same images, because the choice of the epoch depends on these. The
    seconds of a `probe` include its share of the features'. A figure that is not known is NaN, as
    all of a cell without a finished run.
    """
    accuracies = pd.DataFrame([_accuracies(results, cell) for cell in results.cells]).round(6)
    others = pd.DataFrame([_others(results, cell, repeated) for cell in results.cells])
    cells = pd.DataFrame({"cell": list(results.cells)})
    published = results.published["summary"].set_index("cell").add_prefix("published_")
    figures = results.figures.drop(
        columns=["preprocessing", "tuning"], errors="ignore"
    ).reset_index(drop=True)
    table = pd.concat([cells, accuracies, figures, others], axis=1)
    table.insert(1, "rank", _ranks(table))
    return table.join(published, on="cell")


def _ranks(table: pd.DataFrame) -> pd.Series:
    ranked = table.dropna(subset="best_val_accuracy_mean")
    ranked = ranked.sort_values(list(RANKED_BY), ascending=[False, False, True])
    return pd.Series(range(1, len(ranked) + 1), ranked.index).reindex(table.index).astype("Int64")


def _accuracies(results: Results, cell: str) -> dict[str, float]:
    row: dict[str, float] = {}
    for which in EPOCHS:
        correct = results.correct[cell, which]
        prior = results.replicate_prior(which, without=cell)
        estimate = estimate_accuracy(correct, prior) if len(correct) else UNKNOWN
        alone = estimate_accuracy(correct) if len(correct) else UNKNOWN
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
    balanced = estimate_balanced_accuracy(correct, labels, prior) if len(correct) else UNKNOWN
    best = results.predictions.query("cell == @cell and which == 'best'")
    val = results.curves.query("cell == @cell and split == 'val'")
    last_losses = val.groupby("seed")["loss"].last()
    return row | {
        "balanced_accuracy": balanced.value,
        "balanced_accuracy_ci_low": balanced.low,
        "balanced_accuracy_ci_high": balanced.high,
        "best_epoch_mean": best.groupby("seed")["epoch"].first().mean(),
        "val_loss_last_mean": last_losses.reindex(best["seed"].unique()).mean(),
    }


def _others(results: Results, cell: str, repeated: list[str]) -> dict[str, float]:
    best, last = (results.correct[cell, which] for which in EPOCHS)
    optimism, calibration_error, without_duplicates = UNKNOWN, np.nan, np.nan
    if len(best):
        prior = _optimism_prior(results, cell)
        optimism = estimate_mean_of_replicates(best.astype(float) - last, prior)
        _, calibration_error = reliability(*confidence(results, cell))
        without_duplicates = best[best.columns.difference(repeated)].mean(axis=1).mean()
    wall_seconds = pd.Series(results.timing[cell]["wall_seconds_per_run"], dtype=float)
    return {
        "selection_optimism": round(optimism.value, 6),
        "selection_optimism_ci_low": round(np.maximum(0.0, optimism.low), 6),  # never negative
        "selection_optimism_ci_high": round(np.minimum(1.0, optimism.high), 6),
        "calibration_error": round(calibration_error, 6),
        "seconds_per_run_mean": round(results.seconds(cell).mean(), 3),
        "wall_seconds_per_run_mean": round(wall_seconds.mean(), 3),
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
    """Return the validation images that a run misclassifies at its best epoch, the worst first.

    ``wrong`` is the number of runs of all cells that did, of ``runs``; ``probability`` that of the
    image's own class, the mean over them; ``predicted`` the class that most took it for.
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
