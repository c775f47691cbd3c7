"""The facts of the report, taken from the comparison's tables; its sentences are in `templates`.

Facts are numbers, names, and tables whose entries are formatted texts.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from headswap.compare.comparison import RANKED_BY, Comparison
from headswap.compare.intervals import SURE, Estimate, estimate_accuracy
from headswap.compare.plots import MOST_CELLS
from headswap.compare.results import TIMING_CONDITIONS, Results
from headswap.compare.variance import priors_without
from headswap.compare.versions import outdated_cells
from headswap.images.index import Row
from headswap.images.near_duplicates import MOST_BITS
from headswap.markdown import escaped, fill_template
from headswap.params import Recipe

UNKNOWN = "–"
MOST_PAIRS = 10
"""How many pairs of modes are listed."""
MOST_CLASSES = 20
"""How many classes are listed, with their numbers of images or their recalls."""
MOST_CONFUSED = 5
"""How many pairs of classes are listed."""
MOST_RECALLS = 6
"""Of how many cells the recalls are listed."""
MOST_IMAGES = 6
"""How many misclassified images, and how many near-duplicates, are listed."""
BUSY_RATIO = 1.25
"""From which ratio of wall time to the processor's on a machine counts as busy."""


def render(template: str, facts: Mapping[str, Any]) -> str:
    """Fill a template from the folder ``templates`` with facts."""
    filters: dict[str, Callable[..., Any]] = {
        "join_numbers": lambda numbers: ", ".join(f"{number:.3g}" for number in numbers),
        "join_words": join_words,
        "markdown": markdown_table,
        "percent": _percent,
        "percent_range": percent_range,
        "pluralize": pluralize,
        "seconds": _seconds,
    }
    return fill_template("headswap.compare", template, facts, filters)


