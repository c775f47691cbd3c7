"""The evaluation of one network on photographs whose classes are known."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from rich.table import Table

from headswap.compare.intervals import Estimate, estimate_accuracy, estimate_balanced_accuracy
from headswap.compare.plot_rows import MODE_COLOURS, confusions
from headswap.compare.plots import draw_png
from headswap.compare.results import design_of
from headswap.compare.variance import Array, Design
from headswap.io import atomic_write, write_csv, write_json
from headswap.progress import console

MOST_CLASSES = 8
"""Columns of a confusion matrix that fit a terminal; of more, the confused pairs are listed."""


def report(
    predictions: pd.DataFrame,
    cell: str,
    *,
    csv: Path | None = None,
    json: Path | None = None,
    picture: Path | None = None,
) -> None:
    """Print how good predictions are (see `evaluate_predictions`), and write what is named."""
    figures = evaluate_predictions(predictions)
    print_evaluation(figures, predictions)
    if csv:
        write_csv(csv, predictions.columns, predictions.round(6).itertuples(index=False))
    if json:
        write_json(json, {"cell": cell, **figures})
    if picture:
        with atomic_write(picture) as temporary:
            temporary.write_bytes(_draw_confusion(predictions, cell))


def evaluate_predictions(predictions: pd.DataFrame) -> dict[str, Any]:
    """Return the figures of predictions with columns ``label``, ``predicted`` and ``group``.

    Intervals are 95 %, for other images; of groups (empty: alone) where there are any.
    """
    correct = (predictions["label"] == predictions["predicted"]).to_numpy(float)[None]
    labels = predictions["label"].to_numpy()
    design = design_of(predictions["group"])
    recalls = {
        str(label): _figures(
            estimate_accuracy_if_possible(correct[:, labels == label], design.only(labels == label))
        )
        | {"images": int((labels == label).sum())}
        for label in np.unique(labels)
    }
    wrong = predictions[predictions["label"] != predictions["predicted"]]
    pairs = wrong.groupby(["label", "predicted"]).size().sort_values(ascending=False, kind="stable")
    return {
        "images": len(predictions),
        "accuracy": _figures(estimate_accuracy_if_possible(correct, design)),
        "balanced_accuracy": _figures(estimate_balanced_accuracy(correct, labels, design=design)),
        "recalls": recalls,
        "confusion": [
            {"label": label, "predicted": predicted, "images": int(images)}
            for (label, predicted), images in pairs.items()
        ],
    }


def estimate_accuracy_if_possible(
    correct: ArrayLike, design: Design, prior: Array | None = None
) -> Estimate:
    """Return the accuracy, shape (replicates, images); of a single image or group, no interval."""
    values = np.asarray(correct, float)
    if design.units(values.shape[1]) < 2:
        return Estimate(float(values.mean()), np.nan, np.nan)
    return estimate_accuracy(values, prior, design)


def _figures(estimate: Estimate) -> dict[str, float | None]:
    values = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {key: None if np.isnan(value) else round(value, 6) for key, value in values.items()}


def print_evaluation(figures: Mapping[str, Any], predictions: pd.DataFrame) -> None:
    """Print the figures of `evaluate_predictions`, and the confusion matrix."""
    for name in ("accuracy", "balanced_accuracy"):
        console.print(f"{name.replace('_', ' ')}: {_text(figures[name])}")
    table = Table(box=None, pad_edge=False)
    predicted = sorted(set(predictions["predicted"]) | set(predictions["label"]))
    columns = predicted if len(predicted) <= MOST_CLASSES else []
    for heading in ("class", "images", "recall (95 % interval)"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for heading in columns:
        table.add_column(f"as {heading}", justify="right")
    counts = pd.crosstab(predictions["label"], predictions["predicted"])
    for label, recall in figures["recalls"].items():
        confused = [str(counts.loc[label].get(name, 0)) for name in columns]
        table.add_row(label, str(recall["images"]), _text(recall), *confused)
    console.print(table)
    if not columns:
        for pair in figures["confusion"][:MOST_CLASSES]:
            console.print(f"{pair['images']} of {pair['label']} as {pair['predicted']}")


def _text(figure: Mapping[str, float | None]) -> str:
    value, low, high = (figure[key] for key in ("value", "low", "high"))
    interval = "" if low is None else f" ({low:.1%} to {high:.1%})"
    return f"{value:.1%}{interval}"


def _draw_confusion(predictions: pd.DataFrame, cell: str) -> bytes:
    correct = predictions["label"] == predictions["predicted"]
    rows = confusions(predictions.assign(cell=cell, seed=0, correct=correct))
    return draw_png("confusion", rows.assign(heading=cell, colour=MODE_COLOURS["finetune"]))
