"""The probe: logistic regression on features, its penalty chosen by cross-validation."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize, special
from threadpoolctl import threadpool_limits

from headswap.images.folds import folds
from headswap.io import write_tensors
from headswap.params import Cell, Params
from headswap.progress import OnProgress
from headswap.runs.store import TRAINED, index_of_run, read_features

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

GRID = [float(C) for C in np.geomspace(1e-4, 1e3, 15)]
FOLDS = 5
PATIENCE = 2
"""The search for C ends after so many values in a row without a new lowest log loss."""


class Step(NamedTuple):
    """One value of C, judged by the images that the folds hold out."""

    C: float
    log_loss: float
    accuracy: float


@dataclass(frozen=True)
class ProbeFit:
    """A head for features as the backbone returns them, and how its penalty was chosen."""

    weight: NDArray[np.float32]
    """Shape (classes, features)."""
    bias: NDArray[np.float32]
    C: float
    """As scikit-learn's, for features that are centred and have a mean squared norm of 1."""
    path: list[Step]
    """Empty if no image could be held out whose class others show; C is then 1."""

    @property
    def at_end_of_grid(self) -> bool:
        """Return whether a C beyond the grid might have been better."""
        return self.C in (GRID[0], GRID[-1])


def train_probe(
    cell: Cell, params: Params, seed: int, folder: Path, on_progress: OnProgress
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Fit a head to features; return what ``run.json`` says of it, and the seconds it took.

    Written are the head and, twice, the probabilities of the validation images: the best and the
    last epoch of a probe are the same.
    """
    start, wall = time.process_time(), time.perf_counter()
    features, index, metadata = read_features(cell.model)
    backbone, index = metadata["backbone"], index_of_run(index, cell, params, seed)
    train, val = (features[[row.split == split for row in index.rows]] for split in index.names)
    labels = np.array(index.labels("train"))
    fit = fit_probe(train, labels, len(index.classes), seed, index.groups("train"))
    fitted = time.process_time()
    probabilities = special.softmax(val @ fit.weight.T + fit.bias, axis=1)
    correct = probabilities.argmax(axis=1) == index.labels("val")
    accuracy = float(correct.mean()) if len(correct) else None
    write_tensors(folder / TRAINED, {"weight": fit.weight, "bias": fit.bias})
    write_tensors(
        folder / "probabilities.safetensors", {"best": probabilities, "last": probabilities}
    )
    warning = f"C = {fit.C:g} is at an end of what is tried; one beyond may be better"
    warning *= fit.at_end_of_grid
    on_progress(1, None if accuracy is None else {"validation accuracy": accuracy}, note=warning)
    trained = fit.weight.size + fit.bias.size
    record: dict[str, Any] = {
        "recipe": {
            "C": fit.C,
            "warning": warning or None,
            "tried": [step._asdict() for step in fit.path],
        },
        "complexity": {
            "trainable_parameters": trained,
            "parameters": backbone["parameters"] + trained,
            "gmacs": round(backbone["gmacs"] + fit.weight.size / 1e9, 6),
            "depth": backbone["depth"] + 1,
        },
        "diverged": None,
        **dict.fromkeys(("best", "last"), {"epoch": 0, "accuracy": accuracy}),
        "curves": [],
    }
    seconds = {"checkpoint": 0.0, "train": fitted - start, "val": time.process_time() - fitted}
    return record, [{**seconds, "wall": time.perf_counter() - wall}]


def fit_probe(
    features: NDArray[np.float32],
    labels: Integers,
    classes: int,
    seed: int,
    groups: Sequence[str] | None = None,
) -> ProbeFit:
    """Fit a head, with the C whose log loss on held-out images is lowest.

    `features` has shape (images, features). `seed` deals the folds; `groups` are as in `folds`. The
    result is the same to the byte on any number of cores.
    """
    with threadpool_limits(1):
        scores, mean, basis = _principal_components(features)
        path = _search(scores, labels, classes, folds(labels, FOLDS, seed, groups))
        C = min(path, key=lambda step: step.log_loss).C if path else 1.0
        start = np.zeros((classes, scores.shape[1] + 1))
        head = _minimize(scores, labels, C, start, tolerance=1e-8)
        weight = (head[:, :-1] @ basis.T).astype(np.float32)
        bias = (head[:, -1] - weight @ mean).astype(np.float32)
    return ProbeFit(weight, bias, C, path)


def _principal_components(features: NDArray[np.float32]) -> tuple[Floats, Floats, Floats]:
    """Return scores of mean squared norm 1, and mean and basis: (features - mean) @ basis = scores.

    There are no more columns than images. The penalty is the same for them as for all features,
    since it does not change under rotation.
    """
    centred = features.astype(np.float64, order="C")
    mean = centred.mean(axis=0)
    centred -= mean
    scale = np.linalg.norm(centred) / math.sqrt(len(centred)) or 1.0
    centred /= scale
    wide = len(centred) <= centred.shape[1]
    values, vectors = linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    kept = values > 1e-12 * values[-1]
    basis = vectors[:, kept]
    if wide:
        basis = centred.T @ basis / np.sqrt(values[kept])
    return centred @ basis, mean, basis / scale


def _search(scores: Floats, labels: Integers, classes: int, fold_of_image: Integers) -> list[Step]:
    """Judge each C from the smallest on, until `PATIENCE` in a row are worse than the best."""
    every = np.arange(len(labels))
    parts = [(every[fold_of_image != fold], every[fold_of_image == fold]) for fold in range(FOLDS)]
    # Only folds that test a class that they train on say something about C.
    parts = [(train, test) for train, test in parts if np.isin(labels[test], labels[train]).any()]
    last = heads = np.zeros((len(parts), classes, scores.shape[1] + 1))
    path: list[Step] = []
    for C in GRID if parts else ():
        last, heads = heads, 2 * heads - last  # start where the heads of the last two C point to
        losses, correct = [], []
        for number, (train, test) in enumerate(parts):
            start = heads[number]
            heads[number] = _minimize(scores[train], labels[train], C, start, tolerance=1e-5)
            log_proba = _log_proba(scores[test], heads[number])
            # How well an absent class is guessed says nothing about C: take its expected share.
            unseen = ~np.isin(labels[test], labels[train])
            loss = -log_proba[np.arange(len(test)), labels[test]]
            losses.append(np.where(unseen, math.log(len(train) + classes), loss))
            correct.append(log_proba.argmax(axis=1) == labels[test])
        means = (float(np.concatenate(values).mean()) for values in (losses, correct))
        path.append(Step(C, *means))
        best = min(path, key=lambda step: step.log_loss)
        if len(path) - 1 - path.index(best) == PATIENCE:
            break
    return path


def _minimize(
    scores: Floats, labels: Integers, C: float, start: Floats, tolerance: float
) -> Floats:
    """Return weights and bias, shape (classes, features + 1), of the least penalised log loss.

    The objective is scikit-learn's: the sum of the log losses, times C, plus half the squared norm
    of the weights. L-BFGS needs a fifth of the steps if each parameter is measured in units of its
    curvature, which for principal components is known approximately.
    """
    classes, (images, features) = len(start), scores.shape
    targets = np.eye(classes)[labels]
    absent = ~targets.any(axis=0)
    # Laplace's rule of succession: an absent class may be any image's as if it were seen once.
    targets *= 1 - absent.sum() / (images + classes)
    targets[:, absent] = 1 / (images + classes)
    penalty = np.append(np.full(features, 1 / (C * images)), 0)
    share = targets.mean(axis=0)
    curvature = np.outer(share * (1 - share), np.append(np.square(scores).mean(axis=0), 1))
    unit = 1 / np.sqrt(curvature + penalty)

    def objective(parameters: Floats) -> tuple[float, Floats]:
        head = parameters.reshape(start.shape) * unit
        log_proba = _log_proba(scores, head)
        loss = (penalty * np.square(head)).sum() / 2 - (targets * log_proba).sum() / images
        errors = (np.exp(log_proba) - targets) / images
        gradient = np.column_stack([errors.T @ scores, errors.sum(axis=0)]) + penalty * head
        return loss, (gradient * unit).ravel()

    options = {"gtol": tolerance, "ftol": 1e-15}
    x0 = (start / unit).ravel()
    found = optimize.minimize(objective, x0, jac=True, method="L-BFGS-B", options=options)
    return found.x.reshape(start.shape) * unit


def _log_proba(scores: Floats, head: Floats) -> Floats:
    return special.log_softmax(scores @ head[:, :-1].T + head[:, -1], axis=1)