def pluralize(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> pluralize(1, "run"), pluralize(1200, "run")
    ('1 run', '1,200 runs')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def join_words(words: Iterable[object], most: int = 20) -> str:
    """Join words as prose does.

    >>> join_words(["a", "b", "c"]), join_words(["a", "b", "c"], most=2)
    ('a, b and c', 'a, b and 1 more')
    """
    texts = [str(word) for word in words]
    if len(texts) > most:
        texts = [*texts[:most], f"{len(texts) - most} more"]
    return " and ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))


def percent_range(shares: pd.Series, form: str = "z.1f") -> str:
    """Return the range of shares, in percent.

    >>> percent_range(pd.Series([0.02, 0.011])), percent_range(pd.Series([0.02, 0.02]), "+z.1f")
    ('1.1 to 2.0', '+2.0')
    """
    low, high = (format(100 * share, form) for share in (shares.min(), shares.max()))
    return low if low == high else f"{low} to {high}"


def markdown_table(table: pd.DataFrame, align: str = "right") -> str:
    """Return a table of texts in Markdown; its first column is aligned to the left."""
    texts = table.map(escaped).rename(columns=escaped)
    align_all = ("left", *[align] * (texts.shape[1] - 1))
    return texts.to_markdown(index=False, colalign=align_all, disable_numparse=True)


def collect_facts(results: Results, comparison: Comparison) -> dict[str, Any]:
    """Return all facts of the report."""
    table = comparison.table
    same_conditions = results.timed_under_same_conditions(results.cells)
    majority = largest_class(results)
    wall = table["wall_seconds_per_run_mean"] / table["seconds_per_run_mean"]
    repeated = table[~table["cell"].map(results.stands_for_every_seed)]
    folds = results.design.folds
    return {
        "params": results.params,
        "counts": results.counts,
        "folds": folds,
        "images": results.counts["images" if folds else "val"],
        "groups": results.design.units(0),
        "classes": class_counts(results),
        "recipes": recipes(results),
        "tuning": results.figures.get("tuning", pd.Series(dtype=str)).dropna().to_dict(),
        "preprocessing": preprocessing(results),
        "one_run_each": (repeated["seeds"] - repeated["diverged"]).max() == 1,
        "recommendation": recommend(results, comparison, same_conditions),
        "accuracy": summarize_accuracies(results, comparison, majority),
        "largest_class": majority,
        "classwise": summarize_classes(results, comparison),
        "differences": summarize_differences(results, comparison, same_conditions),
        "claims": summarize_claims(comparison.verdicts),
        "timing_differs_in": [] if same_conditions else list(TIMING_CONDITIONS),
        "busy": table["cell"][wall >= BUSY_RATIO].tolist(),
        "busy_from": BUSY_RATIO,
        "misclassified": summarize_misclassified(comparison.misclassified),
        "near_duplicates": summarize_near_duplicates(table, comparison.near_duplicates),
        "made_with": made_with(results),
        "outdated": outdated_cells(results.cells.values()),
    }


def class_counts(results: Results) -> pd.DataFrame:
    """Return the numbers of training and validation images of each class, as texts."""
    rows = pd.DataFrame(results.index.rows, columns=Row._fields)
    counts = rows.groupby("label")["split"].value_counts().unstack(fill_value=0)
    counts = counts.reindex(columns=["train", "val"], fill_value=0).map("{:,}".format)
    return counts.set_axis(["training images", "validation images"], axis=1).reset_index(
        names="class"
    )


def recipes(results: Results) -> dict[str, list[str]]:
    """Return the recipes in words, each with the modes that are trained with it."""
    found: dict[str, list[str]] = {}
    for cell in results.cells.values():
        if cell.model == results.params.models[0] and cell.mode != "probe":
            text = describe_recipe(results.params.recipe(replace(cell, lr=None)))
            found.setdefault(text, []).append(cell.listed_as)
    return found


def describe_recipe(recipe: Recipe) -> str:
    """Return a recipe in words, without what has no effect."""
    rates = recipe.lr if isinstance(recipe.lr, list) else [recipe.lr]
    rate = "learning rate " + ", ".join(f"{rate:g}" for rate in rates)
    step = f"× {recipe.lr_gamma:g} every {pluralize(recipe.lr_step, 'epoch')}"
    texts = {
        f"SGD with momentum {recipe.momentum:g}": recipe.optimizer == "sgd",
        "AdamW": recipe.optimizer == "adamw",
        rate + " (the best for each cell)" * (len(rates) > 1): True,
        f"after a warm-up of {pluralize(recipe.warmup_epochs, 'epoch')}": recipe.warmup_epochs,
        step: recipe.schedule == "step",
        "falling to 0 as a cosine": recipe.schedule == "cosine",
        f"weight decay {recipe.weight_decay:g}": recipe.weight_decay,
        f"label smoothing {recipe.label_smoothing:g}": recipe.label_smoothing,
        "classes weighted equally": recipe.class_weights == "balanced",
        "from the probe's head": recipe.head == "probe",
        "images not mirrored": not recipe.flip,
        f"batches of {recipe.batch_size}": True,
        pluralize(recipe.epochs, "epoch"): True,
    }
    return ", ".join(text for text, applies in texts.items() if applies)


def preprocessing(results: Results) -> list[tuple[list[str], dict[str, Any]]]:
    """Return the ways in which an image is prepared, each with the models that see it so."""
    ways = results.figures["preprocessing"]
    of_model = {cell.model: ways[name] for name, cell in results.cells.items()}
    distinct = {str(way): way for way in of_model.values()}
    return [
        ([model for model, other in of_model.items() if other == way], way)
        for way in distinct.values()
    ]


def recommend(
    results: Results, comparison: Comparison, same_conditions: bool
) -> dict[str, Any] | None:
    """Return which cell is the best, how sure that is, and what it costs; None if no run finished.

    ``best`` is the row of the cell of rank 1; ``tied`` names those that are as accurate, and
    ``tied_by`` what ranks it before them. ``worse`` names the cells that differ from it, of which
    ``survive`` also do with Holm's correction, ``similar`` those that do not differ, and
    ``undecided`` those with a single seed in common. Of the ``cheaper`` ones, with less
    multiply-accumulates or as many and less time, it has the row of the cheapest that is
    good enough, or of the one that most probably is.
    """
    ranked = comparison.table.dropna(subset="rank").sort_values("rank", ignore_index=True)
    if ranked.empty:
        return None
    best, second = ranked.iloc[0], ranked.iloc[min(1, len(ranked) - 1)]
    tied = ranked["cell"][ranked["last_val_accuracy_mean"] == best.last_val_accuracy_mean]
    different = (words for column, words in RANKED_BY.items() if best[column] != second[column])
    pairs = comparison.rows["differences"]
    pairs = pairs[pairs["cell"] == best.cell]
    others, differ, verdict = pairs["other"], pairs["differ"], pairs["verdict"]
    cheaper = ranked.merge(
        pairs[["other", "good_enough", "images_for_good_enough"]], left_on="cell", right_on="other"
    )
    gmacs = cheaper["gmacs"].map("{:.3g}".format).astype(float)
    best_gmacs = float(f"{best.gmacs:.3g}")
    faster = (cheaper["seconds_per_run_mean"] < best.seconds_per_run_mean) & same_conditions
    cheaper = cheaper[(gmacs < best_gmacs) | ((gmacs == best_gmacs) & faster)]
    cheaper = cheaper.dropna(subset="good_enough")
    enough = cheaper[cheaper["good_enough"] >= SURE].sort_values(["gmacs", "seconds_per_run_mean"])
    likeliest = cheaper.sort_values("good_enough", ascending=False, kind="stable")
    return {
        "best": best,
        "tied": tied.tolist()[1:],
        "tied_by": next(different, "its place in `params.yaml`"),
        "worse": others[differ].tolist(),
        "survive": int(pairs["holm"].sum()),
        "similar": others[~differ & verdict].tolist(),
        "undecided": others[~verdict].tolist(),
        "cheaper": next((enough if len(enough) else likeliest).itertuples(), None),
        "one_run": results.stands_for_every_seed(best.cell),
    }


def largest_class(results: Results) -> dict[str, Any] | None:
    """Return what always answering the largest class would reach; None if no run finished."""
    shares = results.labels.value_counts(normalize=True).sort_index()
    if shares.empty:
        return None
    return {"label": shares.idxmax(), "accuracy": shares.max(), "balanced": 1 / len(shares)}


def summarize_accuracies(
    results: Results, comparison: Comparison, majority: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the table of accuracies, without empty columns, and what to note about it.

    It has the first cells; its last rows are what to expect of the best one, and the accuracy of
    the largest class, if a run finished.
    """
    table = comparison.in_order
    lines = pd.DataFrame(
        {
            "cell": row.cell + (f" ({row.diverged} of {row.seeds} diverged)" * bool(row.diverged)),
            "last epoch, %": _mean_and_std(row, "last"),
            "interval (95 %)": _range(row.last_val_accuracy_ci_low, row.last_val_accuracy_ci_high),
            "best epoch, %": _mean_and_std(row, "best"),
            "balanced, % (95 %)": _with_range(row, "balanced_accuracy"),
            "without near-duplicates, %": UNKNOWN
            if comparison.near_duplicates.empty
            else _percent(row.accuracy_without_near_duplicates),
            "last loss": _text(row.val_loss_last_mean, ".3f"),
            "parameters": f"{row.parameters:,}",
            "trained": f"{row.trainable_parameters:,}",
            "seconds per run": _seconds(row.seconds_per_run_mean),
            "write-up, %": _percent(row.published_best_val_accuracy),
        }
        for row in table.head(MOST_CELLS).itertuples()
    )
    if majority:
        best = table.iloc[0]
        expected = {
            "cell": f"(the best of {len(table)}, expected)",
            "last epoch, %": _percent(best.expected_accuracy),
            "interval (95 %)": _range(
                best.expected_accuracy_ci_low, best.expected_accuracy_ci_high
            ),
        }
        reached = {
            "cell": f"(always {majority['label']})",
            "last epoch, %": _percent(majority["accuracy"]),
            "balanced, % (95 %)": _percent(majority["balanced"]),
        }
        more = [expected] * (len(table) > 1) + [reached]
        lines = pd.concat([lines, pd.DataFrame(more)], ignore_index=True).fillna(UNKNOWN)
    repeated = ~table["cell"].map(results.stands_for_every_seed)
    return {
        "table": lines.loc[:, (lines != UNKNOWN).any()],
        "cells": len(table),
        "shown": MOST_CELLS,
        "selection_optimism": table["selection_optimism"].dropna(),
        "diverged": int(table["diverged"].sum()),
        "single_replicate": (table["seeds"] - table["diverged"] == 1)[repeated].any(),
    }


def summarize_classes(results: Results, comparison: Comparison) -> dict[str, Any] | None:
    """Return what is known by class at the last epochs; None if no run finished.

    ``recalls`` is a table of the classes with the lowest recalls in the best cells; ``confused``
    has the pairs of classes that the best cell confuses most, with the images per run and of the
    class; ``constant`` the cells of which some runs answer a single class; ``surest`` the accuracy
    of the best cell where it leaves out the least sure fifth.
    """
    last = results.last
    if last.empty:
        return None
    cells = comparison.table.dropna(subset="rank").sort_values("rank")["cell"].tolist()
    best = last[last["cell"] == cells[0]]
    images = results.labels.value_counts()
    runs = best["seed"].nunique()
    confused = best[~best["correct"]].value_counts(["label", "predicted"]).head(MOST_CONFUSED)
    answers = last.groupby(["cell", "seed"], sort=False)["predicted"].agg(["first", "nunique"])
    answers = answers[answers["nunique"] == 1].reset_index().groupby("cell", sort=False)["first"]
    surest = comparison.rows["unsure"].query("cell == @cells[0] and share >= 0.8").iloc[0]
    return {
        "recalls": _recalls(results, cells[:MOST_RECALLS], best),
        "classes": len(images),
        "confused": [
            (label, predicted, count / runs, images[label])
            for (label, predicted), count in confused.items()
        ],
        "constant": {cell: (len(of_cell), of_cell.unique()) for cell, of_cell in answers}
        if len(images) > 1
        else {},
        "surest": surest,
    }


def _recalls(results: Results, cells: list[str], best: pd.DataFrame) -> pd.DataFrame:
    """Return recalls with intervals, of the classes in which the best cell has the lowest."""
    lowest = best.groupby("label")["correct"].mean().nsmallest(MOST_CLASSES).index.sort_values()
    finished = [cell for cell in results.cells if len(results.correct[cell, "last"])]
    rows = []
    for label in lowest:
        names = results.labels.index[results.labels == label].sort_values()
        of_class = results.correct[cells[0], "last"].columns.isin(names)
        design = results.design.only(of_class)
        tables = {cell: results.correct[cell, "last"].loc[:, of_class] for cell in finished}
        row = {"class": label, "images": f"{len(names):,}"}
        if design.units(len(names)) > 1:
            priors = priors_without(tables, design)
            found = {cell: estimate_accuracy(tables[cell], priors[cell], design) for cell in cells}
        else:
            found = {
                cell: Estimate(tables[cell].to_numpy().mean(), math.nan, math.nan) for cell in cells
            }
        for cell, recall in found.items():
            interval = _range(recall.low, recall.high)
            row[cell] = _percent(recall.value) + (f" ({interval})" * (interval != UNKNOWN))
        rows.append(row)
    return pd.DataFrame(rows)


def summarize_differences(
    results: Results, comparison: Comparison, same_conditions: bool
) -> dict[str, Any]:
    """Return which cells differ from the best one, and which modes of a network differ.

    Of all ``pairs`` with a verdict ``differ`` do, and ``survive`` of these with Holm's correction
    for ``all_pairs`` of cells. ``table`` compares the best cell with the next. Of the ``clearest``
    pairs of modes, differences and intervals are in points, and ``seconds`` those per run of both,
    None if they are not comparable; ``not_better`` names the networks that training makes no better
    than the probe. ``half_width`` is the mean half width of an interval in points,
    ``images_needed`` what the clearest pair would take where none differ; ``with_one_seed`` counts
    the pairs without a verdict.
    """
    rows = comparison.rows["differences"]
    rows = rows.assign(
        points=100 * rows["difference"], least=100 * rows["low"], most=100 * rows["high"]
    )
    known = rows[rows["verdict"]]
    model, mode = (
        {name: getattr(cell, part) for name, cell in results.cells.items()}
        for part in ("model", "mode")
    )
    of_modes = known[known["cell"].map(model) == known["other"].map(model)]
    better = of_modes[of_modes["differ"] & (of_modes["points"] > 0)]
    probed = of_modes[
        (of_modes["cell"].map(mode) == "probe") | (of_modes["other"].map(mode) == "probe")
    ]
    gained = probed[probed["differ"] & (probed["other"].map(mode) == "probe")]["cell"].map(model)
    seconds = comparison.table.set_index("cell")["seconds_per_run_mean"]
    clearest = better.sort_values("points", ascending=False, kind="stable").head(MOST_PAIRS)
    cells = comparison.in_order.dropna(subset="rank")["cell"].tolist()
    against = rows[rows["cell"] == cells[0]] if cells else rows[:0]
    lines = pd.DataFrame(
        {
            "cell": row.other,
            "points less": f"{row.points:.1f} ({row.least:.1f} to {row.most:.1f})",
            "distinguishable": (
                "with Holm's correction" if row.holm else "yes" if row.differ else "no"
            )
            if row.verdict
            else UNKNOWN,
            "P(at most 1 point less)": _text(row.good_enough, ".2f"),
            "images for 0.9": UNKNOWN
            if pd.isna(row.images_for_good_enough) or row.good_enough >= SURE
            else f"{row.images_for_good_enough:,.0f}",
        }
        for row in against.head(MOST_CELLS).itertuples()
    )
    return {
        "best": cells[0] if cells else None,
        "table": lines,
        "pairs": len(known),
        "all_pairs": math.comb(len(cells), 2) - len(rows) + len(known),
        "differ": int(known["differ"].sum()),
        "survive": int(known["holm"].sum()),
        "clearest": [
            {
                **row,
                "seconds": (seconds[row["cell"]], seconds[row["other"]])
                if same_conditions
                else None,
            }
            for row in clearest.to_dict("records")
        ],
        "better_modes": len(better),
        "not_better": sorted(set(probed["cell"].map(model)) - set(gained)),
        "half_width": 50 * (known["high"] - known["low"]).mean(),
        "images_needed": known["images_needed"].min(),
        "with_one_seed": len(rows) - len(known),
    }


def summarize_claims(verdicts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the verdicts on the claims.

    ``verdicts`` says how many have each verdict, and for each reason if there is no interval;
    ``tested`` is a table with a row per claim that has one.
    """
    tested = []
    for verdict in (verdict for verdict in verdicts if verdict["effects"]):
        unit, effects = verdict["unit"], verdict["effects"]
        form = "{:+.1f}" if unit == "points" else "{:.2f}"
        texts = [
            {key: form.format(effect[key]) for key in ("effect", "low", "high", "published")}
            for effect in effects
        ]
        intervals = "; ".join("{effect} ({low} to {high})".format(**text) for text in texts)
        tested.append(
            {
                "claim": verdict["says"],
                "verdict": verdict["verdict"] + _what_would_decide(verdict),
                "effect (95 %)": f"{intervals}{',' * unit.startswith('power')} {unit}",
                "write-up": "; ".join(text["published"] for text in texts),
            }
        )
    kinds = ("supported", "contradicted", "inconclusive", "not tested")
    labels = [
        verdict["verdict"] + (f" ({verdict['why']})" if verdict["why"] else "")
        for verdict in sorted(verdicts, key=lambda verdict: kinds.index(verdict["verdict"]))
    ]
    return {
        "total": len(verdicts),
        "verdicts": Counter(labels),
        "about_these_cells": any(verdict["verdict"] != "not tested" for verdict in verdicts),
        "tested": pd.DataFrame(tested),
    }


def _what_would_decide(verdict: dict[str, Any]) -> str:
    if verdict["verdict"] != "inconclusive":
        return ""
    if verdict["unit"] != "points":
        return "; more seeds may decide"
    undecided = [effect for effect in verdict["effects"] if effect["low"] <= 0 <= effect["high"]]
    needed = [effect["images_needed"] for effect in undecided]
    if not all(needed):
        return "; more images alone would not decide"
    return f"; {max(needed):,} images would decide with an even chance"


def summarize_misclassified(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the most misclassified images as a table, and how many there are."""
    first = rows.head(MOST_IMAGES)
    runs = first["wrong"].astype(str) + " of " + first["runs"].astype(str)
    lines = first[["image", "label", "predicted"]].assign(runs=runs)
    lines.columns = ["validation image", "class", "most often predicted", "runs wrong"]
    return {"table": lines, "images": len(rows), "always": (rows["wrong"] == rows["runs"]).sum()}


def summarize_near_duplicates(table: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, Any]:
    """Return how many images have near-duplicates, and how accuracies change without them.

    ``table`` has the most similar training image of the first.
    """
    change = table["accuracy_without_near_duplicates"] - table["last_val_accuracy_mean"]
    images = pairs.drop_duplicates("val")
    first = images.head(MOST_IMAGES).astype(str)
    first.columns = ["validation image", "training image", "bits that differ"]
    return {
        "images": len(images),
        "change": change.dropna(),
        "table": first,
        "most_bits": MOST_BITS,
    }


def made_with(results: Results) -> dict[str, list[str]]:
    """Return the versions, the machines and the revisions, each with the cells made with them."""
    found: dict[str, list[str]] = {}
    for cell, timing in results.timing.items():
        values = timing["versions"] | {name: timing[key] for key, name in TIMING_CONDITIONS.items()}
        edited = " with uncommitted changes" if any(_as_list(timing["dirty"])) else ""
        revisions = [
            revision[:12] + edited for revision in _as_list(timing["revision"]) if revision
        ]
        texts = {
            name: join_words(UNKNOWN if one in (None, "") else one for one in _as_list(value))
            for name, value in {**values, "revision": revisions or None}.items()
        }
        text = ", ".join(f"{name} {text}" for name, text in texts.items() if text != UNKNOWN)
        found.setdefault(text, []).append(cell)
    return found


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _text(value: float, form: str) -> str:
    return UNKNOWN if pd.isna(value) else format(value, form)


def _percent(share: float) -> str:
    return _text(100 * share, ".1f")


def _seconds(seconds: float) -> str:
    return _text(seconds, ".0f" if seconds > 10 else ".1f")


def _range(low: float, high: float) -> str:
    return UNKNOWN if pd.isna(low) else f"{_percent(low)} to {_percent(high)}"


def _mean_and_std(row: Any, which: str) -> str:
    mean, std = (getattr(row, f"{which}_val_accuracy_{part}") for part in ("mean", "std"))
    return _percent(mean) if pd.isna(std) else f"{_percent(mean)} ± {_percent(std)}"


def _with_range(row: Any, column: str) -> str:
    interval = _range(*(getattr(row, f"{column}_ci_{side}") for side in ("low", "high")))
    value = _percent(getattr(row, column))
    return value if interval == UNKNOWN else f"{value} ({interval})"
