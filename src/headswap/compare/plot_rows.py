"""The rows of the pictures: what each shows, as tables."""

import itertools
import math
import re
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from headswap.compare.intervals import estimate_difference, reliability
from headswap.compare.results import EPOCHS, Results, confidence
from headswap.compare.variance import LEVEL
from headswap.params import Cell

MOST_CLASSES = 20
"""In a confusion matrix."""
MODE_COLOURS = {"finetune": "#0072B2", "frozen": "#E69F00", "probe": "#009E73"}
"""The colour of a mode in every picture, from Okabe and Ito's palette for colour-blind readers."""
QUANTITIES = {
    "parameters": ("parameters, millions", 1e6),
    "trainable_parameters": ("trained parameters, millions", 1e6),
    "gmacs": ("multiply-accumulates, billions", 1),
    "depth": ("layers", 1),
}
"""For each `results.Cost` the heading of its panel, with the unit, and the unit's size."""


def with_every_cell(rows: pd.DataFrame, cells: dict[str, Cell]) -> pd.DataFrame:
    """Complete the rows of a picture that is made of cells, in the order of the cells.

    Added are ``model``, ``mode``, ``recipe``, ``heading`` (all, in lines that fit a panel) and
    ``colour``. A cell without rows gets an empty one.
    """
    named = [
        {
            "cell": name,
            "model": cell.model,
            "mode": cell.mode,
            "recipe": cell.recipe,
            "heading": "\n".join([*wrap(cell.model), cell.listed_as, *rate_of(cell)]),
            "colour": MODE_COLOURS[cell.mode],
        }
        for name, cell in cells.items()
    ]
    return pd.DataFrame(named).merge(rows, on="cell", how="left")


def rate_of(cell: Cell) -> list[str]:
    """Return the line of a heading that names the learning rate, if that was chosen."""
    return [f"learning rate {cell.lr:g}"] if cell.lr else []


