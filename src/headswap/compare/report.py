"""The facts of the report, taken from the comparison's tables; its sentences are in `templates`.

Every function returns plain facts: numbers, names, and tables whose entries are formatted texts.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from headswap.compare.comparison import Comparison
from headswap.compare.intervals import LEVEL
from headswap.compare.results import TIMING_CONDITIONS, Results
from headswap.compare.versions import outdated
from headswap.markdown import escaped, fill_template

UNKNOWN = "–"
MOST_PAIRS = 20
"""How many pairs of cells are listed."""
MOST_CLASSES = 10
"""How many classes have their recall listed."""
MOST_IMAGES = 12
"""How many misclassified images are listed, and shown in the gallery."""
BUSY = 1.25
"""From which ratio of wall time to the processor's on a machine counts as busy."""
CONDITIONS = {
    "processor": "processor",
    "cores": "cores",
    "device": "device",
    "workers": "runs at a time, at most",
    "arithmetic": "settings of arithmetic",
}
"""The `results.TIMING_CONDITIONS` in the words of the report."""


def render(template: str, facts: Mapping[str, Any]) -> str:
    """Fill a template from the folder ``templates`` with facts."""
    filters: dict[str, Callable[..., Any]] = {
        "between": between,
        "counted": counted,
        "listed": listed,
        "markdown": markdown_table,
        "percent": _percent,
        "seconds": _seconds,
    }
    return fill_template("headswap.compare", template, facts, filters)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "run"), counted(1200, "run")
    ('1 run', '1,200 runs')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(words: Iterable[object], most: int = 20) -> str:
    """Join words as prose does.

    >>> listed(["a", "b", "c"]), listed(["a", "b", "c"], most=2)
    ('a, b and c', 'a, b and 1 more')
    """
    texts = [str(word) for word in words]
    if len(texts) > most:
        texts = [*texts[:most], f"{len(texts) - most} more"]
    return " and ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))


def between(shares: pd.Series, form: str = "z.1f") -> str:
    """Return the range of shares, in percent.

    >>> between(pd.Series([0.02, 0.011])), between(pd.Series([0.02, 0.02]), "+z.1f")
    ('1.1 to 2.0', '+2.0')
    """
    low, high = (format(100 * share, form) for share in (shares.min(), shares.max()))
    return low if low == high else f"{low} to {high}"


def markdown_table(table: pd.DataFrame, align: str = "right") -> str:
    """Return a table of texts in Markdown; its first column is aligned to the left."""
    texts = table.map(escaped).rename(columns=escaped)
    align_all = ("left", *[align] * (texts.shape[1] - 1))
    return texts.to_markdown(index=False, colalign=align_all, disable_numparse=True)


def facts(results: Results, comparison: Comparison) -> dict[str, Any]:
    """Return all facts of the report."""
    table, rows = comparison.table, comparison.rows
    same_conditions = results.timed_under_same_conditions(results.cells)
    majority = largest_class(results)
    return {
        "params": results.params,
        "counts": results.counts,
        "recipes": recipes(results),
        "preprocessing": preprocessing(results),
        "recommendation": recommendation(table, rows["differences"], same_conditions),
        "accuracy": accuracy(table, majority),
        "largest_class": majority,
        "recall": recall(results),
        "differences": differences(rows["differences"]),
        "claims": claims(comparison.verdicts),
        "run_time": {
            "same_conditions": same_conditions,
            "conditions": TIMING_CONDITIONS,
            "busy": busy(table),
            "busy_from": BUSY,
            "correlations": correlations(rows["costs"]),
        },
        "calibration_errors": table.set_index("cell")["calibration_error"].dropna(),
        "misclassified": misclassification(comparison.misclassified),
        "duplicates": near_duplication(table, comparison.duplicates),
        "provenance": provenance(results),
    }


def preprocessing(results: Results) -> pd.DataFrame:
    """Return what is done to an image before the networks see it: a row per way of doing it."""
    models: dict[str, dict[str, None]] = {}
    lines: dict[str, dict[str, str]] = {}
    for cell, values in results.figures["preprocessing"].items():
        way = str(sorted(values.items()))
        models.setdefault(way, {})[results.cells[str(cell)].model] = None
        lines[way] = {
            "shorter side": f"{values['resize']} pixels, {values['interpolation']}",
            "center crop": f"{values['size']} x {values['size']}",
            "mean": ", ".join(f"{value:.3g}" for value in values["mean"]),
            "spread": ", ".join(f"{value:.3g}" for value in values["std"]),
        }
    return pd.DataFrame({"models": listed(models[way]), **lines[way]} for way in lines)


