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
from headswap.errors import pluralize
from headswap.io import atomic_write, write_csv, write_json
from headswap.progress import console

MOST_CLASSES = 8  # as many columns fit a terminal; with more, confused pairs are printed


def report(
    predictions: pd.DataFrame, cell: str, csv: Path | None, json: Path | None, picture: Path | None
) -> None:
    """Print how good predictions are (see `evaluate_predictions`), and write what is named."""
    figures = evaluate_predictions(predictions)
    groups = f", in {pluralize(figures['groups'], 'group')}" if figures["groups"] else ""
    console.print(f"photographs: {figures['images']}{groups}")
    for name in ("accuracy", "balanced_accuracy"):
        console.print(f"{name.replace('_', ' ')}: {_text(figures[name])}")
    counts = pd.crosstab(predictions["label"], predictions["predicted"])
    classes = counts.index.union(counts.columns)
    counts = counts.reindex(columns=classes if len(classes) <= MOST_CLASSES else [], fill_value=0)
    table = Table("class", box=None, pad_edge=False)
    for heading in ("images", "recall (95 % interval)", *(f"as {name}" for name in counts)):
        table.add_column(heading, justify="right")
    for label, recall in figures["recalls"].items():
        table.add_row(label, str(recall["images"]), _text(recall), *map(str, counts.loc[label]))
    console.print(table)
    for pair in figures["confusion"][:MOST_CLASSES] if counts.empty else []:
        console.print(f"{pair['images']} of {pair['label']} as {pair['predicted']}")
    if csv:
        write_csv(csv, predictions.columns, predictions.round(6).itertuples(index=False))
    if json:
        write_json(json, {"cell": cell, **figures})
    if picture:
        correct = predictions["label"] == predictions["predicted"]
        rows = confusions(predictions.assign(cell=cell, seed=0, correct=correct))
        rows = rows.assign(heading=cell, colour=MODE_COLOURS["finetune"])
        with atomic_write(picture) as temporary:
            temporary.write_bytes(draw_png("confusion", rows))


def evaluate_predictions(predictions: pd.DataFrame) -> dict[str, Any]:
    """Return the figures of predictions with columns ``label``, ``predicted`` and ``group``.

    Intervals are 95 %, for other images; of groups (empty: alone) where there are any.
    """
    labels, right = predictions["label"], predictions["label"] == predictions["predicted"]
    correct, design = right.to_numpy(float)[None], design_of(predictions["group"])
    recalls = {}
    for label in np.unique(labels):
        of_class = (labels == label).to_numpy()
        recall = estimate_recall(correct[:, of_class], design.only(of_class))
        recalls[label] = _figures(recall) | {"images": int(of_class.sum())}
    pairs = predictions[~right].groupby(["label", "predicted"], as_index=False).size()
    pairs = pairs.sort_values("size", ascending=False, kind="stable")
    return {
        "images": len(predictions),
        "groups": design.units(0),
        "accuracy": _figures(estimate_recall(correct, design)),
        "balanced_accuracy": _figures(estimate_balanced_accuracy(correct, labels, design=design)),
        "recalls": recalls,
        "confusion": pairs.rename(columns={"size": "images"}).to_dict("records"),
    }


def estimate_recall(correct: ArrayLike, design: Design, prior: Array | None = None) -> Estimate:
    """Return the accuracy, shape (replicates, images); of one image or group without interval."""
    values = np.asarray(correct, float)
    if design.units(values.shape[1]) < 2:
        return Estimate(float(values.mean()))
    return estimate_accuracy(values, prior, design)


def _figures(estimate: Estimate) -> dict[str, float | None]:
    figures = pd.Series(estimate[:3], ["value", "low", "high"]).round(6)
    return figures.astype(object).where(figures.notna(), None).to_dict()


def _text(figure: Mapping[str, Any]) -> str:
    interval = "" if figure["low"] is None else " ({low:.1%} to {high:.1%})".format(**figure)
    return f"{figure['value']:.1%}{interval}"