def wrap(text: str, width: int = 28) -> list[str]:
    """Break a text into lines, where there are spaces, hyphens or underscores if possible.

    >>> wrap("a_network_with_a_long_name", 12)
    ['a_network_', 'with_a_long_', 'name']
    """
    lines = [""]
    for word in re.findall(rf"[^ _-]{{1,{width - 1}}}[ _-]*|[ _-]+", text):
        if lines[-1] and len(lines[-1] + word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return [line.strip() for line in lines]


def accuracies(results: Results, table: pd.DataFrame) -> pd.DataFrame:
    """Return accuracies at the best epoch: ``what`` is ``replicate``, ``mean`` or ``write-up``.

    A replicate has its ``seed``, a mean its interval, ``low`` and ``high``.
    """
    replicates = [
        {"cell": cell, "what": "replicate", "seed": seed, "accuracy": accuracy}
        for cell in results.cells
        for seed, accuracy in results.correct[cell, "best"].mean(axis=1).items()
    ]
    published = table[["cell"]].assign(accuracy=table["published_best_val_accuracy"])
    rows = pd.concat(
        [
            _with_intervals(table).assign(what="mean"),
            published.assign(what="write-up"),
            pd.DataFrame(replicates),
        ]
    )
    columns = ["cell", "what", "seed", "accuracy", "low", "high"]
    return rows.dropna(subset="accuracy").reindex(columns=columns).round(6)


def _with_intervals(table: pd.DataFrame) -> pd.DataFrame:
    columns = {"mean": "accuracy", "ci_low": "low", "ci_high": "high"}
    columns = {f"best_val_accuracy_{key}": name for key, name in columns.items()}
    return table[["cell", *columns]].rename(columns=columns)


def curves(results: Results) -> pd.DataFrame:
    """Return the learning curves; ``what`` is ``replicates`` or ``write-up``, epochs are from 1.

    ``loss`` and ``accuracy`` are means over the replicates, with ``_low`` and ``_high``, the lowest
    and the highest. Losses are drawn up to ``loss_limit``, so that one cell whose loss explodes
    leaves the others readable: twice the loss of guessing, unless every cell's is higher.
    """
    published = results.published["curves"].query("split == 'val'")
    everything = pd.concat(
        [results.curves.assign(what="replicates"), published.assign(what="write-up")]
    )
    everything["epoch"] += 1
    by_epoch = everything.groupby(["cell", "what", "split", "epoch"], sort=False)[
        ["loss", "accuracy"]
    ]
    parts = {"": by_epoch.mean(), "_low": by_epoch.min(), "_high": by_epoch.max()}
    rows = pd.concat([of_part.add_suffix(part) for part, of_part in parts.items()], axis=1)
    guessing = math.log(max(2, results.predictions["label"].nunique()))
    highest = rows.groupby("cell")["loss_high"].max()
    return rows.assign(loss_limit=np.nanmax([2 * guessing, highest.min()])).reset_index().round(6)


def differences(results: Results) -> pd.DataFrame:
    """Return for each pair of cells and epoch how much more accurate the first is.

    ``seeds`` is the number that both finished (pairs without any are left out); ``difference`` of
    accuracies has its interval, ``low`` and ``high``. With two seeds or more ``differ`` says
    whether that excludes zero; ``holm``, whether it also does so with Holm's correction [1]_ for
    the number of such pairs of that epoch; ``images_needed`` for an interval that excludes zero if
    it does not. A single seed says nothing about others, and gives no verdict.

    References
    ----------
    .. [1] S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal
       of Statistics 6 (1979).
    """
    rows = []
    priors = {which: results.replicate_prior(which) for which in EPOCHS}
    for cell, other in itertools.combinations(results.cells, 2):
        for which in EPOCHS:
            values = results.weighted_correct({cell: 1, other: -1}, which)
            if len(values):
                estimate = estimate_difference(values, priors[which])
                repeated = len(values) > 1
                needed = estimate.images_needed if repeated and not estimate.sign else None
                rows.append(
                    (f"{cell} − {other}", cell, other, which, len(values))
                    + (estimate.value, estimate.low, estimate.high)
                    + (repeated and bool(estimate.sign), needed)
                    + (estimate.p_value if repeated else np.nan,)
                )
    columns = ["pair", "cell", "other", "which", "seeds", "difference", "low", "high", "differ"]
    table = pd.DataFrame(rows, columns=[*columns, "images_needed", "p_value"])
    table = table.astype({"p_value": float, "differ": bool})
    # Rank from the largest, 1, so that each p-value is multiplied by its rank.
    ranks = table.groupby("which")["p_value"].rank(method="max", ascending=False)
    adjusted = table.assign(holm=table["p_value"] * ranks).sort_values("p_value")
    table["holm"] = adjusted.groupby("which")["holm"].cummax() < 1 - LEVEL
    return table.drop(columns="p_value").round(6)


def confusions(results: Results) -> pd.DataFrame:
    """Return for each cell, label and prediction the mean number of images over replicates.

    ``images`` is that number at the best epochs, ``share`` its part of the label's images; of
    ``classes`` classes only the ``shown`` most confused, `MOST_CLASSES`, have rows.
    """
    best = results.predictions[results.predictions["which"] == "best"]
    wrong = best[best["label"] != best["predicted"]]
    confused = pd.concat([wrong["label"], wrong["predicted"]]).value_counts()
    all_classes = sorted(set(best["label"]) | set(best["predicted"]))
    ranked = sorted(all_classes, key=lambda name: -confused.get(name, 0))
    classes = sorted(ranked[:MOST_CLASSES])
    pairs = pd.MultiIndex.from_product(
        [[cell for cell in results.cells if cell in set(best["cell"])], classes, classes],
        names=["cell", "label", "predicted"],
    )
    sizes = best.groupby(["cell", "label", "predicted"]).size().reindex(pairs, fill_value=0)
    replicates = best.groupby("cell")["seed"].nunique()
    images = sizes.div(replicates, level="cell").rename("images")
    of_label = best.groupby(["cell", "label"]).size().div(replicates, level="cell")
    probabilities = images.div(of_label).reindex(pairs).rename("share")
    rows = pd.concat([images, probabilities], axis=1).reset_index().round(6)
    return rows.assign(shown=len(classes), classes=len(all_classes))


def times(results: Results, table: pd.DataFrame) -> pd.DataFrame:
    """Return each cell's accuracy and the seconds of its runs: mean, fastest and slowest."""
    seconds = pd.DataFrame({cell: results.seconds(cell) for cell in results.cells})
    figures = {"seconds": seconds.mean(), "fastest": seconds.min(), "slowest": seconds.max()}
    return _with_intervals(table).join(pd.DataFrame(figures), on="cell").round(6)


def costs(table: pd.DataFrame, same_conditions: bool) -> pd.DataFrame:
    """Return the costs that might explain a cell's run time, with the time.

    ``amount`` is rounded to three digits, because smaller differences do not change the time;
    ``quantity`` names the unit of ``in_unit``. ``rank_correlation`` is Spearman's, of amounts and
    seconds over the cells with a finished run: empty if either does not vary, or if the runs were
    timed under different conditions.
    """
    seconds, rows = table["seconds_per_run_mean"], []
    timed = seconds.notna()
    for cost, (quantity, unit) in QUANTITIES.items():
        amounts = table[cost].map(lambda amount: float(f"{amount:.3g}"))
        varies = same_conditions and min(amounts[timed].nunique(), seconds.nunique()) > 1
        spearman = stats.spearmanr(amounts, seconds, nan_policy="omit") if varies else None
        rows.append(
            table[["cell"]].assign(
                cost=cost,
                amount=amounts,
                quantity=quantity,
                in_unit=amounts / unit,
                seconds=seconds,
                rank_correlation=spearman.statistic if spearman else np.nan,
            )
        )
    return pd.concat(rows).round(6)


def calibration(results: Results) -> pd.DataFrame:
    """Return the mean confidence and the accuracy of each tenth of confidence, by cell."""
    rows = []
    for cell in results.cells:
        confidences, correct = confidence(results, cell)
        if len(correct):
            bins, error = reliability(confidences, correct)
            rows += [(cell, *of_bin, error) for of_bin in bins]
    columns = ["cell", "confidence", "accuracy", "predictions", "calibration_error"]
    return pd.DataFrame(rows, columns=columns).round(6)


def json_records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as DVC's plots read them: the same keys in each, None for a missing value."""
    return [
        {key: None if pd.isna(value) else value for key, value in row.items()}
        for row in rows.to_dict("records")
    ]
