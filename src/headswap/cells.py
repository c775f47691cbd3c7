"""A cell's five outputs, made from its finished runs."""

import shutil
from pathlib import Path

import numpy as np

from . import networks, weights
from .files import read_json, replacing, write_csv, write_json
from .provenance import machine, versions
from .runs import RUNS, replicate
from .statistics import accuracy
from .training import PHASES
from .workers import only_one

MODELS = Path("models")
METRICS = Path("metrics/cells")
TIMING = Path("metrics/timing")
CURVES = Path("plots/curves")
PREDICTIONS = Path("plots/predictions")


def provide(cell, tell):
    """Train a cell and write what it found.

    Parameters
    ----------
    cell : runs.Cell
        What to train.
    tell : callable
        Called with a run's name and a dict after each of its epochs.

    Raises
    ------
    Problem
        If the cell is being trained already, or a run fails. Nothing is written then.
    """
    with only_one(RUNS / cell.name / "lock"):
        folders = replicate(cell, tell)
        runs = [read_json(folder / "run.json") for folder in folders]
        feed = cell.feed()
        labels = feed.labels["val"].numpy()
        probabilities = [_probabilities(folder) for folder in folders]
        write_json(METRICS / f"{cell.name}.json", _metrics(cell, feed, runs, probabilities, labels))
        write_json(TIMING / f"{cell.name}.json", _timing(cell, feed, folders))
        write_csv(
            CURVES / f"{cell.name}.csv",
            ["seed", "epoch", "split", "loss", "accuracy"],
            [[run["seed"], *point] for run in runs for point in run["curves"]],
        )
        write_csv(
            PREDICTIONS / f"{cell.name}.csv",
            ["seed", "epoch", "which", "image", "label", "predicted"]
            + [f"p_{name}" for name in feed.classes],
            _predictions(feed, runs, probabilities, labels),
        )
        _keep_weights(cell, folders, runs)


def _probabilities(folder):
    """Return a run's probabilities at its best and last epoch, none if it diverged at once."""
    path = folder / "probabilities.safetensors"
    if not path.exists():
        return {}
    return {which: tensor.numpy() for which, tensor in weights.load(path)[0].items()}


def _metrics(cell, feed, runs, probabilities, labels):
    finished = [number for number, run in enumerate(runs) if run["diverged"] is None]
    metrics = {}
    for which in ("best", "last"):
        hits = [probabilities[number][which].argmax(1) == labels for number in finished]
        metrics |= _summary(f"{which}_val_accuracy", hits)
    best_epochs = [runs[number]["best"]["epoch"] for number in finished]
    last_losses = [runs[number]["curves"][-1][2] for number in finished]
    return {
        **metrics,
        "best_epoch_mean": _rounded(np.mean(best_epochs)) if finished else None,
        "val_loss_last_mean": _rounded(np.mean(last_losses)) if finished else None,
        **_costs(cell, feed),
        "seeds": len(runs),
        "diverged": len(runs) - len(finished),
    }


def _summary(key, hits):
    """Return mean, spread (of the replicates, None of a single one) and interval of accuracies."""
    if not hits:
        return {f"{key}_{part}": None for part in ("mean", "std", "ci_low", "ci_high")}
    accuracies = np.mean(hits, axis=1)
    estimate = accuracy(hits)
    return {
        f"{key}_mean": _rounded(accuracies.mean()),
        f"{key}_std": _rounded(accuracies.std(ddof=1)) if len(hits) > 1 else None,
        f"{key}_ci_low": _rounded(estimate.low),
        f"{key}_ci_high": _rounded(estimate.high),
    }


def _costs(cell, feed):
    """Return the number of trained parameters, and what `networks.describe` says."""
    network = cell.network(feed, seed=0)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    if cell.mode != "probe":
        costs = networks.describe(network)
    else:
        products = network.in_features * network.out_features
        costs = {
            "parameters": feed.backbone["parameters"] + trained,
            "gmacs": round(feed.backbone["gmacs"] + products / 1e9, 6),
            "activations": feed.backbone["activations"] + network.out_features,
            "depth": feed.backbone["depth"] + 1,
        }
    return {"trainable_parameters": trained, **costs}


def _timing(cell, feed, folders):
    runs = [read_json(folder / "timing.json")["epochs"] for folder in folders]
    seconds = [sum(sum(epoch.values()) for epoch in epochs) for epochs in runs]
    epochs = sum(runs, [])
    phases = {phase: np.mean([epoch[phase] for epoch in epochs]) for phase in PHASES}
    training = sum(phases.values()) - phases["val"]
    return {
        "seconds_per_run": [round(of_run, 3) for of_run in seconds],
        "seconds_per_run_mean": round(np.mean(seconds), 3),
        "seconds_per_epoch_mean": round(sum(phases.values()), 4),
        **{f"{phase}_seconds_per_epoch_mean": round(phases[phase], 4) for phase in PHASES},
        "train_images_per_second": round(len(feed.names["train"]) / training, 2),
        "precision": cell.params.precision,
        **machine(),
        **versions(),
    }


def _predictions(feed, runs, probabilities, labels):
    for run, of_run in zip(runs, probabilities, strict=True):
        for which in ("best", "last") if run["diverged"] is None else ():
            rows = zip(feed.names["val"], labels, of_run[which], strict=True)
            for image, label, shares in rows:
                yield [
                    run["seed"],
                    run[which]["epoch"],
                    which,
                    image.removeprefix("val/"),
                    feed.classes[label],
                    feed.classes[shares.argmax()],
                    *(f"{share:.6g}" for share in shares),
                ]


def _keep_weights(cell, folders, runs):
    """Write ``models/<cell>/``: a record of each run, and the weights worth keeping.

    Of `frozen` and `probe` every run's head (and buffers), which give its predictions again
    together with the backbone; of `finetune` the best run's network.
    """
    with replacing(MODELS / cell.name) as target:
        target.mkdir()
        for folder, run in zip(folders, runs, strict=True):
            write_json(target / f"run-{run['seed']}.json", run)
            if cell.mode != "finetune":
                for which in ("best", "last"):
                    if (folder / f"{which}.safetensors").exists():
                        name = f"run-{run['seed']}-{which}.safetensors"
                        shutil.copyfile(folder / f"{which}.safetensors", target / name)
        ranked = [number for number, run in enumerate(runs) if run["best"]]
        if cell.mode == "finetune" and ranked:
            best = max(ranked, key=lambda number: runs[number]["best"]["accuracy"])
            shutil.copyfile(folders[best] / "best.safetensors", target / "best.safetensors")


def _rounded(value):
    return round(float(value), 6)
