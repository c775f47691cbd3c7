"""The facts of the report, taken from the comparison's tables; its sentences are in `templates`."""

import math
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
from headswap.errors import pluralize
from headswap.images.near_duplicates import MOST_BITS
from headswap.markdown import fill_template

UNKNOWN = "–"


def render(template: str, facts: Mapping[str, Any]) -> str:
    """Fill a template from the folder ``templates`` with facts."""
    filters = {one.__name__: one for one in (join_words, number, percent, pluralize, seconds)}
    return fill_template("headswap.compare", template, facts, filters)


def join_words(words: Iterable[object], most: int = 20) -> str:
    """Join words as prose does."""
    texts = [str(word) for word in words]
    if len(texts) > most:
        texts = [*texts[:most], f"{len(texts) - most} more"]
    return " and ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))


def percent(share: float, low: float = math.nan, high: float = math.nan) -> str:
    """Return a share in percent, and its interval if it has one."""
    interval = "" if pd.isna(low) else f" ({100 * low:.1f} to {100 * high:.1f})"
    return number(100 * share, ".1f") + interval


def seconds(time: float) -> str:
    """Return seconds with a decimal if they are few."""
    return number(time, ".0f" if time > 10 else ".1f")


def number(value: float, form: str = ",.0f") -> str:
    """Return a number as a text, also if it is not known."""
    return UNKNOWN if pd.isna(value) else format(value, form)


def collect_facts(results: Results, comparison: Comparison) -> dict[str, Any]:
    """Return all facts of the report: numbers, rows of tables, and the table of accuracies."""
    table, cells = comparison.table, results.cells.values()
    params, folds = results.params, results.design.folds
    same_conditions = results.timed_under_same_conditions(results.cells)
    wall = table["wall_seconds_per_run_mean"] / table["seconds_per_run_mean"]
    repeated = table[~table["cell"].map(results.stands_for_every_seed)]
    replicates = repeated["seeds"] - repeated["diverged"]
    wrong, ways = comparison.misclassified, results.figures["preprocessing"]
    partitions = results.last.pivot_table("fold" if folds else "epoch", "image", "seed")
    return {
        "params": params,
        "counts": results.counts,
        "folds": folds,
        "images": results.counts["images" if folds else "val"],
        "groups": results.design.units(0),
        "classes": sorted(
            key.removeprefix("train_") for key in results.counts if key.startswith("train_")
        ),
        "recipes": group_names(
            (cell.listed_as, params.recipe(replace(cell, lr=None)))
            for cell in cells
            if cell.model == params.models[0] and cell.mode != "probe"
        ),
        "tuning": results.figures.get("tuning", pd.Series(dtype=str)).dropna().to_dict(),
        "preprocessing": group_names({cell.model: ways[cell.name] for cell in cells}.items()),
        "same_folds": 0 < folds == len(partitions.drop_duplicates()),
        "one_run_each": replicates.max() == 1,
        "single_replicate": (replicates == 1).any(),
        "diverged": int(table["diverged"].sum()),
        **summarize_accuracies(results, comparison),
        "recommendation": recommend(results, comparison, same_conditions),
        "classwise": summarize_classes(results, comparison),
        "differences": summarize_differences(results, comparison),
        "seconds_per_run": table.set_index("cell")["seconds_per_run_mean"],
        "claims": comparison.verdicts,
        "timing_differs_in": [] if same_conditions else list(TIMING_CONDITIONS),
        "busy": table["cell"][wall >= 1.25].tolist(),
        "misclassified": list(wrong.assign(always=wrong["wrong"] == wrong["runs"]).itertuples()),
        "near_duplicates": list(comparison.near_duplicates.drop_duplicates("val").itertuples()),
        "change": table["accuracy_without_near_duplicates"] - table["last_val_accuracy_mean"],
        "most_bits": MOST_BITS,
        "made_with": group_names(made_with(results).items()),
        "outdated": outdated_cells(cells),
    }


def group_names(values: Iterable[tuple[str, Any]]) -> list[tuple[list[str], Any]]:
    """Return the distinct values of named ones, each after its names."""
    found: dict[str, tuple[list[str], Any]] = {}
    for name, value in values:
        found.setdefault(str(value), ([], value))[0].append(name)
    return list(found.values())


