"""A cell: its runs, side by side, and its five outputs, made from the finished ones.

The runs need torch and import it in processes of their own (`runs`); this one does without.
"""

import shutil
from pathlib import Path

import numpy as np

from headswap.images.folders import classes_in, images_by_split
from headswap.io import atomic_write, read_json, read_tensors, write_csv, write_json
from headswap.paths import EMBEDDINGS, RUNS
from headswap.train.workers import Job, only_one, side_by_side

MODELS = Path("models")
METRICS = Path("metrics/cells")
TIMING = Path("metrics/timing")
CURVES = Path("plots/curves")
PREDICTIONS = Path("plots/predictions")


def train_cell(cell, params, on_progress):
    """Train the runs of a cell that are not finished yet, side by side; write what all found.

    Parameters
    ----------
    cell : params.Cell
        Its seeds are those of its parameters.
    tell : callable
        Called with a run's name and a dict after each of its epochs.

    Raises
    ------
    UserError
        If the cell is being trained already, or a run fails. Nothing is written then; the
        finished epochs of every run are kept.
    """
    with only_one(RUNS / cell.name / "lock"):
        jobs = [
            Job(f"{cell.name} seed {seed}", "headswap.train.run.train_run", (cell, params, seed))
            for seed in sorted(params.seeds)
        ]
        write(cell, params, side_by_side(jobs, on_progress))


def write(cell, params, folders):
    """Write a cell's five outputs.

    Parameters
    ----------
    cell : params.Cell
        Whose runs they are.
    folders : list of pathlib.Path
        Of its finished runs, as `runs.finish` leaves them.
    """
    runs = [read_json(folder / "run.json") for folder in folders]
    classes, names = _images(cell)
    labels = np.array([classes.index(name.split("/")[1]) for name in names["val"]])
    probabilities = [_probabilities(folder) for folder in folders]
    write_json(METRICS / f"{cell.name}.json", _metrics(runs, probabilities, labels))
    write_json(TIMING / f"{cell.name}.json", _timing(params, len(names["train"]), folders, runs))
    write_csv(
        CURVES / f"{cell.name}.csv",
        ["seed", "epoch", "split", "loss", "accuracy"],
        [[run["seed"], *point] for run in runs for point in run["curves"]],
    )
    write_csv(
        PREDICTIONS / f"{cell.name}.csv",
        ["seed", "epoch", "which", "image", "label", "predicted"]
        + [f"p_{name}" for name in classes],
        _predictions(classes, names["val"], runs, probabilities, labels),
    )
    _keep_weights(cell, folders, runs)


def _images(cell):
    """Return the classes, sorted, and the paths of each split's images, sorted."""
    if cell.mode == "probe":
        _, metadata = read_tensors(EMBEDDINGS / f"{cell.model}.safetensors", only=())
        return metadata["classes"], metadata["names"]
    return classes_in(), images_by_split()


def _probabilities(folder):
    """Return a run's probabilities at its best and last epoch, none if it diverged at once."""
    path = folder / "probabilities.safetensors"
    if not path.exists():
        return {}
    return read_tensors(path)[0]


def _metrics(runs, probabilities, labels):
    """Return what was counted and measured; intervals are the comparison's alone."""
    finished = [number for number, run in enumerate(runs) if run["diverged"] is None]
    accuracies = {
        which: [(probabilities[number][which].argmax(1) == labels).mean() for number in finished]
        for which in ("best", "last")
    }
    means = {
        "best_val_accuracy_mean": accuracies["best"],
        "last_val_accuracy_mean": accuracies["last"],
        "best_epoch_mean": [runs[number]["best"]["epoch"] for number in finished],
        "val_loss_last_mean": [runs[number]["curves"][-1][2] for number in finished],
    }
    return {
        **{key: _rounded(np.mean(values)) if finished else None for key, values in means.items()},
        **runs[0]["costs"],
        "seeds": len(runs),
        "diverged": len(runs) - len(finished),
        **{f"{name}_digest": of_input for name, of_input in runs[0]["inputs"].items()},
    }


def _timing(params, images, folders, runs):
    """Return what the clocks said of the runs that did not diverge, and what they ran on.

    Runs of one cell may come from several machines or revisions: then all are listed.
    """
    kept = [read_json(folder / "timing.json") for folder in folders]
    whole = [of["epochs"] for of, run in zip(kept, runs, strict=True) if run["diverged"] is None]
    seconds = [sum(sum(epoch.values()) for epoch in epochs) for epochs in whole]
    timing = {"seconds_per_run": [round(of_run, 3) for of_run in seconds]}
    if whole:
        epochs = sum(whole, [])
        phases = {phase: np.mean([epoch[phase] for epoch in epochs]) for phase in epochs[0]}
        training = sum(phases.values()) - phases["val"] - phases["checkpoint"]
        timing |= {
            "seconds_per_run_mean": round(np.mean(seconds), 3),
            "seconds_per_epoch_mean": round(sum(phases.values()), 4),
            **{f"{phase}_seconds_per_epoch_mean": round(phases[phase], 4) for phase in phases},
            "train_images_per_second": round(images / training, 2),
        }
    for key in kept[0].keys() - {"epochs"}:
        values = list(dict.fromkeys(of[key] for of in kept))
        timing[key] = values[0] if len(values) == 1 else values
    return {**timing, "precision": params.precision}


def _predictions(classes, images, runs, probabilities, labels):
    for run, of_run in zip(runs, probabilities, strict=True):
        for which in ("best", "last") if run["diverged"] is None else ():
            rows = zip(images, labels, of_run[which], strict=True)
            for image, label, shares in rows:
                yield [
                    run["seed"],
                    run[which]["epoch"],
                    which,
                    image.removeprefix("val/"),
                    classes[label],
                    classes[shares.argmax()],
                    *(f"{share:.6g}" for share in shares),
                ]


def _keep_weights(cell, folders, runs):
    """Write ``models/<cell>/``: a record of each run, and the weights worth keeping.

    Of `frozen` and `probe` every run's head (and buffers), which give its predictions again
    together with the backbone; of `finetune` the best run's network.
    """
    with atomic_write(MODELS / cell.name) as target:
        target.mkdir()
        for folder, run in zip(folders, runs, strict=True):
            write_json(target / f"run-{run['seed']}.json", run)
            if cell.mode != "finetune":
                for which in ("best", "last"):
                    if (folder / f"{which}.safetensors").exists():
                        name = f"run-{run['seed']}-{which}.safetensors"
                        shutil.copyfile(folder / f"{which}.safetensors", target / name)
        ranked = [number for number, run in enumerate(runs) if run["diverged"] is None]
        if cell.mode == "finetune" and ranked:
            best = max(ranked, key=lambda number: runs[number]["best"]["accuracy"])
            shutil.copyfile(folders[best] / "best.safetensors", target / "best.safetensors")


def _rounded(value):
    return round(float(value), 6)
