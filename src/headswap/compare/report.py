"""The comparison in words: the tables on the terminal, and a report in Markdown."""

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headswap.compare.results import MADE_BY, TIMED_ON
from headswap.progress import console

HEADINGS = (
    "cell",
    "best epoch, %",
    "interval (95 %)",
    "last epoch, %",
    "best − last",
    "last loss",
    "parameters",
    "trained",
    "seconds a run",
    "write-up, %",
    "its seconds",
)


def lines(table):
    """Return the table as a person reads it: a tuple of texts a cell, under `HEADINGS`."""
    for _, row in table.iterrows():
        yield (
            row.cell + (f" ({row.diverged} of {row.seeds} diverged)" if row.diverged else ""),
            _spread(row, "best_val_accuracy"),
            _range(row, "best_val_accuracy"),
            _spread(row, "last_val_accuracy"),
            _selection_optimism(row),
            _figure(row.val_loss_last_mean, ".3f"),
            f"{row.parameters:,}",
            f"{row.trainable_parameters:,}",
            _figure(row.seconds_per_run_mean, ".0f" if row.seconds_per_run_mean > 10 else ".1f"),
            _figure(row.published_best_val_accuracy, ".1%"),
            _figure(row.published_train_seconds, ".0f"),
        )


def _filled(table):
    """Return headings and lines without the columns in which nothing stands."""
    columns = zip(HEADINGS, *lines(table), strict=True)
    return list(zip(*(column for column in columns if set(column[1:]) != {"–"}), strict=True))


def _spread(row, key):
    spread = _figure(row[f"{key}_std"], ".1%")
    return _figure(row[f"{key}_mean"], ".1%") + (f" ± {spread}" if spread != "–" else "")


def _selection_optimism(row):
    if pd.isna(row.selection_optimism_ci_high):
        return _figure(row.selection_optimism, ".1%")
    return f"{100 * row.selection_optimism:.1f} ({100 * row.selection_optimism_ci_low:.1f} to {100 * row.selection_optimism_ci_high:.1f})"


def _range(row, key):
    if pd.isna(row[f"{key}_ci_low"]):
        return "–"
    return f"{row[f'{key}_ci_low']:.1%} to {row[f'{key}_ci_high']:.1%}".replace("%", "")


def _figure(value, form):
    """Format a figure; percentages bare, for their unit stands in the heading."""
    return "–" if pd.isna(value) else format(value, form).replace("%", "")


def show(table, pairs, verdicts):
    """Print the table of cells, what can be told apart, and the table of claims."""
    wide = Console(width=max(console.width, 150))
    wide.print(
        _drawn(
            "Accuracy on the validation set: mean ± standard deviation of the replicates",
            _filled(table),
            justify="right",
        )
    )
    console.print(_told_apart(pairs) + "\n", markup=False)
    if verdicts:
        lines = [CLAIM_HEADINGS, *map(_claim, verdicts)]
        wide.print(_drawn("What the write-up concluded", lines, justify="left"))


def _drawn(title, rows, justify):
    """Return a table for the terminal; the first column is to the left in any case."""
    drawn = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    headings, *rows = rows
    for place, heading in enumerate(headings):
        broken = "\n".join(heading.split(" ", 1)) if justify == "right" else heading
        drawn.add_column(broken, justify=justify if place else "left")
    for row in rows:
        drawn.add_row(*map(Text, row))
    return drawn


CLAIM_HEADINGS = ("claim", "verdict", "effect (95 %)", "write-up")


def _claim(verdict):
    """Return a claim as a line of a table."""
    if verdict["why"]:
        return (verdict["says"], f"not tested: {verdict['why']}", "–", "–")
    effects, theirs = zip(
        *(
            (
                _effect(verdict["unit"], effect["effect"])
                + f" ({_effect(verdict['unit'], effect['low'])} to "
                + f"{_effect(verdict['unit'], effect['high'])})",
                _effect(verdict["unit"], effect["published"]),
            )
            for effect in verdict["effects"]
        ),
        strict=True,
    )
    unit = {"points": " points", "times": " times"}.get(verdict["unit"], f", {verdict['unit']}")
    told = verdict["verdict"]
    if told == "inconclusive":
        told += f"; {_missing(verdict)}"
    return (verdict["says"], told, "; ".join(effects) + unit, "; ".join(theirs))


def _missing(verdict):
    """Return what it would take to tell, for an inconclusive claim."""
    if verdict["unit"] != "points":
        return "more seeds may tell"
    untold = [effect for effect in verdict["effects"] if effect["low"] <= 0 <= effect["high"]]
    needed = [effect["images_needed"] for effect in untold]
    if not all(needed):
        return "more images alone would not tell"
    return f"with {max(needed):,} images there would be an even chance to tell"


