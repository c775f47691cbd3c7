"""The facts of the report, taken from the comparison's tables; its sentences are in `templates`."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from headswap.compare.comparison import RANKED_BY, Comparison
from headswap.compare.evaluation import estimate_recall
from headswap.compare.intervals import SURE
from headswap.compare.plots import MOST_CELLS
from headswap.compare.results import TIMING_CONDITIONS, Results, as_list
from headswap.compare.variance import priors_without
from headswap.compare.versions import outdated_cells
from headswap.images.index import Row
from headswap.images.near_duplicates import MOST_BITS
from headswap.markdown import escaped, fill_template

UNKNOWN = "–"
MOST_CLASSES = 20
"""How many classes are listed with their recalls."""
MOST_IMAGES = 6
"""How many misclassified images, and how many near-duplicates, are listed."""
BUSY_RATIO = 1.25
"""From which ratio of wall time to the processor's on a machine counts as busy."""


def render(template: str, facts: Mapping[str, Any]) -> str:
    """Fill a template from the folder ``templates`` with facts."""
    filters = {
        "join_numbers": lambda numbers: ", ".join(f"{number:.3g}" for number in numbers),
        "join_words": join_words,
        "markdown": markdown_table,
        "percent": percent,
        "percent_range": percent_range,
        "pluralize": pluralize,
        "seconds": seconds,
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
    return " to ".join(dict.fromkeys(format(100 * x, form) for x in (shares.min(), shares.max())))


def percent(share: float, low: float = math.nan, high: float = math.nan) -> str:
    """Return a share in percent, and its interval if it has one.

    >>> percent(0.5), percent(0.5, 0.4, 0.62), percent(math.nan)
    ('50.0', '50.0 (40.0 to 62.0)', '–')
    """
    interval = "" if pd.isna(low) else f" ({100 * low:.1f} to {100 * high:.1f})"
    return _text(100 * share, ".1f") + interval


def seconds(number: float) -> str:
    """Return seconds with a decimal if they are few."""
    return _text(number, ".0f" if number > 10 else ".1f")


def _text(number: float, form: str) -> str:
    return UNKNOWN if pd.isna(number) else format(number, form)


def markdown_table(table: pd.DataFrame, align: str = "right") -> str:
    """Return a table of texts in Markdown; its first column is aligned to the left."""
    texts = table.map(escaped).rename(columns=escaped)
    align_all = ("left", *[align] * (texts.shape[1] - 1))
    return texts.to_markdown(index=False, colalign=align_all, disable_numparse=True)


def collect_facts(results: Results, comparison: Comparison) -> dict[str, Any]:
    """Return all facts of the report: numbers, names, and tables whose entries are texts."""
    table, params, folds = comparison.table, results.params, results.design.folds
    same_conditions = results.timed_under_same_conditions(results.cells)
    wall = table["wall_seconds_per_run_mean"] / table["seconds_per_run_mean"]
    repeated = table[~table["cell"].map(results.stands_for_every_seed)]
    replicates = repeated["seeds"] - repeated["diverged"]
    images = pd.DataFrame(results.index.rows, columns=Row._fields)
    classes = pd.crosstab(images["label"], images["split"]).map("{:,}".format)
    classes = classes.reindex(columns=["train", "val"], fill_value="0").reset_index()
    recipes = (
        (cell.listed_as, params.recipe(replace(cell, lr=None)))
        for cell in results.cells.values()
        if cell.model == params.models[0] and cell.mode != "probe"
    )
    return {
        "params": params,
        "counts": results.counts,
        "folds": folds,
        "images": results.counts["images" if folds else "val"],
        "groups": results.design.units(0),
        "classes": classes.set_axis(["class", "training images", "validation images"], axis=1),
        "recipes": group_names(recipes),
        "tuning": results.figures.get("tuning", pd.Series(dtype=str)).dropna().to_dict(),
        "preprocessing": preprocessing(results),
        "one_run_each": replicates.max() == 1,
        "single_replicate": (replicates == 1).any(),
        "diverged": int(table["diverged"].sum()),
        "recommendation": recommend(results, comparison, same_conditions),
        **summarize_accuracies(results, comparison),
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


def group_names(values: Iterable[tuple[str, Any]]) -> list[tuple[list[str], Any]]:
    """Return the distinct values of named ones, each after its names."""
    found: dict[str, tuple[list[str], Any]] = {}
    for name, value in values:
        found.setdefault(str(value), ([], value))[0].append(name)
    return list(found.values())


def preprocessing(results: Results) -> list[tuple[list[str], dict[str, Any]]]:
    """Return the ways in which an image is prepared, each after the models that see it so."""
    ways = results.figures["preprocessing"]
    of_model = {cell.model: ways[name] for name, cell in results.cells.items()}
    return group_names(of_model.items())


def recommend(
    results: Results, comparison: Comparison, same_conditions: bool
) -> dict[str, Any] | None:
    """Return which cell is the best, how sure that is, and what it costs; None if no run finished.

    ``best`` is the row of the cell of rank 1; ``tied`` names those that are as accurate, and
    ``tied_by`` what ranks it before them. ``worse`` names the cells that differ from it, of which
    ``survive`` also do with Holm's correction, ``similar`` those that do not differ, and
    ``undecided`` those with a single seed in common. ``cheaper`` is the row of the cheapest cell
    that is good enough, or of the one that most probably is; cheaper are less multiply-accumulates,
    or as many and less time.
    """
    ranked = comparison.table.dropna(subset="rank").sort_values("rank", ignore_index=True)
    if ranked.empty:
        return None
    ranked["work"] = ranked["gmacs"].map("{:.3g}".format).astype(float)
    best, second = ranked.iloc[0], ranked.iloc[min(1, len(ranked) - 1)]
    tied = ranked["cell"][ranked["last_val_accuracy_mean"] == best.last_val_accuracy_mean]
    different = (words for column, words in RANKED_BY.items() if best[column] != second[column])
    pairs = comparison.rows["differences"]
    pairs = pairs[pairs["cell"] == best.cell]
    others, differ, verdict = pairs["other"], pairs["differ"], pairs["verdict"]
    estimates = pairs[["other", "good_enough", "images_for_good_enough"]]
    cheaper = ranked.merge(estimates, left_on="cell", right_on="other").dropna(subset="good_enough")
    faster = (cheaper["seconds_per_run_mean"] < best.seconds_per_run_mean) & same_conditions
    as_much = cheaper["work"] == best.work
    cheaper = cheaper[(cheaper["work"] < best.work) | (as_much & faster)]
    cheaper = cheaper.sort_values("good_enough", ascending=False, kind="stable")
    enough = cheaper[cheaper["good_enough"] >= SURE].sort_values(["gmacs", "seconds_per_run_mean"])
    return {
        "best": best,
        "tied": tied.tolist()[1:],
        "tied_by": next(different, "its place in `params.yaml`"),
        "worse": others[differ].tolist(),
        "survive": int(pairs["holm"].sum()),
        "similar": others[~differ & verdict].tolist(),
        "undecided": others[~verdict].tolist(),
        "cheaper": next(pd.concat([enough, cheaper]).itertuples(), None),
        "one_run": results.stands_for_every_seed(best.cell),
    }


def summarize_accuracies(results: Results, comparison: Comparison) -> dict[str, Any]:
    """Return the table of accuracies, without empty columns, and what to note about it.

    It has the first cells; its last rows are what to expect of the best one, and the accuracy of
    the largest class, which is None if no run finished.
    """
    table = comparison.in_order
    name, value, interval = "cell", "last epoch, %", "interval (95 %)"
    balanced, unrepeated = "balanced, % (95 %)", "without near-duplicates, %"
    lines = [
        {
            name: row.cell + f" ({row.diverged} of {row.seeds} diverged)" * bool(row.diverged),
            value: _mean_and_std(row, "last"),
            interval: _range(row.last_val_accuracy_ci_low, row.last_val_accuracy_ci_high),
            "best epoch, %": _mean_and_std(row, "best"),
            balanced: percent(
                row.balanced_accuracy, row.balanced_accuracy_ci_low, row.balanced_accuracy_ci_high
            ),
            unrepeated: percent(row.accuracy_without_near_duplicates),
            "last loss": _text(row.val_loss_last_mean, ".3f"),
            "parameters": f"{row.parameters:,}",
            "trained": f"{row.trainable_parameters:,}",
            "seconds per run": seconds(row.seconds_per_run_mean),
            "write-up, %": percent(row.published_best_val_accuracy),
        }
        for row in table.head(MOST_CELLS).itertuples()
    ]
    largest, shares = None, results.labels.value_counts(normalize=True).sort_index()
    if len(shares):
        best = table.iloc[0]
        largest = {"label": shares.idxmax(), "accuracy": shares.max()}
        expected = {
            name: f"(the best of {len(table)}, expected)",
            value: percent(best.expected_accuracy),
            interval: _range(best.expected_accuracy_ci_low, best.expected_accuracy_ci_high),
        }
        always = {
            name: f"(always {largest['label']})",
            value: percent(shares.max()),
            balanced: percent(1 / len(shares)),
        }
        lines += [expected] * (len(table) > 1) + [always]
    shown = pd.DataFrame(lines).fillna(UNKNOWN)
    if comparison.near_duplicates.empty:
        shown[unrepeated] = UNKNOWN
    return {
        "accuracies": shown.loc[:, (shown != UNKNOWN).any()],
        "cells": len(table),
        "shown": MOST_CELLS,
        "selection_optimism": table["selection_optimism"].dropna(),
        "largest_class": largest,
    }


def _mean_and_std(row: Any, which: str) -> str:
    mean, std = (getattr(row, f"{which}_val_accuracy_{part}") for part in ("mean", "std"))
    return percent(mean) + ("" if pd.isna(std) else f" ± {percent(std)}")


def _range(low: float, high: float) -> str:
    return UNKNOWN if pd.isna(low) else f"{percent(low)} to {percent(high)}"


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
    confused = best[~best["correct"]].value_counts(["label", "predicted"]).head(5)
    answers = last.groupby(["cell", "seed"], sort=False)["predicted"].agg(["first", "nunique"])
    answers = answers["first"][(answers["nunique"] == 1) & (len(images) > 1)]
    return {
        "recalls": _recalls(results, cells[:6], best),
        "classes": len(images),
        "confused": [
            (label, predicted, count / best["seed"].nunique(), images[label])
            for (label, predicted), count in confused.items()
        ],
        "constant": {
            cell: (len(runs), runs.unique())
            for cell, runs in answers.groupby(level="cell", sort=False)
        },
        "surest": comparison.rows["unsure"].query("cell == @cells[0] and share >= 0.8").iloc[0],
    }


def _recalls(results: Results, cells: list[str], best: pd.DataFrame) -> pd.DataFrame:
    """Return recalls with intervals, of the classes in which the best cell has the lowest."""
    rows = []
    lowest = best.groupby("label")["correct"].mean().nsmallest(MOST_CLASSES).index.sort_values()
    of_cells = {cell: results.correct[cell, "last"] for cell in results.cells}
    for label in lowest:
        of_class = (results.labels.sort_index() == label).to_numpy()
        design = results.design.only(of_class)
        tables = {
            cell: correct.loc[:, of_class] for cell, correct in of_cells.items() if len(correct)
        }
        priors = priors_without(tables, design) if design.units(of_class.sum()) > 1 else {}
        row = {"class": label, "images": f"{of_class.sum():,}"}
        for cell in cells:
            recall = estimate_recall(tables[cell], design, priors.get(cell))
            row[cell] = percent(recall.value, recall.low, recall.high)
        rows.append(row)
    return pd.DataFrame(rows)


def summarize_differences(
    results: Results, comparison: Comparison, same_conditions: bool
) -> dict[str, Any]:
    """Return which cells differ from the best one, and which modes of a network differ.

    Of all ``pairs`` with a verdict ``differ`` do, and ``survive`` of these with Holm's correction
    for ``all_pairs`` of cells. ``table`` compares the best cell with the next. ``better`` are the
    pairs of modes that differ, the clearest first; ``not_better`` names the networks that training
    makes no better than the probe. ``half_width`` is the mean half width of an interval,
    ``images_needed`` what the clearest pair would take where none differ; ``with_one_seed`` counts
    the pairs without a verdict.
    """
    rows = comparison.rows["differences"]
    known = rows[rows["verdict"]]
    pairs = [(row, results.cells[row.cell], results.cells[row.other]) for row in known.itertuples()]
    of_modes = [pair for pair in pairs if pair[1].model == pair[2].model]
    better = [row for row, *_ in of_modes if row.differ and row.difference > 0]
    probed = {cell.model for _, cell, other in of_modes if "probe" in (cell.mode, other.mode)}
    gained = {cell.model for row, cell, other in of_modes if row.differ and other.mode == "probe"}
    times = comparison.table.set_index("cell")["seconds_per_run_mean"]
    ranked = comparison.in_order.dropna(subset="rank")["cell"]
    best = next(iter(ranked), None)
    lines = [
        {
            "cell": row.other,
            "points less": percent(row.difference, row.low, row.high),
            "distinguishable": UNKNOWN
            if not row.verdict
            else "with Holm's correction"
            if row.holm
            else ("no", "yes")[row.differ],
            "P(at most 1 point less)": _text(row.good_enough, ".2f"),
            "images for 0.9": UNKNOWN
            if row.good_enough >= SURE
            else _text(row.images_for_good_enough, ",.0f"),
        }
        for row in rows[rows["cell"] == best].head(MOST_CELLS).itertuples()
    ]
    return {
        "best": best,
        "table": pd.DataFrame(lines),
        "pairs": len(known),
        "all_pairs": math.comb(len(ranked), 2) - len(rows) + len(known),
        "differ": int(known["differ"].sum()),
        "survive": int(known["holm"].sum()),
        "better": sorted(better, key=lambda row: -row.difference),
        "seconds": times.to_dict() if same_conditions else {},
        "not_better": sorted(probed - gained),
        "half_width": (known["high"] - known["low"]).mean() / 2,
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
        form = "+.1f" if unit == "points" else ".2f"
        effect = "{effect:%s} ({low:%s} to {high:%s})".replace("%s", form)
        intervals = "; ".join(effect.format(**one) for one in effects)
        tested.append(
            {
                "claim": verdict["says"],
                "verdict": verdict["verdict"] + _what_would_decide(verdict),
                "effect (95 %)": f"{intervals}{',' * unit.startswith('power')} {unit}",
                "write-up": "; ".join(format(one["published"], form) for one in effects),
            }
        )
    kinds = ("supported", "contradicted", "inconclusive", "not tested")
    in_order = sorted(verdicts, key=lambda verdict: kinds.index(verdict["verdict"]))
    labels = [each["verdict"] + (f" ({each['why']})" if each["why"] else "") for each in in_order]
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
    runs = rows["wrong"].astype(str) + " of " + rows["runs"].astype(str)
    lines = rows[["image", "label", "predicted"]].assign(runs=runs).head(MOST_IMAGES)
    lines.columns = ["validation image", "class", "most often predicted", "runs wrong"]
    return {"table": lines, "images": len(rows), "always": (rows["wrong"] == rows["runs"]).sum()}


def summarize_near_duplicates(table: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, Any]:
    """Return how many images have near-duplicates, and how accuracies change without them.

    ``table`` has the most similar training image of the first.
    """
    change = table["accuracy_without_near_duplicates"] - table["last_val_accuracy_mean"]
    images = pairs.drop_duplicates("val").astype(str)
    images.columns = ["validation image", "training image", "bits that differ"]
    first = images.head(MOST_IMAGES)
    return dict(images=len(images), change=change.dropna(), table=first, most_bits=MOST_BITS)


def made_with(results: Results) -> list[tuple[list[str], dict[str, list[Any]]]]:
    """Return versions, machines and revisions by their names, after the cells made with them."""
    found = {}
    for cell, timing in results.timing.items():
        values = timing["versions"] | {name: timing[key] for key, name in TIMING_CONDITIONS.items()}
        edited = " with uncommitted changes" if any(as_list(timing["dirty"])) else ""
        revisions = [one[:12] + edited for one in as_list(timing["revision"]) if one]
        values |= {"revision": revisions or None}
        lists = {
            name: [UNKNOWN if one in (None, "") else one for one in as_list(value)]
            for name, value in values.items()
        }
        found[cell] = {name: known for name, known in lists.items() if known != [UNKNOWN]}
    return group_names(found.items())
