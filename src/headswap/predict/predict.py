"""Classify photographs with trained networks."""

import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from csv import Error as CsvError
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from headswap.errors import UserError, bulleted, printable
from headswap.io import append_csv, is_stream, read_csv, write_csv, write_json
from headswap.predict.folders import Seeds, describe, read_record, require
from headswap.predict.model import Classifier, load_model
from headswap.runs.workers import worker_count
from headswap.train.dataset import EVALUATION_BATCH
from headswap.train.devices import resolve_device
from headswap.train.speed.memory import keep_freed_memory

COLUMNS = ("path", "rank", "class", "probability")
Row = tuple[str, int, str, float]
"""The values of `COLUMNS`."""


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
    write, with `COLUMNS` for each photograph and class; the former batch by batch, and after the
    rows there if a command like this one was interrupted. `explain` is a folder for pictures. A
    UserError at the end names the photographs that could not be read.
    """
    if explain:
        require("captum")
    networks = load_networks(folder, seeds)
    stderr = Console(stderr=True, highlight=False, markup=False)
    stderr.soft_wrap = not stderr.is_terminal
    stderr.print(describe(folder, networks[0].record, seeds))
    done, rows = 0, list[Row]()
    at_end = csv and is_stream(csv)  # its reader takes the end of the first batch for the end
    if csv and csv.is_file() and not explain:
        done, rows = _rows_there(networks, paths, top, csv)
    with_row = {row[0] for row in rows}
    without = [path for path in paths[:done] if _encodable(path) not in with_row]
    unreadable = [f"{printable(path)}: has no row in {csv}" for path in without]
    if done:
        stderr.print(f"{csv} has the first {done:,} photographs; the others follow.")
    elif csv and not at_end:
        write_csv(csv, COLUMNS, [])
    parent = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    bar = Progress(
        console=stderr,
        transient=True,
        redirect_stdout=False,
        disable=not stderr.is_terminal or sys.stdout.isatty(),
    )
    with bar:
        predictions = predict(networks, paths[done:], unreadable.append)
        total = -(-len(paths[done:]) // EVALUATION_BATCH)
        for found in bar.track(predictions, total, description="photographs"):
            new = _rows(networks, found, top)
            if csv and not at_end:
                append_csv(csv, new)
            if json or at_end:
                rows += new
            if explain:
                from headswap.predict.explain import write_explanation

                for path, probabilities in found.items():
                    picture = explain / f"{path.absolute().relative_to(parent)}.png"
                    write_explanation(networks, path, probabilities, picture)
            if not _print_rows(found, new) and not (csv or json or explain):
                return
    if csv and at_end:
        write_csv(csv, COLUMNS, rows)
    if explain:
        print(f"Explanations in {explain}: {len(paths) - len(unreadable)}.")
    if json:
        write_json(json, [dict(zip(COLUMNS, row, strict=True)) for row in rows])
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
    networks: Sequence[Classifier], paths: Sequence[Path], on_unreadable: Callable[[str], None]
) -> Iterator[dict[Path, torch.Tensor]]:
    """Yield the photographs, batch by batch, with the probabilities of their classes.

    These are float32, shape (classes,), averaged over runs of one cell. `on_unreadable` is called
    with the name of each photograph that cannot be read, and why. Each core reads and computes
    batches of its own with one thread, as in training: torch's threads wait for each other.
    """
    device = resolve_device("auto")
    networks = [network.to(device) for network in networks]
    keep_freed_memory()

    def classify_batch(batch: Sequence[Path]) -> tuple[dict[Path, torch.Tensor], list[str]]:
        crops, unreadable = {}, []
        for path in batch:
            try:
                crops[path] = networks[0].crop(path)
            except (OSError, ValueError, UserError) as error:
                why = getattr(error, "why", None) or getattr(error.__cause__, "strerror", None)
                unreadable.append(f"{printable(path)}: {why or str(error).splitlines()[0]}")
        if not crops:
            return {}, unreadable
        inputs = networks[0].normalize(list(crops.values())).to(device)
        outputs = torch.stack([network(inputs).softmax(1) for network in networks]).mean(0).cpu()
        return dict(zip(crops, outputs, strict=True)), unreadable

    batches = (paths[i : i + EVALUATION_BATCH] for i in range(0, len(paths), EVALUATION_BATCH))
    with threadpool_limits(1), ThreadPoolExecutor(max(1, worker_count())) as pool:
        for found, unreadable in pool.map(classify_batch, batches):
            for line in unreadable:
                on_unreadable(line)
            yield found


def _rows_there(
    networks: Sequence[Classifier], paths: Sequence[Path], top: int, csv: Path
) -> tuple[int, list[Row]]:
    """Return how many photographs a file has that an interrupted command left, and their rows.

    The last batch is computed again: where model or options are others, the rows are, too, and the
    file does not count.
    """
    try:
        table = [tuple(row.values()) for row in read_csv(csv)]
        rows = [(path, int(rank), label, float(share)) for path, rank, label, share in table]
    except (OSError, ValueError, CsvError):
        return 0, []
    places = {_encodable(path): place for place, path in enumerate(paths)}
    known = [places.get(row[0], -1) for row in rows]
    if not rows or min(known) < 0 or known[-1] == len(paths) - 1:  # another's, or complete
        return 0, []
    start = known[-1] // EVALUATION_BATCH * EVALUATION_BATCH
    done = start + EVALUATION_BATCH
    again = predict(networks, paths[start:done], lambda why: None)
    expected = [row for found in again for row in _rows(networks, found, top)]
    return (done, rows) if rows[-len(expected) :] == expected else (0, [])


def _rows(networks: Sequence[Classifier], found: dict[Path, torch.Tensor], top: int) -> list[Row]:
    """Return the rows of a batch: of each photograph the most probable class first."""
    rows = []
    for path, probabilities in found.items():
        values, indices = probabilities.sort(descending=True, stable=True)
        ranked = zip(values[:top].tolist(), indices[:top].tolist(), strict=True)
        for rank, (value, index) in enumerate(ranked, 1):
            label = networks[0].classes[index]
            rows.append((_encodable(path), rank, label, float(f"{value:.6g}")))
    return rows


def _encodable(path: Path) -> str:
    return str(path).encode(errors="backslashreplace").decode()


def _print_rows(paths: Collection[Path], rows: Sequence[Row]) -> bool:
    """Print a line for each photograph of a batch; return whether someone still reads."""
    texts = [f"{label} {share:.1%}" for _, _, label, share in rows]
    top = len(rows) // max(1, len(paths))
    lines = [
        f"{printable(path)}: {', '.join(texts[n * top : (n + 1) * top])}"
        for n, path in enumerate(paths)
    ]
    try:
        print("\n".join(lines), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True