def _effect(unit, figure):
    return f"{figure:+.1f}" if unit == "points" else f"{figure:.2f}"


def markdown(results, table, rows, verdicts, wrong, near_duplicates):
    """Return the whole comparison as a report.

    Parameters
    ----------
    results : results.Results
    table : pandas.DataFrame
        From `compare.comparison`.
    rows : dict of str to pandas.DataFrame
        The rows of the plots: ``differences``, ``costs`` and ``phases`` are put into words.
    verdicts : list of dict
        From `claims.test`.
    wrong : pandas.DataFrame
        From `compare.hardest`.
    alike : pandas.DataFrame or None
        From `similar.near_duplicates`.

    Returns
    -------
    str
        Markdown. Every sentence follows from the figures.
    """
    parts = {
        "Comparison": _what(results),
        "Accuracy": _accuracy(table),
        "Which differences are real": _differences(rows["differences"]),
        "What the write-up concluded": _verdicts(verdicts),
        "Why one is slower": _slowness(results, rows["costs"], rows["phases"]),
        "How sure the predictions are": _calibration(table),
        "Which photographs decide it": _hardest(wrong),
        "What limits every comparison on these images": _limits(results, table, near_duplicates),
        "How it was made": _provenance(results),
    }
    sections = [
        f"{'##' if number else '#'} {title}\n\n{text}\n"
        for number, (title, text) in enumerate(parts.items())
        if text
    ]
    return "\n".join(sections)


def _what(results):
    params, counts = results.params, results.counts
    modes = {
        "finetune": "everything trains",
        "frozen": "all but the last layer is frozen, dropout and batch norm as in training",
        "probe": "a linear probe on features computed once",
    }
    of_modes = "; ".join(f"`{mode}` ({modes[mode]})" for mode in [*params.modes, "probe"])
    weights = {"imagenet": "pretrained weights", "random": "random weights, not pretrained ones"}
    return (
        f"{_listed(params.models)}, from {weights[params.weights]}, each trained as {of_modes}: "
        f"{_count(len(params.seeds), 'replicate')} a cell, {_count(params.train.epochs, 'epoch')} "
        f"(the probe {params.probe.epochs}), on {counts['train']:,} training and {counts['val']:,} "
        "validation images."
    )


def _accuracy(table):
    selection_optimism = table["selection_optimism"].dropna()
    text = (
        "Mean ± standard deviation over the replicates, and the 95 % interval of the mean (for "
        "other images and other replicates). *Best epoch* is chosen on the images that are "
        "reported, which is optimistic; *last epoch* is not."
    )
    if len(selection_optimism):
        text += (
            f" The choice is worth {_between(100 * selection_optimism)} points here (*best − last*, with an "
            "interval for other replicates on these images)."
        )
    if (table["seeds"] - table["diverged"] == 1).any():
        text += " The interval of a single finished replicate speaks of other images only."
    if table["diverged"].any():
        text += " Diverged runs are counted, and are in no mean."
    if table["published_best_val_accuracy"].notna().any():
        text += " *Write-up*: the published figures, one run each."
    return (
        f"{text}\n\n{_table(_filled(table), 'right')}\n\n"
        "![Accuracy of each cell](../plots/accuracy.png)\n"
        "![Learning curves of each cell](../plots/curves.png)\n"
        "![Confusion matrix of each cell](../plots/confusion.png)\n"
        "![Accuracy against time](../plots/time.png)"
    )


def _differences(rows):
    return f"{_told_apart(rows)}\n\n![Differences of accuracy](../plots/differences.png)"


MOST_TOLD = 20
"""How many pairs of cells are put into words."""


def _more_accurate(row):
    better, worse = (row.cell, row.other) if row.difference > 0 else (row.other, row.cell)
    low, high = sorted((100 * abs(row.low), 100 * abs(row.high)))
    points = 100 * abs(row.difference)
    return (
        f"{better} is more accurate than {worse} by {points:.1f} points ({low:.1f} to {high:.1f})"
    )


