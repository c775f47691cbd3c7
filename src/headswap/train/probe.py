"""The probe: logistic regression on features, its penalty chosen by cross-validation."""

import math
from collections.abc import Sequence
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
from headswap.runs import store
from headswap.train.devices import Stopwatch

Features = NDArray[np.float32]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Groups = Sequence[str] | None
GRID = np.geomspace(1e-4, 1e3, 15).tolist()
FOLDS = 5
PATIENCE = 2  # so many C in a row without a new lowest log loss end the search


class Step(NamedTuple):
    """One value of C, judged by the images that the folds hold out."""

    C: float
    log_loss: float
    accuracy: float


class ProbeFit(NamedTuple):
    """A head for features as the backbone returns them, and how its penalty was chosen."""

    weight: Features  # shape (classes, features)
    bias: Features
    C: float  # scikit-learn's, for features that are centred and have a mean squared norm of 1
    path: list[Step]  # empty, and C 1, if no image could be held out whose class others show


def train_probe(
    cell: Cell, params: Params, seed: int, folder: Path, on_progress: OnProgress
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Fit a head and write it; return what ``run.json`` says of it, and the seconds it took."""
    stopwatch = Stopwatch("cpu")
    features, index, metadata = store.read_features(cell.model)
    index = store.index_of_run(index, cell, params, seed)
    train, val = (features[[row.split == split for row in index.rows]] for split in index.names)
    labels = np.array(index.labels("train"))
    fit = fit_probe(train, labels, len(index.classes), seed, index.groups("train"))
    seconds = {"checkpoint": 0.0, "train": stopwatch.lap()}
    probabilities = special.softmax(val @ fit.weight.T + fit.bias, axis=1)
    correct = probabilities.argmax(axis=1) == index.labels("val")
    accuracy = float(correct.mean()) if len(correct) else None
    both = dict.fromkeys(("best", "last"), probabilities)  # the epochs: the same of a probe
    write_tensors(folder / store.TRAINED, {"weight": fit.weight, "bias": fit.bias})
    write_tensors(folder / "probabilities.safetensors", both)
    warning = f"C = {fit.C:g} is at an end of what is tried; one beyond may be better"
    warning *= fit.C in (GRID[0], GRID[-1])
    on_progress(1, {"validation accuracy": accuracy} if len(correct) else None, note=warning)
    tried = [step._asdict() for step in fit.path]
    trained, backbone = fit.weight.size + fit.bias.size, metadata["backbone"]
    complexity = {
        "trainable_parameters": trained,
        "parameters": backbone["parameters"] + trained,
        "gmacs": round(backbone["gmacs"] + fit.weight.size / 1e9, 6),
        "depth": backbone["depth"] + 1,
    }
    record: dict[str, Any] = {"recipe": {"C": fit.C, "warning": warning or None, "tried": tried}}
    record |= {"complexity": complexity, "diverged": None}
    record |= {**dict.fromkeys(both, {"epoch": 0, "accuracy": accuracy}), "curves": []}
    return record, [{**seconds, "val": stopwatch.lap(), "wall": stopwatch.wall_lap()}]


def fit_probe(
    features: Features, labels: Integers, classes: int, seed: int, groups: Groups = None
) -> ProbeFit:
    """Fit a head to features (images, features), with the C of the lowest held-out log loss."""
    with threadpool_limits(1):  # the same bytes on any number of cores
        scores, mean, basis = _principal_components(features)
        path = _search(scores, labels, classes, folds(labels, FOLDS, seed, groups))
        C = min(path, key=lambda step: step.log_loss).C if path else 1.0
        head = _minimize(scores, labels, C, np.zeros((classes, scores.shape[1] + 1)), 1e-8)
        weight = (head[:, :-1] @ basis.T).astype(np.float32)
        bias = (head[:, -1] - weight @ mean).astype(np.float32)
    return ProbeFit(weight, bias, C, path)


def _principal_components(features: Features) -> tuple[Floats, Floats, Floats]:
    """Return scores of mean squared norm 1, and mean and basis: (features - mean) @ basis = scores.

    That changes no penalty; scores have no more columns than images.
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
    parts = [(np.flatnonzero(fold_of_image != f), fold_of_image == f) for f in range(FOLDS)]
    # Only folds that test a class that they train on say something about C.
    parts = [(train, test) for train, test in parts if np.isin(labels[test], labels[train]).any()]
    last = heads = np.zeros((len(parts), classes, scores.shape[1] + 1))
    path: list[Step] = []
    for C in GRID if parts else ():
        last, heads = heads, 2 * heads - last  # start where the heads of the last two C point to
        losses, correct = [], []
        for number, (train, test) in enumerate(parts):
            heads[number] = _minimize(scores[train], labels[train], C, heads[number], 1e-5)
            log_proba, truth = _log_proba(scores[test], heads[number]), labels[test]
            # How well an absent class is guessed says nothing about C: take its expected share.
            unseen = ~np.isin(truth, labels[train])
            loss = -log_proba[np.arange(len(truth)), truth]
            losses.append(np.where(unseen, math.log(len(train) + classes), loss))
            correct.append(log_proba.argmax(axis=1) == truth)
        means = (float(np.concatenate(values).mean()) for values in (losses, correct))
        path.append(Step(C, *means))
        best = min(range(len(path)), key=lambda place: path[place].log_loss)
        if len(path) - 1 - best == PATIENCE:
            break
    return path


def _minimize(scores: Floats, labels: Integers, C: float, start: Floats, tol: float) -> Floats:
    """Return weights and bias, shape (classes, features + 1), of the least objective.

    It is scikit-learn's: the log losses' sum, times C, plus half the weights' squared norm.
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
    unit = 1 / np.sqrt(curvature + penalty)  # in it L-BFGS needs a fifth of the steps

    def objective(parameters: Floats) -> tuple[float, Floats]:
        head = parameters.reshape(start.shape) * unit
        log_proba = _log_proba(scores, head)
        loss = (penalty * np.square(head)).sum() / 2 - (targets * log_proba).sum() / images
        errors = (np.exp(log_proba) - targets) / images
        gradient = np.column_stack([errors.T @ scores, errors.sum(axis=0)]) + penalty * head
        return loss, (gradient * unit).ravel()

    options, x0 = {"gtol": tol, "ftol": 1e-15}, (start / unit).ravel()
    found = optimize.minimize(objective, x0, jac=True, method="L-BFGS-B", options=options)
    return found.x.reshape(start.shape) * unit


def _log_proba(scores: Floats, head: Floats) -> Floats:
    return special.log_softmax(scores @ head[:, :-1].T + head[:, -1], axis=1)
