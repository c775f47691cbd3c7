"""The facts of the report, taken from the comparison's tables; its sentences are in `templates`.

Facts are numbers, names, and tables whose entries are formatted texts.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from headswap.compare.comparison import Comparison
from headswap.compare.intervals import LEVEL
from headswap.compare.results import TIMING_CONDITIONS, Results
from headswap.compare.versions import outdated_cells
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
CONDITIONS = {
    "processor": "processor",
    "cores": "cores",
    "device": "device",
    "workers": "runs at a time at most:",
    "arithmetic": "arithmetic",
}
"""The `results.TIMING_CONDITIONS` in the words of the report."""


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
    return {
        "params": results.params,
        "counts": results.counts,
        "classes": class_sizes(results.counts),
        "recipes": recipes(results),
        "preprocessing": preprocessing(results),
        "recommendation": recommend(table, differences, same_conditions),
        "accuracy": summarize_accuracies(table, majority),
        "largest_class": majority,
        "recall": recalls(results),
        "differences": summarize_differences(differences),
        "claims": summarize_claims(comparison.verdicts),
        "run_time": {
            "same_conditions": same_conditions,
            "conditions": TIMING_CONDITIONS,
            "busy": cells_on_a_busy_machine(table),
            "busy_from": BUSY_RATIO,
        },
        "misclassified": summarize_misclassified(comparison.misclassified),
        "duplicates": summarize_near_duplicates(table, comparison.duplicates),
        "provenance": summarize_provenance(results),
    }


def class_sizes(counts: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Return each class's numbers of training and validation images.

    >>> class_sizes({"train": 3, "train_ants": 3, "val": 2, "val_ants": 2})
    {'ants': (3, 2)}
    """
    classes = [key.removeprefix("val_") for key in counts if key.startswith("val_")]
    return {name: (counts[f"train_{name}"], counts[f"val_{name}"]) for name in classes}


def recipes(results: Results) -> list[tuple[list[str], Recipe]]:
    """Return the recipes, each with the modes that are trained with it."""
    params = results.params
    if params.train == params.probe:
        return [([*params.modes, "probe"], params.train)]
    return [([*params.modes], params.train), (["probe"], params.probe)]


def preprocessing(results: Results) -> list[tuple[list[str], dict[str, Any]]]:
    """Return the ways in which an image is prepared, each with the models that see it so."""
    ways: list[tuple[list[str], dict[str, Any]]] = []
    for cell, way in results.figures["preprocessing"].items():
        model = results.cells[str(cell)].model
        models = next((models for models, other in ways if other == way), None)
        if models is None:
            ways.append(([model], way))
        elif model not in models:
            models.append(model)
    return ways