def summarize_accuracies(results: Results, comparison: Comparison) -> dict[str, Any]:
    """Return the table of accuracies, without empty columns, and what to note about it.

    Its last rows are what to expect of the best cell, and the largest class (None without a run).
    """
    table = comparison.in_order
    shares = results.labels.value_counts(normalize=True).sort_index()
    largest, rows = None, table.head(MOST_CELLS).to_dict("records")
    if len(shares):
        largest = {"label": shares.idxmax(), "accuracy": shares.max()}
        expected = {"cell": f"(the best of {len(table)}, expected)"}
        for part, of in (("mean", ""), ("ci_low", "_ci_low"), ("ci_high", "_ci_high")):
            expected[f"last_val_accuracy_{part}"] = table.iloc[0][f"expected_accuracy{of}"]
        always = {"cell": f"(always {shares.idxmax()})", "balanced_accuracy": 1 / len(shares)}
        always["last_val_accuracy_mean"] = shares.max()
        rows += [expected] * (len(table) > 1) + [always]
    lost = " ({0.diverged:.0f} of {0.seeds:.0f} diverged)"
    lines = pd.DataFrame(
        {
            "cell": row.cell + (lost.format(row) if row.diverged > 0 else ""),
            "last epoch, %": _mean_and_std(row, "last"),
            "interval (95 %)": f"{percent(row.last_val_accuracy_ci_low)} to "
            + percent(row.last_val_accuracy_ci_high),
            "best epoch, %": _mean_and_std(row, "best"),
            "balanced, % (95 %)": percent(
                row.balanced_accuracy, row.balanced_accuracy_ci_low, row.balanced_accuracy_ci_high
            ),
            "without near-duplicates, %": UNKNOWN
            if comparison.near_duplicates.empty
            else percent(row.accuracy_without_near_duplicates),
            "last loss": number(row.val_loss_last_mean, ".3f"),
            "parameters": number(row.parameters),
            "trained": number(row.trainable_parameters),
            "seconds per run": seconds(row.seconds_per_run_mean),
            "write-up, %": percent(row.published_best_val_accuracy),
        }
        for row in pd.DataFrame(rows).itertuples()
    ).replace("– to –", UNKNOWN)
    return {
        "accuracies": lines.loc[:, (lines != UNKNOWN).any()],
        "cells": len(table),
        "selection_optimism": table["selection_optimism"].dropna(),
        "largest_class": largest,
    }


def _mean_and_std(row: Any, which: str) -> str:
    mean, std = (getattr(row, f"{which}_val_accuracy_{part}") for part in ("mean", "std"))
    return percent(mean) + ("" if pd.isna(std) else f" ± {percent(std)}")


def recommend(results: Results, comparison: Comparison, same: bool) -> dict[str, Any] | None:
    """Return which cell is the best, and what it is compared with; None if no run finished.

    ``tied`` are as accurate, ``tied_by`` is what ranks it before them. ``cheaper`` is the cheapest
    that is good enough, or likeliest is: of less multiply-accumulates, or as many and, in the
    `same` conditions, less time.
    """
    ranked = comparison.in_order.dropna(subset="rank")
    if ranked.empty:
        return None
    ranked["work"] = ranked["gmacs"].map("{:.3g}".format).astype(float)
    best, second = ranked.iloc[0], ranked.iloc[min(1, len(ranked) - 1)]
    tied = ranked["cell"][ranked["last_val_accuracy_mean"] == best.last_val_accuracy_mean]
    different = (words for column, words in RANKED_BY.items() if best[column] != second[column])
    pairs = comparison.rows["differences"].query("cell == @best.cell")
    cheaper = ranked.merge(pairs.drop(columns="cell"), left_on="cell", right_on="other")
    faster = (cheaper["seconds_per_run_mean"] < best.seconds_per_run_mean) & same
    less = (cheaper["work"] < best.work) | ((cheaper["work"] == best.work) & faster)
    cheaper = cheaper[less].dropna(subset="good_enough")
    cheaper = cheaper.sort_values("good_enough", ascending=False, kind="stable")
    enough = cheaper[cheaper["good_enough"] >= SURE].sort_values(["gmacs", "seconds_per_run_mean"])
    return {
        "best": best,
        "tied": tied.tolist()[1:],
        "tied_by": next(different, "its place in `params.yaml`"),
        "pairs": list(pairs.itertuples()),
        "cheaper": next(pd.concat([enough, cheaper]).itertuples(), None),
        "one_run": results.stands_for_every_seed(best.cell),
    }