def recipes(results: Results) -> pd.DataFrame:
    """Return how the modes are trained: a row per recipe."""
    params = results.params
    return pd.DataFrame(
        {
            "modes": listed(modes),
            "optimizer": f"SGD, momentum {recipe.momentum:g}",
            "learning rate": f"{recipe.lr:g}",
            "schedule": f"× {recipe.lr_gamma:g} every {counted(recipe.lr_step, 'epoch')}",
            "batch size": f"{recipe.batch_size:,}",
            "epochs": f"{recipe.epochs:,}",
        }
        for modes, recipe in ((params.modes, params.train), (["probe"], params.probe))
    )


def recommendation(
    table: pd.DataFrame, differences: pd.DataFrame, same_conditions: bool
) -> dict[str, Any] | None:
    """Return which cell to use, how sure that is, and what it costs.

    Returns
    -------
    dict or None
        ``best``, the row of the most accurate cell at its best epoch (of several, the one with
        the most accurate last epoch, then the fastest); ``worse``, the names of the cells that
        differ from it; ``similar``, of those that do not; ``faster``, the row of the fastest of
        these, if it is faster than the best one and was timed under the same conditions. None if
        no run finished.
    """
    order = ["best_val_accuracy_mean", "last_val_accuracy_mean", "seconds_per_run_mean"]
    ranked = table.dropna(subset=order[0]).sort_values(order, ascending=[False, False, True])
    if ranked.empty:
        return None
    best = ranked.iloc[0]
    pairs = differences[differences["which"] == "best"]
    pairs = pairs[(pairs["cell"] == best.cell) | (pairs["other"] == best.cell)]
    others = pairs["cell"].where(pairs["cell"] != best.cell, pairs["other"])
    differ = pairs["differ"].astype(bool)
    fastest = ranked[ranked["cell"].isin([best.cell, *others[~differ]])].nsmallest(
        1, "seconds_per_run_mean"
    )
    is_faster = same_conditions and fastest["cell"].item() != best.cell
    return {
        "best": best,
        "worse": others[differ].tolist(),
        "similar": others[~differ].tolist(),
        "faster": fastest.iloc[0] if is_faster else None,
    }


def largest_class(results: Results) -> dict[str, Any] | None:
    """Return what always answering the largest class would reach; None if no run finished.

    Returns
    -------
    dict or None
        Its ``label``; the ``accuracy``, its share of the validation images; and the ``balanced``
        accuracy.
    """
    shares = results.labels.value_counts(normalize=True).sort_index()
    if shares.empty:
        return None
    return {
        "label": shares.idxmax(),
        "accuracy": shares.max(),
        "balanced": 1 / len(shares),
    }


