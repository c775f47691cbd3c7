"""Classify photographs with trained networks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from headswap.errors import UserError, bulleted, printable
from headswap.io import write_csv, write_json
from headswap.predict.extras import require
from headswap.predict.folders import Seeds, describe, read_record
from headswap.predict.model import Classifier, load_model
from headswap.train.dataset import EVALUATION_BATCH
from headswap.train.devices import resolve_device

COLUMNS = ("path", "rank", "class", "probability")


def classify(
    folder: Path,
    paths: Sequence[Path],
    *,
    seeds: Seeds = "kept",
    top: int = 1,
    csv: Path | None = None,
    json: Path | None = None,
    explain: Path | None = None,
) -> None:
    """Classify photographs; print their classes, write them to files, and draw explanations.

    Of each photograph the `top` most probable classes are given. `csv` and `json` are files to
    write, with `COLUMNS` for each photograph and class; `explain` is a folder for pictures (see
    `explain.write_explanations`). A UserError at the end names the photographs that could not be
    read.
    """
    if explain:
        require("captum")
    networks = load_networks(folder, seeds)
    stderr = Console(stderr=True, highlight=False)
    accuracy = describe(folder, networks[0].record, seeds)
    stderr.print(accuracy, markup=False, soft_wrap=not stderr.is_terminal)
    unreadable: list[str] = []
    predictions = predict(networks, paths, unreadable.append)
    found = dict(_with_progress(predictions, len(paths), "photographs"))
    rows = []
    for path, probabilities in found.items():
        ranked = rank(networks[0].classes, probabilities)[:top]
        print(f"{printable(path)}: {', '.join(f'{name} {share:.1%}' for name, share in ranked)}")
        encodable = str(path).encode(errors="backslashreplace").decode()
        rows += [(encodable, place, *of_class) for place, of_class in enumerate(ranked, 1)]
    if csv:
        write_csv(csv, COLUMNS, rows)
    if json:
        write_json(json, [dict(zip(COLUMNS, row, strict=True)) for row in rows])
    if explain:
        from headswap.predict.explain import write_explanations

        pictures = write_explanations(networks, found, explain)
        written = list(_with_progress(pictures, len(found), "explanations"))
        print(f"Explanations in {explain}: {len(written)}.")
    if unreadable:
        raise UserError(
            f"{len(unreadable)} of {len(paths)} files could not be read:\n{bulleted(unreadable)}\n"
            "Replace them by images, or leave them out."
        )


def load_networks(folder: Path, seeds: Seeds) -> list[Classifier]:
    """Load the runs of a model folder."""
    if seeds == "kept":
        return [load_model(folder)]
    finished = [run for run in read_record(folder)["runs"] if run["diverged"] is None]
    if lacking := [str(run["seed"]) for run in finished if not run["weights"]]:
        raise UserError(
            f"{folder} does not have the weights of seed {', '.join(lacking)}: where the whole "
            "network is trained, only those of the first seed are kept.\nLeave out --seeds all."
        )
    return [load_model(folder, run["seed"]) for run in finished]


def predict(
    networks: Sequence[Classifier],
    paths: Sequence[Path],
    on_unreadable: Callable[[str], None],
) -> Iterator[tuple[Path, torch.Tensor]]:
    """Yield each photograph with the probabilities of its classes: float32, shape (classes,).

    They are averaged over runs of one cell. The next batch is read while one is computed.
    `on_unreadable` is called with the name of each photograph that cannot be read, and why.
    """
    device = resolve_device("auto")
    batches = [paths[i : i + EVALUATION_BATCH] for i in range(0, len(paths), EVALUATION_BATCH)]
    with ThreadPoolExecutor() as pool:
        reading = ({path: pool.submit(networks[0].crop, path) for path in b} for b in batches)
        current = next(reading, {})
        for following in chain(reading, [{}]):
            if crops := _readable(current, on_unreadable):
                inputs = networks[0].normalize(list(crops.values())).to(device)
                outputs = [network.to(device)(inputs).softmax(1) for network in networks]
                yield from zip(crops, torch.stack(outputs).mean(0).cpu(), strict=True)
            current = following


def rank(classes: Sequence[str], probabilities: torch.Tensor) -> list[tuple[str, float]]:
    """Return classes with their probabilities to six digits, the most probable first."""
    values, indices = probabilities.sort(descending=True, stable=True)
    names = [classes[index] for index in indices.tolist()]
    return [(name, float(f"{v:.6g}")) for name, v in zip(names, values.tolist(), strict=True)]


def _readable(
    crops: dict[Path, "Future[torch.Tensor]"], on_unreadable: Callable[[str], None]
) -> dict[Path, torch.Tensor]:
    """Return the crops that could be read."""
    result = {}
    for path, crop in crops.items():
        try:
            result[path] = crop.result()
        except (OSError, ValueError, UserError) as error:
            why = getattr(error, "why", None) or getattr(error.__cause__, "strerror", None)
            on_unreadable(f"{printable(path)}: {why or str(error).splitlines()[0]}")
    return result


def _with_progress(steps: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    """Show the progress of many steps on the terminal, never in the output itself."""
    console = Console(stderr=True)
    return track(
        steps, what, total, console=console, transient=True, disable=not console.is_terminal
    )