def summarize_classes(results: Results, comparison: Comparison) -> dict[str, Any] | None:
    """Return what is known by class at the last epochs; None if no run finished.

    ``recalls`` has those in the best ``cells``, of the classes with the lowest; ``confused`` what
    the best cell confuses most, in images per run and of the class; ``constant`` the cells of which
    runs answer a single class; ``surest`` the best's accuracy without the least sure fifth.
    """
    last, images = results.last, results.labels.value_counts()
    if last.empty:
        return None
    cells = comparison.in_order.dropna(subset="rank")["cell"].tolist()
    best, shown = last[last["cell"] == cells[0]], cells[:6]
    confused = best[~best["correct"]].value_counts(["label", "predicted"]).head(5)
    answers = last.groupby(["cell", "seed"], sort=False)["predicted"].agg(["first", "nunique"])
    answers = answers["first"][(answers["nunique"] == 1) & (len(images) > 1)]
    recalls, in_matrix = {}, [cell for cell in results.cells if cell in cells]
    lowest = best.groupby("label")["correct"].mean().nsmallest(20).index
    for label in lowest.sort_values():
        of_class = (results.labels.sort_index() == label).to_numpy()
        design = results.design.only(of_class)
        tables = {cell: results.correct[cell, "last"].loc[:, of_class] for cell in in_matrix}
        priors = priors_without(tables, design) if design.units(images[label]) > 1 else {}
        recalls[label] = [estimate_recall(tables[one], design, priors.get(one)) for one in shown]
    return {
        "cells": shown,
        "recalls": recalls,
        "images": images,
        "confused": [
            (label, predicted, count / best["seed"].nunique(), images[label])
            for (label, predicted), count in confused.items()
        ],
        "constant": dict(iter(answers.groupby(level="cell", sort=False))),
        "surest": comparison.rows["unsure"].query("cell == @cells[0] and share >= 0.8").iloc[0],
    }


def summarize_differences(results: Results, comparison: Comparison) -> dict[str, Any]:
    """Return how many cells differ, and which modes of a network do.

    ``all_pairs`` count in Holm's correction, ``pairs`` have a verdict. ``better`` are the pairs of
    modes that differ, the clearest first; ``not_better`` names the networks that training makes no
    better than the probe; ``images_needed`` is what the clearest pair would take.
    """
    rows = comparison.rows["differences"]
    known = rows[rows["verdict"]]
    pairs = [(row, results.cells[row.cell], results.cells[row.other]) for row in known.itertuples()]
    of_modes = [pair for pair in pairs if pair[1].model == pair[2].model]
    better = [row for row, *_ in of_modes if row.differ and row.difference > 0]
    probed = {cell.model for _, cell, other in of_modes if "probe" in (cell.mode, other.mode)}
    gained = {cell.model for row, cell, other in of_modes if row.differ and other.mode == "probe"}
    return {
        "pairs": len(known),
        "all_pairs": math.comb(comparison.table["rank"].count(), 2) - len(rows) + len(known),
        "differ": int(known["differ"].sum()),
        "survive": int(known["holm"].sum()),
        "better": sorted(better, key=lambda row: -row.difference),
        "not_better": sorted(probed - gained),
        "half_width": (known["high"] - known["low"]).mean() / 2,
        "images_needed": known["images_needed"].min(),
        "with_one_seed": len(rows) - len(known),
    }


def made_with(results: Results) -> dict[str, dict[str, list[Any]]]:
    """Return for each cell the versions, the machines and the revisions that made it."""
    found = {}
    for cell, timing in results.timing.items():
        edited = " with uncommitted changes" if any(as_list(timing["dirty"])) else ""
        values = timing["versions"] | {name: timing[key] for key, name in TIMING_CONDITIONS.items()}
        values["revision"] = [one and one[:12] + edited for one in as_list(timing["revision"])]
        found[cell] = {
            name: [one for one in as_list(value) if one not in (None, "")]
            for name, value in values.items()
        }
    return found