def _told_apart(rows):
    """Say which pairs of cells differ at their best epochs, the largest difference first."""
    best = rows[rows["which"] == "best"]
    if best.empty:
        return "No two cells have a finished seed in common, so no difference can be told."
    real = best[best["differ"].astype(bool)]
    lines = [
        f"Of {_count(len(best), 'pair')} of cells, {len(real)} can be told apart at their best "
        "epochs:"
    ]
    if real.empty:
        widest = 50 * (best["high"] - best["low"]).mean()
        needed = best["images_needed"].dropna()
        lines = [
            f"None of {_count(len(best), 'pair')} of cells can be told apart at their best epochs: "
            f"on average a difference is known to ± {widest:.1f} points."
        ]
        if len(needed):
            lines.append(
                f"The clearest would take about {int(needed.min()):,} validation images to tell."
            )
    last = rows[rows["which"] == "last"].set_index("pair")
    order = real["difference"].abs().sort_values(ascending=False).index
    for row in real.loc[order[:MOST_TOLD]].itertuples():
        then = last.loc[row.pair]
        doubt = "" if then.differ else "; not at their last epochs"
        if then.differ and then.difference * row.difference < 0:
            doubt = "; the other way round at their last epochs"
        lines.append(f"- {_more_accurate(row)}{doubt}")
    if len(real) > MOST_TOLD:
        lines.append(f"- … and {len(real) - MOST_TOLD} more: plots/differences.json")
    later = last[last["differ"].astype(bool) & ~last.index.isin(real["pair"])]
    if len(later):
        lines.append(
            f"\n{_count(len(later), 'pair')} can be told apart only at the last epochs: "
            + "; ".join(map(_more_accurate, later.head(MOST_TOLD).itertuples()))
            + "."
        )
    expected = 0.05 * len(best)
    by_chance = f"{expected:.0f}" if expected >= 1 else f"{expected:.1g}"
    note = [
        f"\nEach interval stands alone: of {len(best)} equal pairs, {by_chance} would be told "
        "apart by chance."
    ] * bool(len(real))
    if (best["seeds"] == 1).any():
        note.append(
            "\nWhere two cells have a single finished seed in common, the interval speaks of other "
            "images only: another seed may say otherwise."
        )
    return "\n".join([*lines, *note])


def _verdicts(verdicts):
    if not verdicts:
        return ""
    tested = [verdict for verdict in verdicts if not verdict["why"]]
    counts = [
        (kind, sum(verdict["verdict"] == kind for verdict in verdicts))
        for kind in ("supported", "contradicted", "inconclusive", "not tested")
    ]
    said = ", ".join(f"{count} {kind}" for kind, count in counts if count)
    text = f"Of {_count(len(verdicts), 'claim')}: {said}. "
    if tested:
        text += "A verdict follows from the interval alone."
    rows = [CLAIM_HEADINGS, *map(_claim, verdicts)]
    return f"{text.strip()}\n\n{_table(rows, 'left')}"


NAMES = {
    "parameters": "the number of parameters",
    "trainable_parameters": "the number of trained parameters",
    "gmacs": "the number of multiply-accumulates",
    "depth": "the depth",
    "activations": "the number of activations",
}


def _slowness(results, costs, phases):
    correlations = costs.drop_duplicates("cost").set_index("cost")["rank_correlation"].dropna()
    text = ""
    if not results.timed_alike(results.cells):
        text = (
            f"The cells were not timed alike ({_listed(TIMED_ON)}), so their seconds do not "
            "compare them.\n\n"
        )
    if len(correlations):
        most = correlations[correlations == correlations.max()]
        others = ", ".join(
            f"{NAMES[cost]} {value:.2f}"
            for cost, value in correlations.sort_values(ascending=False).items()
            if cost not in most
        )
        cells = costs.dropna(subset="seconds")["cell"].nunique()
        names = _listed(NAMES[cost] for cost in most.index)
        says = "run time goes most with" if most.iloc[0] > 0 else "the least against run time goes"
        text = (
            f"Over the {_count(cells, 'cell')}, {says} {names} "
            f"(rank correlation {most.iloc[0]:.2f}){f'; {others}' if others else ''}."
            " That describes these cells and tests nothing: cells of one network share most of "
            "the five costs.\n\n"
        )
    wide = phases.pivot(index="cell", columns="phase", values="seconds")
    wide = wide.loc[phases["cell"].unique(), phases["phase"].unique()]
    rows = [("seconds an epoch", *wide.columns)]
    rows += [(cell, *(f"{value:.3g}" for value in values)) for cell, *values in wide.itertuples()]
    return (
        f"{text}{_table(rows, 'right')}\n\n![Run time against costs](../plots/costs.png)\n"
        "![What an epoch's time goes into](../plots/phases.png)"
    )