def recommend(
    table: pd.DataFrame, differences: pd.DataFrame, same_conditions: bool
) -> dict[str, Any] | None:
    """Return which cell to use, how sure that is, and what it costs; None if no run finished.

    ``best`` is the row of the cell of rank 1; ``worse`` names the cells that differ from it,
    ``similar`` those that do not; ``faster`` is the row of the fastest of these, if it is faster
    than the best one and was timed under the same conditions.
    """
    if table["rank"].isna().all():
        return None
    best = table.loc[table["rank"].idxmin()]
    pairs = differences[differences["which"] == "best"]
    pairs = pairs[(pairs["cell"] == best.cell) | (pairs["other"] == best.cell)]
    others = pairs["cell"].where(pairs["cell"] != best.cell, pairs["other"])
    differ = pairs["differ"].astype(bool)
    equal = table[table["cell"].isin([best.cell, *others[~differ]])]
    fastest = equal.sort_values(["seconds_per_run_mean", "rank"]).iloc[0]
    return {
        "best": best,
        "worse": others[differ].tolist(),
        "similar": others[~differ].tolist(),
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


def summarize_accuracies(table: pd.DataFrame, majority: dict[str, Any] | None) -> dict[str, Any]:
    """Return the table of accuracies, without empty columns, and what to note about it.

    Its last row is that of the largest class, if a run finished.
    """
    lines = pd.DataFrame(
        {
            "cell": row.cell + (f" ({row.diverged} of {row.seeds} diverged)" * bool(row.diverged)),
            "best epoch, %": _mean_and_std(row, "best"),
            "interval (95 %)": _range(row.best_val_accuracy_ci_low, row.best_val_accuracy_ci_high),
            "last epoch, %": _mean_and_std(row, "last"),
            "balanced, % (95 %)": _with_range(row, "balanced_accuracy"),
            "without near-duplicates, %": _percent(row.accuracy_without_near_duplicates),
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
        "single_replicate": bool((table["seeds"] - table["diverged"] == 1).any()),
        "has_published": bool(table["published_best_val_accuracy"].notna().any()),
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

    Of all ``pairs``, ``differ`` do, and ``survive`` of these with Holm's correction; ``expected``
    is how many of as many equal pairs would by chance. ``clearest`` are the first of them, and
    ``only_last`` those that differ at their last epochs alone, see `_difference`. ``half_width`` is
    the mean half width of an interval in points, ``images_needed`` what the clearest pair would
    take where none differ; ``single_replicate`` says if a pair has only one seed in common.
    """
    best, last = (rows[rows["which"] == which].set_index("pair") for which in ("best", "last"))
    real, only_last = (part[part["differ"].astype(bool)] for part in (best, last))
    only_last = only_last[~only_last.index.isin(real.index)]
    order = real["difference"].abs().sort_values(ascending=False, kind="stable").index
    return {
        "pairs": len(best),
        "differ": len(real),
        "survive": int(real["holm"].sum()),
        "clearest": [
            _difference(real.loc[pair]) | {"at_last": _at_last(real.loc[pair], last.loc[pair])}
            for pair in order[:MOST_PAIRS]
        ],
        "only_last": [_difference(row) for _, row in only_last.iterrows()],
        "half_width": 50 * (best["high"] - best["low"]).mean(),
        "images_needed": best["images_needed"].min(),
        "expected": (1 - LEVEL) * len(best),
        "single_replicate": bool((best["seeds"] == 1).any()),
    }


def _difference(row: pd.Series) -> dict[str, Any]:
    """Return a difference and its interval in points, from the more accurate cell's side."""
    names = (row["cell"], row["other"])
    more, less = names if row["difference"] > 0 else reversed(names)
    low, high = sorted((100 * abs(row["low"]), 100 * abs(row["high"])))
    points = 100 * abs(row["difference"])
    return {
        "more_accurate": more,
        "less_accurate": less,
        "points": points,
        "low": low,
        "high": high,
        "holm": bool(row["holm"]),
    }


def _at_last(best: pd.Series, last: pd.Series) -> str:
    if not last["differ"]:
        return "none"
    return "same" if best["difference"] * last["difference"] > 0 else "opposite"


def summarize_claims(verdicts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the verdicts on the claims.

    ``verdicts`` says how many have each verdict, and if they were not tested, for each reason;
    ``tested`` is a table with a row per tested claim.
    """
    tested = [
        {
            "claim": verdict["says"],
            "verdict": verdict["verdict"] + _what_would_decide(verdict),
            "effect (95 %)": "; ".join(
                f"{_effect(verdict, effect['effect'])} ({_effect(verdict, effect['low'])} to "
                f"{_effect(verdict, effect['high'])})"
                for effect in verdict["effects"]
            )
            + (", " if verdict["unit"].startswith("power") else " ")
            + verdict["unit"],
            "write-up": "; ".join(
                _effect(verdict, effect["published"]) for effect in verdict["effects"]
            ),
        }
        for verdict in verdicts
        if verdict["effects"]
    ]
    kinds = ("supported", "contradicted", "inconclusive", "not tested")
    labels = [
        verdict["verdict"] + (f" ({verdict['why']})" if verdict["why"] else "")
        for verdict in sorted(verdicts, key=lambda verdict: kinds.index(verdict["verdict"]))
    ]
    return {
        "total": len(verdicts),
        "verdicts": Counter(labels),
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


def _effect(verdict: dict[str, Any], figure: float) -> str:
    return f"{figure:+.1f}" if verdict["unit"] == "points" else f"{figure:.2f}"


def cells_on_a_busy_machine(table: pd.DataFrame) -> list[str]:
    """Return the cells that were trained while the machine did other work."""
    ratio = table["wall_seconds_per_run_mean"] / table["seconds_per_run_mean"]
    return table["cell"][ratio >= BUSY_RATIO].tolist()


def summarize_misclassified(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the most misclassified images as a table, and how many there are."""
    first = rows.head(MOST_IMAGES)
    lines = pd.DataFrame(
        {
            "validation image": first["image"],
            "class": first["label"],
            "most often predicted": first["predicted"],
            "runs wrong": [f"{row.wrong} of {row.runs}" for row in first.itertuples()],
        }
    )
    return {
        "table": lines,
        "images": len(rows),
        "always": int((rows["wrong"] == rows["runs"]).sum()),
    }


def summarize_near_duplicates(
    table: pd.DataFrame, duplicates: pd.DataFrame | None
) -> dict[str, Any] | None:
    """Return the near-duplicates, the first as a table, and how accuracies change without them."""
    if duplicates is None:
        return None
    change = table["accuracy_without_near_duplicates"] - table["best_val_accuracy_mean"]
    pairs = duplicates.head(MOST_IMAGES)
    pairs = pairs.assign(similarity=pairs["similarity"].map("{:.2f}".format))
    pairs.columns = ["validation image", "most similar training image", "similarity"]
    return {
        "pairs": pairs,
        "images": len(duplicates),
        "similarity": duplicates["similarity"],
        "change": change.dropna(),
    }


def summarize_provenance(results: Results) -> dict[str, Any]:
    """Return what the cells were made with, each with its cells, and which are outdated."""
    made_with: dict[str, list[str]] = {}
    for cell, timing in results.timing.items():
        made_with.setdefault(_conditions(timing), []).append(cell)
    return {
        "made_with": made_with,
        "outdated": outdated_cells(results.cells.values()),
    }


def _conditions(timing: Mapping[str, Any]) -> str:
    """Return the versions, the machine and the revision that a cell was made with."""
    values = timing["versions"] | {name: timing[key] for key, name in CONDITIONS.items()}
    values |= {"revision": _revision(timing)}
    texts = {name: _join_values(value) for name, value in values.items()}
    return ", ".join(f"{name} {text}" for name, text in texts.items() if text != UNKNOWN)


def _join_values(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return join_words(UNKNOWN if one in (None, "") else one for one in values)


def _revision(timing: Mapping[str, Any]) -> list[str]:
    """Return the revisions of a cell's code, and whether it had been edited."""
    revisions, dirty = (
        value if isinstance(value, list) else [value]
        for value in (timing["revision"], timing["dirty"])
    )
    edited = " with uncommitted changes" if any(dirty) else ""
    return [revision[:12] + edited for revision in revisions if revision] or [UNKNOWN]


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
