"""The rows of the pictures: what each shows, as tables."""

import itertools
import math
import re
from typing import Any

import numpy as np
import pandas as pd

from headswap.compare.intervals import estimate_difference, probability_good_enough, reliability
from headswap.compare.results import Results
from headswap.compare.variance import LEVEL
from headswap.params import Cell

MODE_COLOURS = {"finetune": "#0072B2", "frozen": "#E69F00", "probe": "#009E73"}
"""The colour of a mode in every picture, from Okabe and Ito's palette for colour-blind readers."""
QUANTITIES = {  # for each `results.Cost` its heading, with the unit, and the unit's size
    "parameters": ("parameters, millions", 1e6),
    "trainable_parameters": ("trained parameters, millions", 1e6),
    "gmacs": ("multiply-accumulates, billions", 1),
    "depth": ("layers", 1),
}


def with_every_cell(rows: pd.DataFrame, cells: list[Cell], of_all: int) -> pd.DataFrame:
    """Complete the rows of a picture that is made of cells, in their order.

    ``network`` is the model unless they are too many. A cell without rows gets an empty one.
    """
    models = len({cell.model for cell in cells})  # there are eight marks
    note = f"The {len(cells)} most accurate of {of_all} cells." if len(cells) < of_all else ""
    columns = ["cell", "model", "network", "mode", "recipe", "heading", "colour", "note"]
    named = []
    for cell in cells:
        network = cell.model if models <= 8 else f"one of {models}"
        rate = [f"learning rate {cell.lr:g}"] if cell.lr else []
        heading = "\n".join([*wrap(cell.model), cell.listed_as, *rate])
        names = (cell.name, cell.model, network, cell.mode, cell.recipe, heading)
        named.append((*names, MODE_COLOURS[cell.mode], note))
    return pd.DataFrame(named, columns=columns).merge(rows, on="cell", how="left")