def _calibration(table):
    errors = table.set_index("cell")["calibration_error"].dropna()
    if errors.empty:
        return ""
    best, worst = errors.idxmin(), errors.idxmax()
    text = f"The expected calibration error is {100 * errors[best]:.1f} points ({best})"
    if best != worst:
        text += f" to {100 * errors[worst]:.1f} ({worst})"
    return f"{text}.\n\n![Reliability](../plots/reliability.png)"


def _hardest(wrong):
    if wrong.empty:
        return "No finished run got a validation image wrong at its best epoch."
    always = wrong[wrong["wrong"] == wrong["runs"]]
    text = f"{_count(len(always), 'image')} every run got wrong. " if len(always) else ""
    first = wrong.iloc[0]
    return (
        f"{text}The hardest is {first['image']}: {first['wrong']} of "
        f"{_count(first['runs'], 'run')} got it wrong.\n\n"
        "![The photographs that most runs get wrong](../plots/gallery.png)"
    )


def _limits(results, table, near_duplicates):
    counts = results.counts
    classes = ", ".join(
        f"{count:,} {key.removeprefix('val_')}"
        for key, count in counts.items()
        if key.startswith("val_")
    )
    text = (
        f"There are {counts['val']:,} validation images ({classes}), so that one image is worth "
        f"{100 / counts['val']:.2f} points of one run's accuracy."
    )
    if counts["in_both_splits"]:
        text += (
            f" {_count(counts['in_both_splits'], 'validation image')} can be found among the "
            "training images, byte for byte."
        )
    if near_duplicates is None:
        return (
            f"{text} Whether some stand nearly so among the training images was not looked into: "
            "that takes features from pretrained weights."
        )
    change = (
        100 * (table["accuracy_without_near_duplicates"] - table["best_val_accuracy_mean"]).dropna()
    )
    text += (
        f" The {_count(len(near_duplicates), 'validation image')} most like a training image (cosine of "
        f"their features {near_duplicates['similarity'].min():.2f} to {near_duplicates['similarity'].max():.2f}) might "
        "be its near-duplicates, and easy for that."
    )
    if len(change):
        text += f" Without them the cells' accuracies change by {_between(change, '+.1f')} points:"
    cells = [("cell", "best epoch, %", "without near-duplicates, %")]
    for row in table.itertuples():
        figures = (row.best_val_accuracy_mean, row.accuracy_without_near_duplicates)
        cells.append((row.cell, *(_figure(figure, ".1%") for figure in figures)))
    pairs = [("validation image", "most like the training image", "cosine")]
    pairs += [(row.val, row.train, f"{row.similarity:.2f}") for row in near_duplicates.itertuples()]
    return f"{text}\n\n{_table(cells, 'right')}\n\n{_table(pairs, 'left')}"


def _provenance(results):
    timing = list(results.timing.values())
    said = "; ".join(f"{key} {_listed(_every(timing, key))}" for key in MADE_BY)
    cores, devices, workers, revisions = (
        _every(timing, key) for key in ("cores", "device", "workers", "revision")
    )
    text = (
        f"By `dvc repro`, with the `params.yaml` of the folder above; {said}. Trained on "
        f"{_listed(_every(timing, 'processor'))} (cores: {_listed(cores)}; device: "
        f"{_listed(devices)}; runs side by side, at the most: {_listed(workers)})"
    )
    if revisions:
        text += f", at revision {_listed(revision[:12] for revision in revisions)}"
        dirty = _every(timing, "dirty")
        text += " with changes" * ("True" in dirty) + " in part" * (len(dirty) > 1)
    digests = results.figures.filter(regex="_digest$").map(lambda digest: str(digest)[:12])
    rows = [("digest of", *(name.removesuffix("_digest") for name in digests))]
    rows += [(cell, *of_cell.replace("nan", "–")) for cell, of_cell in digests.iterrows()]
    return (
        f"{text}. What each cell was made from (SHA-256, its beginning):\n\n{_table(rows, 'left')}"
    )


def _every(timing, key):
    """Return all values of a key as texts, sorted; a cell has several if its runs differ."""
    values = [of_cell[key] for of_cell in timing]
    flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
    return sorted({str(one) for one in flat} - {"None"})


def _table(rows, justify):
    """Return a table in Markdown; the first column is to the left in any case."""
    headings, *rows = [[str(entry).replace("|", "\\|") for entry in row] for row in rows]
    line = "---:" if justify == "right" else "---"
    rows = [headings, ["---", *[line] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _listed(words):
    """Join words as prose does: ``a, b and c``."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _count(number, noun):
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _between(values, form=".1f"):
    """Return the range of values in words."""
    low, high = (format(value, form.replace(".", "z.")) for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"
