"""The comparison: all cells in one table, and what follows from it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from headswap.compare import intervals, plot_rows
from headswap.compare.claims import evaluate_claim, read_claims
from headswap.compare.intervals import Estimate
from headswap.compare.results import EPOCHS, Results, path_of
from headswap.compare.variance import Prior, priors_without

UNKNOWN = Estimate(np.nan)
RANKED_BY = {  # what decides which cell is the best, in the report's words; the first counts most
    "last_val_accuracy_mean": "its last epoch",
    "val_loss_last_mean": "its loss",
    "seconds_per_run_mean": "its time",
}


@dataclass(frozen=True)
class Comparison:
    """What follows from the results of all cells."""

    table: pd.DataFrame
    rows: dict[str, pd.DataFrame]  # of each picture, by its name
    verdicts: list[dict[str, Any]]
    misclassified: pd.DataFrame
    near_duplicates: pd.DataFrame

    @property
    def in_order(self) -> pd.DataFrame:
        """The table, the best cell first, and last those without a finished run."""
        return self.table.sort_values("rank")


def compare(results: Results) -> Comparison:
    """Compare the cells; a UserError says if the claims are missing or damaged."""
    pairs = results.near_duplicates
    table = comparison_table(results, [*pairs["val"], *pairs["train"]])
    same_conditions = results.timed_under_same_conditions(results.cells)
    rows = {
        "accuracy": plot_rows.accuracies(results, table),
        "confusion": plot_rows.confusions(results.last),
        "costs": plot_rows.costs(table, same_conditions),
        "curves": plot_rows.curves(results),
        "differences": plot_rows.differences(results, table),
        "frontier": plot_rows.frontier(results, table),
        "reliability": plot_rows.calibration(results),
        "time": plot_rows.times(results, table),
        "unsure": plot_rows.without_the_unsure(results),
    }
    verdicts = [evaluate_claim(claim, results) for claim in read_claims()]
    return Comparison(table, rows, verdicts, most_misclassified(results), pairs)


def comparison_table(results: Results, repeated: list[str]) -> pd.DataFrame:
    """Return the figures of all cells, next to the write-up's.

    `repeated` are the paths of near-duplicates. The ``expected_accuracy`` of the best cell allows
    for its having been chosen. An ``_alone_ci`` follows from the cell alone. ``selection_optimism``
    is the accuracy at the best epoch less that at the last, its interval for other seeds alone.
    """
    tables: dict[str, dict[str, pd.DataFrame]] = {
        which: {cell: results.correct[cell, which] for cell in results.cells} for which in EPOCHS
    }
    tables["optimism"] = {
        cell: best.astype(float) - tables["last"][cell] for cell, best in tables["best"].items()
    }
    priors = {kind: priors_without(of_kind, results.design) for kind, of_kind in tables.items()}
    of_cells = [_figures(results, cell, priors, repeated) for cell in results.cells]
    figures = results.figures.drop(columns=["preprocessing", "tuning"], errors="ignore")
    table = pd.concat([pd.DataFrame(of_cells).round(6), figures.reset_index(drop=True)], axis=1)
    ranked = table.dropna(subset="last_val_accuracy_mean")
    ranked = ranked.sort_values(list(RANKED_BY), ascending=[False, True, True])
    ranks = pd.Series(range(1, len(ranked) + 1), ranked.index).reindex(table.index)
    table.insert(1, "rank", ranks.astype("Int64"))
    finished = {cell: correct for cell, correct in tables["last"].items() if len(correct)}
    winner = UNKNOWN
    if finished:
        of_finished = [priors["last"][cell] for cell in finished]
        winner = intervals.estimate_winner([*finished.values()], of_finished, results.design)
    expected = {"expected_accuracy": winner.value, **_limits("expected_accuracy", winner)}
    for name, figure in expected.items():
        table[name] = np.where(ranks == 1, round(figure, 6), np.nan)
    published = results.published["summary"].set_index("cell").add_prefix("published_")
    return table.join(published, on="cell")


def _limits(name: str, estimate: Estimate) -> dict[str, float]:
    return {f"{name}_ci_low": estimate.low, f"{name}_ci_high": estimate.high}


def _figures(
    results: Results, cell: str, priors: dict[str, dict[str, Prior]], repeated: list[str]
) -> dict[str, Any]:
    design = results.design
    best, last = (results.correct[cell, which] for which in EPOCHS)
    predictions = results.predictions[results.predictions["cell"] == cell]
    at_last = predictions[predictions["which"] == "last"]
    row: dict[str, Any] = {"cell": cell}
    for which, correct in zip(EPOCHS, (best, last), strict=True):
        estimate, alone = UNKNOWN, UNKNOWN
        if len(last):
            estimate = intervals.estimate_accuracy(correct, priors[which][cell], design)
            alone = intervals.estimate_accuracy(correct, design=design)
        name = f"{which}_val_accuracy"
        row |= _limits(name, estimate) | _limits(f"{name}_alone", alone)
        row |= {f"{name}_mean": estimate.value, f"{name}_std": correct.mean(axis=1).std()}
    balanced, optimism, errors = UNKNOWN, UNKNOWN, {}
    if len(last):
        labels = results.labels.reindex(last.columns)
        prior, difference = priors["optimism"][cell], best.astype(float) - last
        balanced = intervals.estimate_balanced_accuracy(last, labels, priors["last"][cell], design)
        optimism = intervals.estimate_mean_of_replicates(difference, prior)
        errors = {
            name: intervals.reliability(at_last[of], at_last["correct"])[1]
            for name, of in (("", "confidence"), ("_with_temperature", "calibrated"))
        }
    kept = [name for name in last if path_of(name, design.folds) not in repeated]
    wall_seconds = pd.Series(results.timing[cell]["wall_seconds_per_run"], dtype=float)
    epochs = predictions[predictions["which"] == "best"].groupby("seed")["epoch"].mean()
    least = np.finfo(np.float32).tiny
    return {
        **row,
        "balanced_accuracy": balanced.value,
        **_limits("balanced_accuracy", balanced),
        "best_epoch_mean": epochs.mean(),
        "val_loss_last_mean": -np.log(at_last["probability"].clip(lower=least)).mean(),
        "selection_optimism": optimism.value,
        "selection_optimism_ci_low": np.maximum(0.0, optimism.low),  # never negative
        "selection_optimism_ci_high": np.minimum(1.0, optimism.high),
        **{f"calibration_error{of}": errors.get(of) for of in ("", "_with_temperature")},
        "seconds_per_run_mean": round(results.seconds(cell).mean(), 3),
        "wall_seconds_per_run_mean": round(wall_seconds.mean(), 3),
        "accuracy_without_near_duplicates": last[kept].mean(axis=1).mean(),
    }


def most_misclassified(results: Results) -> pd.DataFrame:
    """Return the validation images that a run misclassifies at its last epoch, the worst first.

    ``wrong`` of ``runs`` of all cells did; ``probability`` is the own class's, the mean over runs;
    ``predicted`` the class that most took it for.
    """
    last = results.last.assign(wrong=~results.last["correct"])
    mistakes = last[last["wrong"]].groupby(["image", "predicted"], as_index=False).size()
    mistakes = mistakes.sort_values("size", ascending=False, kind="stable")
    images = last.groupby(["image", "label"], as_index=False).agg(
        wrong=("wrong", "sum"), runs=("wrong", "size"), probability=("probability", "mean")
    )
    rows = images.merge(mistakes.drop_duplicates("image")[["image", "predicted"]], on="image")
    order = ["wrong", "probability", "image"]
    return rows.sort_values(order, ascending=[False, True, True], ignore_index=True)