def accuracy(table: pd.DataFrame, majority: dict[str, Any] | None) -> dict[str, Any]:
    """Return the table of accuracies as texts, without empty columns, and what to note about it.

    Parameters
    ----------
    table
        From `comparison.comparison_table`.
    majority
        From `largest_class`, for the last row.
    """
    lines = pd.DataFrame(
        {
            "cell": row.cell + (f" ({row.diverged} of {row.seeds} diverged)" * bool(row.diverged)),
            "best epoch, %": _mean_and_std(row, "best"),
            "interval (95 %)": _range(row.best_val_accuracy_ci_low, row.best_val_accuracy_ci_high),
            "balanced, % (95 %)": _with_range(row, "balanced_accuracy"),
            "last epoch, %": _mean_and_std(row, "last"),
            "best − last, points": _with_range(row, "selection_optimism"),
            "last loss": _text(row.val_loss_last_mean, ".3f"),
            "parameters": f"{row.parameters:,}",
            "trained": f"{row.trainable_parameters:,}",
            "seconds per run": _seconds(row.seconds_per_run_mean),
            "wall seconds": _seconds(row.wall_seconds_per_run_mean),
            "write-up, %": _percent(row.published_best_val_accuracy),
            "write-up, seconds": _text(row.published_train_seconds, ".0f"),
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
    finished = table["seeds"] - table["diverged"]
    return {
        "table": lines.loc[:, (lines != UNKNOWN).any()],
        "selection_optimism": table["selection_optimism"].dropna(),
        "diverged": int(table["diverged"].sum()),
        "single_replicate": bool((finished == 1).any()),
        "has_published": bool(table["published_best_val_accuracy"].notna().any()),
    }


def recall(results: Results) -> dict[str, Any] | None:
    """Return each cell's recall of each class at the best epoch, of many classes the lowest.

    Returns
    -------
    dict or None
        ``table`` of texts, a row per cell; ``classes``, how many there are. None if no run
        finished.
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


def differences(rows: pd.DataFrame) -> dict[str, Any]:
    """Return which pairs of cells differ at their best epochs, the largest difference first.

    Returns
    -------
    dict
        ``pairs``, how many there are, of which ``differ`` do; ``listed``, the first of these,
        each with ``more_accurate``, ``less_accurate``, ``points``, ``low``, ``high``, ``holm``
        (whether it does with Holm's correction; ``survive``, how many do) and
        ``at_last``, whether they also differ at their last epochs (``same``, ``opposite`` or
        ``none``); ``only_last``, the pairs that differ there alone; ``half_width``, the mean half
        width of an interval in points, and ``images_needed`` for the clearest, where none differ;
        ``expected``, how many of as many equal pairs would differ by chance;
        ``single_replicate``, whether a pair has only one seed in common.
    """
    best, last = (rows[rows["which"] == which].set_index("pair") for which in ("best", "last"))
    real = best[best["differ"].astype(bool)]
    order = real["difference"].abs().sort_values(ascending=False, kind="stable").index
    only_last = last[last["differ"].astype(bool) & ~last.index.isin(real.index)]
    return {
        "pairs": len(best),
        "differ": len(real),
        "survive": int(real["holm"].sum()),
        "listed": [
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
    names = (row["cell"], row["other"])
    more, less = names if row["difference"] > 0 else reversed(names)
    low, high = sorted((100 * abs(row["low"]), 100 * abs(row["high"])))
    points = 100 * abs(row["difference"])
    return dict(
        more_accurate=more,
        less_accurate=less,
        points=points,
        low=low,
        high=high,
        holm=bool(row["holm"]),
    )


def _at_last(best: pd.Series, last: pd.Series) -> str:
    if not last["differ"]:
        return "none"
    return "same" if best["difference"] * last["difference"] > 0 else "opposite"


def claims(verdicts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the verdicts on the claims.

    Returns
    -------
    dict
        ``total``, the number of claims; ``verdicts``, how many have each verdict, and if they were
        not tested, for each reason; ``tested``, a table of texts with a row per tested claim.
    """
    tested = [
        {
            "claim": verdict["says"],
            "verdict": verdict["verdict"] + _what_it_would_take(verdict),
            "effect (95 %)": "; ".join(
                f"{_in_unit(verdict, effect['effect'])} ({_in_unit(verdict, effect['low'])} to "
                f"{_in_unit(verdict, effect['high'])})"
                for effect in verdict["effects"]
            )
            + (", " if verdict["unit"].startswith("power") else " ")
            + verdict["unit"],
            "write-up": "; ".join(
                _in_unit(verdict, effect["published"]) for effect in verdict["effects"]
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


def _what_it_would_take(verdict: dict[str, Any]) -> str:
    """Return what would decide a claim that is inconclusive."""
    if verdict["verdict"] != "inconclusive":
        return ""
    if verdict["unit"] != "points":
        return "; more seeds may decide"
    open_effects = [effect for effect in verdict["effects"] if effect["low"] <= 0 <= effect["high"]]
    needed = [effect["images_needed"] for effect in open_effects]
    if not all(needed):
        return "; more images alone would not decide"
    return f"; {max(needed):,} images would decide with an even chance"


def _in_unit(verdict: dict[str, Any], figure: float) -> str:
    return f"{figure:+.1f}" if verdict["unit"] == "points" else f"{figure:.2f}"


def busy(table: pd.DataFrame) -> list[str]:
    """Return the cells that were trained while the machine did other work."""
    ratio = table["wall_seconds_per_run_mean"] / table["seconds_per_run_mean"]
    return table["cell"][ratio >= BUSY].tolist()


def correlations(costs: pd.DataFrame) -> dict[str, float]:
    """Return the rank correlation of run time with each cost, where known, the highest first."""
    by_cost = costs.drop_duplicates("cost").set_index("cost")["rank_correlation"].dropna()
    return by_cost.astype(float).sort_values(ascending=False, kind="stable").to_dict()


def misclassification(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the most misclassified images as a table of texts, and how many there are."""
    first = rows.head(MOST_IMAGES)
    lines = pd.DataFrame(
        {
            "validation image": first["image"],
            "class": first["label"],
            "most often predicted": first["predicted"],
            "runs wrong": [f"{row.wrong} of {row.runs}" for row in first.itertuples()],
            "mean probability of its class": first["probability"].map("{:.2f}".format),
        }
    )
    return {
        "table": lines,
        "images": len(rows),
        "always": int((rows["wrong"] == rows["runs"]).sum()),
    }


def near_duplication(table: pd.DataFrame, duplicates: pd.DataFrame | None) -> dict[str, Any] | None:
    """Return the near-duplicates, and the accuracies with and without them, as tables of texts."""
    if duplicates is None:
        return None
    columns = ["best_val_accuracy_mean", "accuracy_without_near_duplicates"]
    accuracies = table[columns].map(_percent)
    accuracies.columns = ["best epoch, %", "without near-duplicates, %"]
    pairs = duplicates.assign(similarity=duplicates["similarity"].map("{:.2f}".format))
    pairs.columns = ["validation image", "most similar training image", "cosine similarity"]
    return {
        "accuracies": pd.concat([table["cell"], accuracies], axis=1),
        "pairs": pairs,
        "similarity": duplicates["similarity"],
        "change": (table[columns[1]] - table[columns[0]]).dropna(),
    }


def provenance(results: Results) -> dict[str, Any]:
    """Return what the cells were made with and from, as tables of texts.

    Returns
    -------
    dict
        ``made_with``, the versions, processor and so on, with a column for the cells that have
        them in common; ``digests``, a row per cell; ``outdated``, from `versions.outdated`.
    """
    groups: dict[str, dict[str, str]] = {}
    cells: dict[str, list[str]] = {}
    for cell, timing in results.timing.items():
        values = timing["versions"] | {name: timing[key] for key, name in CONDITIONS.items()}
        conditions = {name: _joined(value) for name, value in values.items()}
        cells.setdefault(str(conditions), []).append(cell)
        groups[str(conditions)] = conditions
    made_with = pd.DataFrame(
        {
            "all cells" if len(groups) == 1 else listed(cells[group]): groups[group]
            | {"revision": _revisions(results.timing[cell] for cell in cells[group])}
            for group in groups
        }
    ).fillna(UNKNOWN)
    digests = results.figures.filter(regex="_digest$").rename(columns=lambda name: name[:-7])
    digests = digests.astype(object).where(digests.notna(), UNKNOWN).map(lambda text: text[:12])
    return {
        "made_with": made_with.rename_axis("made with").reset_index(),
        "digests": digests.rename_axis("digest of").reset_index(),
        "outdated": outdated(results.cells.values()),
    }


def _joined(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return listed(UNKNOWN if one in (None, "") else one for one in values)


def _revisions(timings: Iterable[Mapping[str, Any]]) -> str:
    """Return the distinct revisions of some cells, and whether these had been edited."""
    texts: dict[str, None] = {}
    for timing in timings:
        revisions, dirty = (
            value if isinstance(value, list) else [value]
            for value in (timing["revision"], timing["dirty"])
        )
        edited = " with uncommitted changes" if any(dirty) else ""
        texts |= {revision[:12] + edited: None for revision in revisions if revision}
    return listed(texts) or UNKNOWN


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
    spread = _range(*(getattr(row, f"{column}_ci_{side}") for side in ("low", "high")))
    value = _percent(getattr(row, column))
    return value if spread == UNKNOWN else f"{value} ({spread})"
