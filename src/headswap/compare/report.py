"""The facts of the report, taken from the comparison's tables; its sentences are in `templates`.

Facts are numbers, names, and tables whose entries are formatted texts.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from headswap.compare.comparison import RANKED_BY, Comparison
from headswap.compare.intervals import LEVEL
from headswap.compare.results import TIMING_CONDITIONS, Results
from headswap.compare.versions import outdated_cells
from headswap.images.near_duplicates import MOST_BITS
from headswap.markdown import escaped, fill_template
from headswap.params import Recipe

UNKNOWN = "–"
MOST_PAIRS = 10
"""How many pairs of cells are listed."""
MOST_CLASSES = 10
"""How many classes are listed, with their numbers of images or their recall."""
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
    table, differences = comparison.table, comparison.rows["differences"]
    same_conditions = results.timed_under_same_conditions(results.cells)
    majority = largest_class(results)
    wall = table["wall_seconds_per_run_mean"] / table["seconds_per_run_mean"]
    return {
        "params": results.params,
        "counts": results.counts,
        "classes": [key.removeprefix("val_") for key in results.counts if key.startswith("val_")],
        "recipes": recipes(results),
        "tuning": results.figures.get("tuning", pd.Series(dtype=str)).dropna().to_dict(),
        "preprocessing": preprocessing(results),
        "one_run_each": (table["seeds"] - table["diverged"]).max() == 1,
        "recommendation": recommend(table, differences, same_conditions),
        "accuracy": summarize_accuracies(comparison, majority),
        "largest_class": majority,
        "recall": recalls(results),
        "differences": summarize_differences(differences),
        "claims": summarize_claims(comparison.verdicts),
        "timing_differs_in": [] if same_conditions else list(TIMING_CONDITIONS),
        "busy": table["cell"][wall >= BUSY_RATIO].tolist(),
        "busy_from": BUSY_RATIO,
        "misclassified": summarize_misclassified(comparison.misclassified),
        "near_duplicates": summarize_near_duplicates(table, comparison.near_duplicates),
        "made_with": made_with(results),
        "outdated": outdated_cells(results.cells.values()),
    }


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
    table: pd.DataFrame, differences: pd.DataFrame, same_conditions: bool
) -> dict[str, Any] | None:
    """Return which cell is the best, how sure that is, and what it costs; None if no run finished.

    ``best`` is the row of the cell of rank 1; ``tied`` names those that are as accurate, and
    ``tied_by`` what ranks it before them. ``worse`` names the cells that differ from it, of which
    ``survive`` also do with Holm's correction, ``similar`` those that do not differ, and
    ``undecided`` those with a single seed in common; ``faster`` is the row of the fastest of the
    similar ones, if it is faster than the best one and was timed under the same conditions.
    """
    ranked = table.dropna(subset="rank").sort_values("rank").reset_index(drop=True)
    if ranked.empty:
        return None
    best, second = ranked.iloc[0], ranked.iloc[min(1, len(ranked) - 1)]
    tied = ranked["cell"][ranked["best_val_accuracy_mean"] == best.best_val_accuracy_mean]
    different = (words for column, words in RANKED_BY.items() if best[column] != second[column])
    pairs = differences[differences["which"] == "best"]
    pairs = pairs[(pairs["cell"] == best.cell) | (pairs["other"] == best.cell)]
    others = pairs["cell"].where(pairs["cell"] != best.cell, pairs["other"])
    differ, undecided = pairs["differ"], pairs["seeds"] == 1
    similar = others[~differ & ~undecided].tolist()
    equal = ranked[ranked["cell"].isin([best.cell, *similar])]
    fastest = equal.sort_values(["seconds_per_run_mean", "rank"]).iloc[0]
    return {
        "best": best,
        "tied": tied.tolist()[1:],
        "tied_by": next(different, "its place in `params.yaml`"),
        "worse": others[differ].tolist(),
        "survive": int(pairs["holm"].sum()),
        "similar": similar,
        "undecided": others[undecided].tolist(),
        "faster": fastest if same_conditions and fastest.cell != best.cell else None,
    }


def largest_class(results: Results) -> dict[str, Any] | None:
    """Return what always answering the largest class would reach; None if no run finished."""
    shares = results.labels.value_counts(normalize=True).sort_index()
    if shares.empty:
        return None
    return {
        "label": shares.idxmax(),
        "accuracy": shares.max(),
        "balanced": 1 / len(shares),
    }


def summarize_accuracies(comparison: Comparison, majority: dict[str, Any] | None) -> dict[str, Any]:
    """Return the table of accuracies, without empty columns, and what to note about it.

    Its last row is that of the largest class, if a run finished.
    """
    table = comparison.table
    lines = pd.DataFrame(
        {
            "cell": row.cell + (f" ({row.diverged} of {row.seeds} diverged)" * bool(row.diverged)),
            "best epoch, %": _mean_and_std(row, "best"),
            "interval (95 %)": _range(row.best_val_accuracy_ci_low, row.best_val_accuracy_ci_high),
            "last epoch, %": _mean_and_std(row, "last"),
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
        for row in table.itertuples()
    )
    if majority:
        reached = {
            "cell": f"(always {majority['label']})",
            **dict.fromkeys(("best epoch, %", "last epoch, %"), _percent(majority["accuracy"])),
            "balanced, % (95 %)": _percent(majority["balanced"]),
        }
        lines = pd.concat([lines, pd.DataFrame([reached])], ignore_index=True).fillna(UNKNOWN)
    return {
        "table": lines.loc[:, (lines != UNKNOWN).any()],
        "selection_optimism": table["selection_optimism"].dropna(),
        "diverged": int(table["diverged"].sum()),
        "single_replicate": (table["seeds"] - table["diverged"] == 1).any(),
    }


def recalls(results: Results) -> dict[str, Any] | None:
    """Return each cell's recall of each class at the best epoch, of many classes the lowest.

    ``table`` has a row per cell; ``classes`` is the number of all. None if no run finished.
    """
    best = results.predictions[results.predictions["which"] == "best"]
    if best.empty:
        return None
    correct = best["label"] == best["predicted"]
    shares = correct.groupby([best["cell"], best["label"]]).mean().unstack()
    shown = shares.mean().nsmallest(MOST_CLASSES).index.sort_values()
    images = best.drop_duplicates("image")["label"].value_counts()
    texts = shares.reindex([cell for cell in results.cells if cell in shares.index])[shown]
    texts = texts.map(_percent).rename(columns=lambda label: f"{label} ({images[label]:,})")
    return {"table": texts.reset_index(), "classes": len(images)}


def summarize_differences(rows: pd.DataFrame) -> dict[str, Any]:
    """Return which pairs of cells differ at their best epochs, the largest difference first.

    Of all ``pairs`` with more than one seed in common, ``differ`` do, and ``survive`` of these with
    Holm's correction; ``expected`` is how many of as many equal pairs would by chance. Of the
    ``clearest`` and of those that differ at their last epochs alone, ``only_last``, differences and
    intervals are in points, from the more accurate cell's side. ``half_width`` is the mean half
    width of an interval in points, ``images_needed`` what the clearest pair would take where none
    differ; ``with_one_seed`` counts the pairs that have a single seed in common.
    """
    forward = rows["difference"] > 0
    limits = 100 * rows[["low", "high"]].abs()
    rows = rows.assign(
        more_accurate=rows["cell"].where(forward, rows["other"]),
        less_accurate=rows["other"].where(forward, rows["cell"]),
        points=100 * rows["difference"].abs(),
        least=limits.min(axis=1),
        most=limits.max(axis=1),
    )
    one_seed = rows["seeds"] == 1
    best, last = (
        rows[~one_seed & (rows["which"] == which)].set_index("pair") for which in ("best", "last")
    )
    real, only_last = (part[part["differ"]] for part in (best, last))
    only_last = only_last.drop(real.index, errors="ignore")
    reverse = best["more_accurate"] != last["more_accurate"]
    at_last = reverse.map({False: "same", True: "opposite"}).where(last["differ"], "none")
    clearest = real.assign(at_last=at_last).sort_values("points", ascending=False, kind="stable")
    return {
        "pairs": len(best),
        "differ": len(real),
        "survive": int(real["holm"].sum()),
        "clearest": clearest.head(MOST_PAIRS).to_dict("records"),
        "only_last": only_last.to_dict("records"),
        "half_width": 50 * (best["high"] - best["low"]).mean(),
        "images_needed": best["images_needed"].min(),
        "expected": (1 - LEVEL) * len(best),
        "with_one_seed": int((one_seed & (rows["which"] == "best")).sum()),
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
    change = table["accuracy_without_near_duplicates"] - table["best_val_accuracy_mean"]
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
