"""The rows of the pictures: what each shows, as tables."""

import itertools
import math
import re
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from headswap.compare.intervals import estimate_difference, probability_good_enough, reliability
from headswap.compare.results import Results
from headswap.compare.variance import LEVEL
from headswap.params import Cell

MOST_CLASSES = 20
"""In a confusion matrix."""
SHOWN_PAIRS = 20
"""In the picture of differences, of the best cell, and of the modes of one network."""
MARKS = 8
"""How many networks have marks of different shapes."""
MODE_COLOURS = {"finetune": "#0072B2", "frozen": "#E69F00", "probe": "#009E73"}
"""The colour of a mode in every picture, from Okabe and Ito's palette for colour-blind readers."""
QUANTITIES = {
    "parameters": ("parameters, millions", 1e6),
    "trainable_parameters": ("trained parameters, millions", 1e6),
    "gmacs": ("multiply-accumulates, billions", 1),
    "depth": ("layers", 1),
}
"""For each `results.Cost` the heading of its panel, with the unit, and the unit's size."""


def with_every_cell(rows: pd.DataFrame, cells: list[Cell], of_all: int) -> pd.DataFrame:
    """Complete the rows of a picture that is made of cells, in their order.

    Added are ``model``, ``mode``, ``recipe``, ``heading`` (all, in lines that fit a panel),
    ``colour``, ``network``, which is the model unless there are more of them than marks, and
    ``note``, where these are not all cells. A cell without rows gets an empty one.
    """
    models = {cell.model for cell in cells}
    note = f"The {len(cells)} most accurate of {of_all} cells."
    named = [
        {
            "cell": cell.name,
            "model": cell.model,
            "network": cell.model if len(models) <= MARKS else f"one of {len(models)}",
            "mode": cell.mode,
            "recipe": cell.recipe,
            "heading": "\n".join([*wrap(cell.model), cell.listed_as, *rate_of(cell)]),
            "colour": MODE_COLOURS[cell.mode],
            "note": "" if len(cells) == of_all else note,
        }
        for cell in cells
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
    """Return accuracies at the last epoch: ``what`` is ``replicate``, ``mean`` or ``write-up``.

    A replicate has its ``seed``, a mean its interval, ``low`` and ``high``.
    """
    replicates = [
        {"cell": cell, "what": "replicate", "seed": seed, "accuracy": accuracy}
        for cell in results.cells
        for seed, accuracy in results.correct[cell, "last"].mean(axis=1).items()
        if not results.stands_for_every_seed(cell)
    ]
    published = results.published["curves"].query("split == 'val'")
    published = published.drop_duplicates("cell", keep="last")[["cell", "accuracy"]]
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
    columns = {f"last_val_accuracy_{key}": name for key, name in columns.items()}
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


def differences(results: Results, table: pd.DataFrame) -> pd.DataFrame:
    """Return how much more accurate the best cell is than each other, and a mode than another.

    The modes are those of one network. ``seeds`` is the number that both cells finished (pairs
    without any are left out); ``difference`` of accuracies at the last epochs has its interval,
    ``low`` and ``high``. With two seeds or more ``differ`` says whether that excludes zero;
    ``holm``, whether it also does so with Holm's correction [1]_ for all pairs of cells, since the
    best one was chosen; ``images_needed`` for an interval that excludes zero if it does not. A
    single seed says nothing about others, and gives no verdict, except between probes that no seed
    changes. Against the best cell ``good_enough`` is the probability that it is at most
    `intervals.MARGIN` better, and ``images_for_good_enough`` how many would make that sure.

    References
    ----------
    .. [1] S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal
       of Statistics 6 (1979).
    """
    ranked = table.dropna(subset="rank").sort_values("rank")["cell"].tolist()
    prior, rows = results.replicate_prior(), []
    for cell, other in itertools.combinations(ranked, 2):
        models = {results.cells[cell].model, results.cells[other].model}
        values = np.empty((0, 0))
        if cell == ranked[0] or len(models) == 1:
            values = results.weighted_correct({cell: 1, other: -1})
        if not len(values):
            continue
        estimate = estimate_difference(values, prior, results.design)
        verdict = results.has_verdict((cell, other), len(values))
        good_enough, images = None, None
        if verdict and cell == ranked[0]:
            good_enough, images = probability_good_enough(values, prior, results.design)
        rows.append(
            {
                "pair": f"{cell} − {other}",
                "cell": cell,
                "other": other,
                "seeds": len(values),
                "difference": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "verdict": verdict,
                "differ": verdict and bool(estimate.sign),
                "images_needed": None if not verdict or estimate.sign else estimate.images_needed,
                "good_enough": good_enough,
                "images_for_good_enough": images,
                "p_value": estimate.p_value if verdict else np.nan,
            }
        )
    columns = ["pair", "cell", "other", "seeds", "difference", "low", "high", "verdict", "differ"]
    numbers = ["images_needed", "good_enough", "images_for_good_enough", "p_value"]
    found = pd.DataFrame(rows, columns=[*columns, *numbers])
    found = found.astype(dict.fromkeys(numbers, float) | {"differ": bool, "verdict": bool})
    all_pairs = math.comb(len(ranked), 2) - int((~found["verdict"]).sum())
    remaining = all_pairs + 1 - found["p_value"].rank(method="min")
    adjusted = (found["p_value"] * remaining)[found["p_value"].sort_values().index].cummax()
    found["holm"] = adjusted < 1 - LEVEL
    places = found.groupby(found["cell"] == "".join(ranked[:1])).cumcount()
    found["shown"] = places < SHOWN_PAIRS
    return found.drop(columns="p_value").round(6)


def confusions(last: pd.DataFrame) -> pd.DataFrame:
    """Return for each cell, label and prediction the mean number of images over replicates.

    Predictions are of one epoch. ``share`` is the part of the label's images; of ``classes``
    classes only the ``shown`` most confused, `MOST_CLASSES`, have rows.
    """
    wrong = last[~last["correct"]]
    confused = pd.concat([wrong["label"], wrong["predicted"]]).value_counts()
    all_classes = sorted(set(last["label"]) | set(last["predicted"]))
    ranked = sorted(all_classes, key=lambda name: -confused.get(name, 0))
    classes = sorted(ranked[:MOST_CLASSES])
    pairs = pd.MultiIndex.from_product(
        [last["cell"].unique(), classes, classes], names=["cell", "label", "predicted"]
    )
    sizes = last.groupby(["cell", "label", "predicted"]).size().reindex(pairs, fill_value=0)
    replicates = last.groupby("cell")["seed"].nunique()
    images = sizes.div(replicates, level="cell").rename("images")
    of_label = last.groupby(["cell", "label"]).size().div(replicates, level="cell")
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
    for cell, of_cell in results.last.groupby("cell", sort=False):
        bins, error = reliability(of_cell["confidence"], of_cell["correct"])
        rows += [(cell, *of_bin, error) for of_bin in bins]
    columns = ["cell", "confidence", "accuracy", "predictions", "calibration_error"]
    return pd.DataFrame(rows, columns=columns).round(6)


def without_the_unsure(results: Results) -> pd.DataFrame:
    """Return the accuracy of the surest predictions, by cell and their ``share`` of all.

    ``confidence`` is the least of them; those that are as sure as the last are among them.
    """
    tables = []
    for cell, of_cell in results.last.groupby("cell", sort=False):
        sorted_ = of_cell.sort_values("confidence", ascending=False)
        sums = sorted_.groupby("confidence", sort=False)["correct"].agg(["sum", "size"]).cumsum()
        table = sums.assign(cell=cell, share=sums["size"] / len(of_cell)).reset_index()
        table["accuracy"] = table["sum"] / table["size"]
        shown = np.searchsorted(table["share"], np.linspace(0.05, 1, 20) - 1e-9)
        tables.append(table.iloc[np.unique(shown)])
    columns = ["cell", "share", "accuracy", "confidence"]
    stacked = pd.concat(tables) if tables else pd.DataFrame(columns=columns)
    return stacked[columns].round(6)


def frontier(results: Results, table: pd.DataFrame) -> pd.DataFrame:
    """Return each network's most accurate cell, and its multiply-accumulates, in billions.

    Those ``on_frontier`` are more accurate than all cheaper ones.
    """
    ranked = table.dropna(subset="rank").sort_values("rank")
    first = ~ranked["cell"].map(lambda cell: results.cells[cell].model).duplicated()
    rows = _with_intervals(ranked[first]).assign(gmacs=ranked["gmacs"])
    rows = rows.sort_values(["gmacs", "accuracy"], ascending=[True, False], kind="stable")
    cheaper = rows["accuracy"].cummax().shift(fill_value=-1.0)
    return rows.assign(on_frontier=rows["accuracy"] > cheaper).round(6)


def json_records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as DVC's plots read them: the same keys in each, None for a missing value."""
    return [
        {key: None if pd.isna(value) else value for key, value in row.items()}
        for row in rows.to_dict("records")
    ]