def wrap(text: str, width: int = 28) -> list[str]:
    """Break a text into lines, where there are spaces, hyphens or underscores if possible."""
    lines = [""]
    for word in re.findall(rf"[^ _-]{{1,{width - 1}}}[ _-]*|[ _-]+", text):
        if lines[-1] and len(lines[-1] + word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return [line.strip() for line in lines]


def accuracies(results: Results, table: pd.DataFrame) -> pd.DataFrame:
    """Return accuracies at the last epoch: ``what`` is ``replicate``, ``mean`` or ``write-up``."""
    replicates = [
        {"cell": cell, "what": "replicate", "seed": seed, "accuracy": accuracy}
        for cell in results.cells
        for seed, accuracy in results.correct[cell, "last"].mean(axis=1).items()
        if not results.stands_for_every_seed(cell)
    ]
    published = results.published["curves"].query("split == 'val'")
    published = published.drop_duplicates("cell", keep="last").assign(what="write-up")
    means = _with_intervals(table).assign(what="mean")
    rows = pd.concat([means, published, pd.DataFrame(replicates)]).dropna(subset="accuracy")
    return rows.reindex(columns=["cell", "what", "seed", "accuracy", "low", "high"]).round(6)


def _with_intervals(table: pd.DataFrame) -> pd.DataFrame:
    columns = [f"last_val_accuracy_{figure}" for figure in ("mean", "ci_low", "ci_high")]
    return table[["cell", *columns]].set_axis(["cell", "accuracy", "low", "high"], axis=1)


def curves(results: Results) -> pd.DataFrame:
    """Return the learning curves; ``what`` is ``replicates`` or ``write-up``, epochs are from 1.

    ``loss`` and ``accuracy`` are means over the replicates, with ``_low`` and ``_high``; losses are
    drawn up to ``loss_limit``, twice that of guessing, unless every cell's highest is above it.
    """
    published = results.published["curves"].query("split == 'val'").assign(what="write-up")
    everything = pd.concat([results.curves.assign(what="replicates"), published])
    everything["epoch"] += 1
    keys = ["cell", "what", "split", "epoch"]
    by_epoch = everything.groupby(keys, sort=False)[["loss", "accuracy"]]
    low, high = by_epoch.min().add_suffix("_low"), by_epoch.max().add_suffix("_high")
    rows = pd.concat([by_epoch.mean(), low, high], axis=1)
    guessing = math.log(max(2, results.predictions["label"].nunique()))
    highest = rows.groupby("cell")["loss_high"].max()
    return rows.assign(loss_limit=np.nanmax([2 * guessing, highest.min()])).reset_index().round(6)


def differences(results: Results, table: pd.DataFrame) -> pd.DataFrame:
    """Return how much more accurate the best cell is than each other, and a mode than another.

    The modes are those of one network, the accuracies those at the last epochs; ``seeds`` counts
    those that both cells finished, if any. With a ``verdict`` (not of one run that a seed changes)
    ``differ`` says whether the interval excludes zero, as it would with ``images_needed``; ``holm``
    whether it also does with Holm's correction (Scandinavian Journal of Statistics 6, 1979) for all
    pairs, since the best was chosen. ``good_enough`` is the probability that the best cell is at
    most `intervals.MARGIN` better: sure with ``images_for_good_enough``.
    """
    ranked = table.dropna(subset="rank").sort_values("rank")["cell"].tolist()
    prior, rows = results.replicate_prior(), []
    for cell, other in itertools.combinations(ranked, 2):
        shown = cell == ranked[0] or results.cells[cell].model == results.cells[other].model
        if not shown or not len(values := results.weighted_correct({cell: 1, other: -1})):
            continue
        estimate = estimate_difference(values, prior, results.design)
        verdict = len(values) > 1 or all(map(results.stands_for_every_seed, (cell, other)))
        differ = verdict and estimate.sign != 0
        needed = None if differ or not verdict else estimate.images_needed
        good_enough: tuple[float | None, int | None] = (None, None)
        if verdict and cell == ranked[0]:
            good_enough = probability_good_enough(values, prior, results.design)
        figures = (len(values), *estimate[:3], verdict, differ, needed, *good_enough)
        p_value = estimate.p_value if verdict else None
        rows.append((f"{cell} − {other}", cell, other, *figures, p_value))
    columns = ["pair", "cell", "other", "seeds", "difference", "low", "high", "verdict", "differ"]
    numbers = ["images_needed", "good_enough", "images_for_good_enough", "p_value"]
    found = pd.DataFrame(rows, columns=[*columns, *numbers])
    found = found.astype(dict.fromkeys(numbers, float) | {"differ": bool, "verdict": bool})
    p_values = found.pop("p_value")
    all_pairs = math.comb(len(ranked), 2) - int((~found["verdict"]).sum())
    adjusted = p_values * (all_pairs + 1 - p_values.rank(method="min"))
    found["holm"] = adjusted[p_values.sort_values().index].cummax() < 1 - LEVEL
    places = found.groupby(found["cell"] == "".join(ranked[:1])).cumcount()
    return found.assign(shown=places < 20).round(6)  # of the best cell, and of the modes


def confusions(last: pd.DataFrame) -> pd.DataFrame:
    """Return for each cell, label and prediction the mean number of images over replicates.

    ``share`` is that of the label's; of ``classes`` only the ``shown`` most confused have rows.
    """
    wrong, keys = last[~last["correct"]], ["cell", "label", "predicted"]
    confused = pd.concat([wrong["label"], wrong["predicted"]]).value_counts()
    all_classes = sorted(set(last["label"]) | set(last["predicted"]))
    ranked = sorted(all_classes, key=lambda name: -confused.get(name, 0))
    classes = sorted(ranked[:20])
    pairs = pd.MultiIndex.from_product([last["cell"].unique(), classes, classes], names=keys)
    replicates = last.groupby("cell")["seed"].nunique()
    images = last.groupby(keys).size().reindex(pairs, fill_value=0).div(replicates, level="cell")
    of_label = last.groupby(keys[:2]).size().div(replicates, level="cell")
    rows = pd.DataFrame({"images": images, "share": images.div(of_label).reindex(pairs)})
    return rows.reset_index().round(6).assign(shown=len(classes), classes=len(all_classes))


def times(results: Results, table: pd.DataFrame) -> pd.DataFrame:
    """Return each cell's accuracy and the seconds of its runs: mean, fastest and slowest."""
    seconds = pd.DataFrame({cell: results.seconds(cell) for cell in results.cells})
    figures = {"seconds": seconds.mean(), "fastest": seconds.min(), "slowest": seconds.max()}
    return _with_intervals(table).join(pd.DataFrame(figures), on="cell").round(6)


def costs(table: pd.DataFrame, same_conditions: bool) -> pd.DataFrame:
    """Return the costs that might explain a cell's run time, with the time.

    ``amount`` has three digits, as less changes no time; ``quantity`` names ``in_unit``'s unit.
    Spearman's ``rank_correlation`` is empty if one does not vary, or the conditions of timing did.
    """
    seconds, tables = table["seconds_per_run_mean"], []
    for cost, (quantity, unit) in QUANTITIES.items():
        amount = table[cost].map(lambda amount: float(f"{amount:.3g}"))
        both = pd.DataFrame({"amount": amount, "seconds": seconds})
        spearman = both.corr("spearman").loc["amount", "seconds"] if same_conditions else np.nan
        rows = table[["cell"]].assign(cost=cost, amount=amount, quantity=quantity)
        rows = rows.assign(in_unit=amount / unit, seconds=seconds)
        tables.append(rows.assign(rank_correlation=spearman))
    return pd.concat(tables).round(6)


def calibration(results: Results) -> pd.DataFrame:
    """Return the mean confidence and the accuracy of each tenth of confidence, by cell."""
    rows = []
    for cell, of_cell in results.last.groupby("cell", sort=False):
        bins, before = reliability(of_cell["confidence"], of_cell["correct"])
        _, after = reliability(of_cell["calibrated"], of_cell["correct"])
        rows += [(cell, *of_bin, before, after) for of_bin in bins]
    columns = ["cell", "confidence", "accuracy", "predictions", "calibration_error"]
    columns.append("calibration_error_with_temperature")
    return pd.DataFrame(rows, columns=columns).round(6)


def without_the_unsure(results: Results) -> pd.DataFrame:
    """Return the accuracy of the surest ``share`` of each cell, with their least ``confidence``.

    This is the probability that `headswap predict` gives, with the cell's temperature.
    """
    columns = ["cell", "share", "accuracy", "confidence"]
    tables = [pd.DataFrame(columns=columns)]
    for cell, of_cell in results.last.groupby("cell", sort=False):
        by_confidence = of_cell.groupby("calibrated")["correct"].agg(["sum", "size"])
        sums = by_confidence[::-1].cumsum().reset_index(names="confidence")
        table = sums.assign(cell=cell, share=sums["size"] / len(of_cell))
        shown = np.searchsorted(table["share"], np.linspace(0.05, 1, 20) - 1e-9)
        tables.append(table.assign(accuracy=table["sum"] / table["size"]).iloc[np.unique(shown)])
    return pd.concat(tables[1:] or tables)[columns].round(6)


def frontier(results: Results, table: pd.DataFrame) -> pd.DataFrame:
    """Return each network's best cell; those ``on_frontier`` beat all with less ``gmacs``."""
    ranked = table.dropna(subset="rank").sort_values("rank")
    first = ~ranked["cell"].map(lambda cell: results.cells[cell].model).duplicated()
    rows = _with_intervals(ranked[first]).assign(gmacs=ranked["gmacs"])
    rows = rows.sort_values(["gmacs", "accuracy"], ascending=[True, False], kind="stable")
    cheaper = rows["accuracy"].cummax().shift(fill_value=-1.0)
    return rows.assign(on_frontier=rows["accuracy"] > cheaper).round(6)


def json_records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as DVC's plots read them: the same keys in each, None for a missing value."""
    return rows.astype(object).where(rows.notna(), None).to_dict("records")
