"""The comparison: all cells in one table, its plots, the verdicts on the claims, and a report."""

import numpy as np
import pandas as pd

from headswap.compare import plots, report, terminal
from headswap.compare.claims import evaluate_claim, read_claims
from headswap.compare.intervals import Estimate, accuracy, mean_of_replicates, reliability
from headswap.compare.near_duplicates import near_duplicates
from headswap.compare.plot_rows import (
    accuracies,
    calibration,
    confusions,
    costs,
    curves,
    differences,
    phases,
    times,
    write_rows,
)
from headswap.compare.results import EPOCHS, Results, confidence, read_results
from headswap.io import write_json, write_text
from headswap.params import Params
from headswap.paths import COMPARISON_PLOTS, METRICS

UNKNOWN = Estimate(np.nan, np.nan, np.nan)


def write_comparison(params: Params) -> None:
    """Write the comparison of the cells that the parameters name, and print its tables.

    Raises
    ------
    UserError
        If a cell has not been trained yet, or a file is missing or damaged: then nothing is
        written.
    """
    results = read_results(params)
    duplicates = near_duplicates(results)
    table = comparison_table(results, duplicates)
    verdicts = [evaluate_claim(claim, results) for claim in read_claims()]
    misclassified = most_misclassified(results)
    rows = {
        "accuracy": accuracies(results, table),
        "confusion": confusions(results),
        "costs": costs(table, results.timed_under_same_conditions(results.cells)),
        "curves": curves(results),
        "differences": differences(results),
        "phases": phases(results),
        "reliability": calibration(results),
        "time": times(results, table),
    }
    facts = report.facts(results, table, rows, verdicts, misclassified, duplicates)
    photographs = plots.thumbnails(misclassified.head(12))
    write_json(METRICS / "summary.json", summary(table))
    write_json(METRICS / "claims.json", verdicts)
    write_text(METRICS / "comparison.csv", table.to_csv(index=False))
    write_text(METRICS / "comparison.md", report.render("report.md", facts))
    for name, of_plot in rows.items():
        write_rows(COMPARISON_PLOTS / f"{name}.json", of_plot)
        getattr(plots, name)(list(results.cells), of_plot, COMPARISON_PLOTS / f"{name}.png")
    plots.gallery(misclassified.head(12), photographs, COMPARISON_PLOTS / "gallery.png")
    terminal.show(facts)


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
        interval of the mean (``best_val_accuracy_mean``, ``_std``, ``_ci_low``, ``_ci_high``);
        ``best_epoch_mean``; ``val_loss_last_mean``; the content of ``metrics/cells/<cell>.json``;
        ``selection_optimism``, the accuracy at the best epoch less that at the last, with its
        interval for other replicates on the same images, because the choice of the epoch depends
        on these; ``calibration_error``, the expected one; ``seconds_per_run_mean``, in `probe`
        with a share of computing the features; ``accuracy_without_near_duplicates``; and
        ``published_best_val_accuracy`` and ``published_train_seconds``.
    """
    accuracies = pd.DataFrame([_accuracies(results, cell) for cell in results.cells]).round(6)
    others = pd.DataFrame([_others(results, cell, duplicates) for cell in results.cells])
    cells = pd.DataFrame({"cell": list(results.cells)})
    figures = results.figures.drop(columns=accuracies.columns, errors="ignore")
    published = results.published["summary"].set_index("cell").add_prefix("published_")
    table = pd.concat([cells, accuracies, figures.reset_index(drop=True), others], axis=1)
    return table.join(published, on="cell")


def _accuracies(results: Results, cell: str) -> dict[str, float]:
    row: dict[str, float] = {}
    for which in EPOCHS:
        correct = results.correct[cell, which]
        estimate = accuracy(correct) if len(correct) else UNKNOWN
        row |= {
            f"{which}_val_accuracy_mean": estimate.value,
            f"{which}_val_accuracy_std": correct.mean(axis=1).std(),
            f"{which}_val_accuracy_ci_low": estimate.low,
            f"{which}_val_accuracy_ci_high": estimate.high,
        }
    best = results.predictions.query("cell == @cell and which == 'best'")
    val = results.curves.query("cell == @cell and split == 'val'")
    last_losses = val.groupby("seed")["loss"].last()
    return row | {
        "best_epoch_mean": best.groupby("seed")["epoch"].first().mean(),
        "val_loss_last_mean": last_losses[best["seed"].unique()].mean(),
    }


def _others(results: Results, cell: str, duplicates: pd.DataFrame | None) -> dict[str, float]:
    best, last = (results.correct[cell, which] for which in EPOCHS)
    optimism, calibration_error, without_duplicates = UNKNOWN, np.nan, np.nan
    if len(best):
        optimism = mean_of_replicates(best.mean(axis=1) - last.mean(axis=1))
        _, calibration_error = reliability(*confidence(results, cell))
        if duplicates is not None:
            kept = best.columns.difference(duplicates["val"].str.removeprefix("val/"))
            without_duplicates = best[kept].to_numpy().mean()
    return {
        "selection_optimism": round(optimism.value, 6),
        "selection_optimism_ci_low": round(np.maximum(0.0, optimism.low), 6),  # never negative
        "selection_optimism_ci_high": round(optimism.high, 6),
        "calibration_error": round(calibration_error, 6),
        "seconds_per_run_mean": round(results.seconds(cell).mean(), 3),
        "accuracy_without_near_duplicates": round(without_duplicates, 6),
    }


def summary(table: pd.DataFrame) -> dict[str, float | None]:
    """Return the flat metrics that DVC compares between branches: two keys per cell."""
    means = table.set_index("cell")[[f"{which}_val_accuracy_mean" for which in EPOCHS]]
    return {
        f"{cell}.{which}": None if pd.isna(mean) else mean
        for cell, of_cell in means.iterrows()
        for which, mean in zip(EPOCHS, of_cell, strict=True)
    }


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
