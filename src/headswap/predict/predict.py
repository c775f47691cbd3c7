"""Classify photographs with trained networks."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from csv import Error as CsvError
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from rich.progress import Progress

from headswap import io
from headswap.errors import UserError, bulleted, printable
from headswap.images import folders, near_duplicates
from headswap.images.index import NAME, Row, read_index
from headswap.images.reading import UnreadableImage, read_image
from headswap.paths import IMAGES, LOOKS
from headswap.predict.folders import Seeds, describe, read_record, require
from headswap.predict.model import (
    Classifier,
    load_model,
    logits_of_runs,
    share_backbone,
    threads_of_torch,
)
from headswap.train.dataset import EVALUATION_BATCH
from headswap.train.devices import resolve_device
from headswap.train.speed import keep_freed_memory

COLUMNS = ("path", "rank", "class", "probability")
Rows = list[dict[str, Any]]


def classify(
    folder: Path,
    paths: Sequence[Path],
    *,
    seeds: Seeds = "kept",
    top: int = 1,
    csv: Path | None = None,
    json: Path | None = None,
    explain: Path | None = None,
    unsure: float = 0.0,
) -> None:
    """Classify photographs; print their `top` classes, write them to files, draw explanations.

    A class less probable than `unsure` is given as *unsure*. `csv` is written batch by batch, after
    what an interrupted command left; a UserError at the end names what could not be read.
    """
    if explain:
        require("captum")
        from headswap.predict.explain import write_explanations
    finished = [run["seed"] for run in read_record(folder)["runs"] if run["diverged"] is None]
    runs = [load_model(folder, seed) for seed in (seeds == "all" and finished) or [None]]
    networks = share_backbone(runs)
    stderr = Console(stderr=True, highlight=False, markup=False, soft_wrap=not sys.stderr.isatty())
    stderr.print(describe(folder, networks[0].record, seeds))
    table = csv if csv and not io.is_stream(csv) else None  # a pipe's reader would stop at a pause
    done, rows = (
        _rows_there(networks, paths, top, unsure, table) if table and not explain else (0, [])
    )
    there = {row["path"] for row in rows}
    without = [path for path in paths[:done] if _encodable(path) not in there]
    unreadable = [f"{printable(path)}: has no row in {csv}" for path in without]
    if done:
        stderr.print(f"{csv} has the first {done:,} photographs; the others follow.")
    elif table:
        io.write_csv(table, COLUMNS, [])
    parent = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    same_name = Counter(path.absolute().with_suffix("") for path in paths)
    hidden = not stderr.is_terminal or sys.stdout.isatty()
    with Progress(console=stderr, transient=True, redirect_stdout=False, disable=hidden) as bar:
        predictions = predict(networks, paths[done:], unreadable.append)
        total = -(-len(paths[done:]) // EVALUATION_BATCH)
        for found in bar.track(predictions, total, description="photographs"):
            ranked = {path: _rank(networks, path, found[path], top, unsure) for path in found}
            new = sum(ranked.values(), Rows())
            rows += new
            if table:
                io.append_csv(table, [row.values() for row in new])
            if explain:
                pictures = []
                for path in found:
                    picture = explain / path.absolute().relative_to(parent)
                    is_only = same_name[path.absolute().with_suffix("")] == 1
                    pictures.append(
                        picture.with_suffix(".png" if is_only else f"{path.suffix}.png")
                    )
                write_explanations(networks, found, pictures)
            try:
                for path, classes in ranked.items():
                    texts = [f"{row['class']} {row['probability']:.1%}" for row in classes]
                    print(f"{printable(path)}: {', '.join(texts)}")
                sys.stdout.flush()
            except BrokenPipeError:  # nobody reads any more
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                if not (csv or json or explain):
                    return
    if csv and not table:
        io.write_csv(csv, COLUMNS, [row.values() for row in rows])
    if count := sum(row["class"] == "unsure" for row in rows if unsure):
        stderr.print(f"Unsure, below {unsure:.0%}: {count} of {len(paths)} photographs.")
    if explain:
        print(f"Explanations in {explain}: {len(paths) - len(unreadable)}.")
    if json:
        io.write_json(json, rows)
    if unreadable:
        text = f"{len(unreadable)} of {len(paths)} files could not be read:\n{bulleted(unreadable)}"
        raise UserError(f"{text}\nReplace them by images, or leave them out.")


def predict(
    networks: Sequence[Classifier], paths: Sequence[Path], on_unreadable: Callable[[str], None]
) -> Iterator[dict[Path, torch.Tensor]]:
    """Yield the photographs, batch by batch, with the probabilities of their classes.

    These are float32, shape (classes,), averaged over runs of one cell. `on_unreadable` is told
    which photograph cannot be read, and why. Each core reads and computes batches of its own.
    """
    device = resolve_device("auto")
    networks = [network.to(device) for network in networks]
    keep_freed_memory()

    def classify_batch(batch: Sequence[Path]) -> tuple[dict[Path, torch.Tensor], list[str]]:
        crops, unreadable = {}, []
        for path in batch:
            try:
                crops[path] = networks[0].crop(path)
            except UserError as error:
                unreadable.append(str(error).splitlines()[0])
        if not crops:
            return {}, unreadable
        inputs = networks[0].normalize(list(crops.values())).to(device)
        outputs = logits_of_runs(networks, inputs).softmax(-1).mean(0).cpu()
        return dict(zip(crops, outputs, strict=True)), unreadable

    batches = (paths[i : i + EVALUATION_BATCH] for i in range(0, len(paths), EVALUATION_BATCH))
    with threads_of_torch() as pool:
        for found, unreadable in pool.map(classify_batch, batches):
            for line in unreadable:
                on_unreadable(line)
            yield found


def _rows_there(
    networks: Sequence[Classifier], paths: Sequence[Path], top: int, unsure: float, csv: Path
) -> tuple[int, Rows]:
    """Return how many photographs a file has that an interrupted command left, and their rows."""
    places = {_encodable(path): place for place, path in enumerate(paths)}
    rows: Rows = []
    try:
        for row in io.read_csv(csv):
            rows.append(row | {"rank": int(row["rank"]), "probability": float(row["probability"])})
        known = [places[row["path"]] for row in rows]
    except (OSError, ValueError, LookupError, CsvError):  # none, or another's
        return 0, []
    start = known[-1] // EVALUATION_BATCH * EVALUATION_BATCH if rows else 0
    done = start + EVALUATION_BATCH
    if not rows or done >= len(paths):  # empty, or complete
        return 0, []
    # Where model or options are others, the rows of the last batch are, too.
    (again,) = predict(networks, paths[start:done], lambda why: None)
    expected = [row for path in again for row in _rank(networks, path, again[path], top, unsure)]
    return (done, rows) if rows[-len(expected) :] == expected else (0, [])


def _rank(
    networks: Sequence[Classifier], path: Path, values: torch.Tensor, top: int, unsure: float
) -> Rows:
    """Return the rows of a photograph, the most probable class first; one if that is unsure."""
    values, places = values.sort(descending=True, stable=True)
    classes = [networks[0].classes[place] for place in places[:top].tolist()]
    rows = [
        (_encodable(path), rank, name, float(f"{values[rank - 1]:.6g}"))
        for rank, name in enumerate(["unsure"] if values[0] < unsure else classes, 1)
    ]
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def _encodable(path: Path) -> str:
    return str(path).encode(errors="backslashreplace").decode()


def classify_labelled(folder: Path, images: Path) -> tuple[pd.DataFrame, list[str]]:
    """Classify the photographs of the classes that a model folder's network knows.

    Return columns ``image``, ``label``, ``group``, ``predicted`` and ``p_<class>``; and notes on
    what is left out, what the project trains or validates on, and earlier evaluations.
    """
    network = load_model(folder)
    table, notes = _find_labelled(images, network.classes)
    batches = predict([network], [*map(Path, table["image"])], notes.append)
    found = {path.as_posix(): values for batch in batches for path, values in batch.items()}
    table = table[table["image"].isin(list(found))].reset_index(drop=True)
    probabilities = torch.stack([found[image] for image in table["image"]])
    table["predicted"] = [network.classes[place] for place in probabilities.argmax(1).tolist()]
    columns = [f"p_{name}" for name in network.classes]
    table[columns] = probabilities.numpy()
    used = read_index().rows if IMAGES.exists() else []
    hashes = [row.phash for row in used]
    if pairs := list(near_duplicates.near_duplicate_pairs(table["phash"], hashes)):
        known = {one: f"{table['image'][one]}: {used[other].path}" for one, other, _ in pairs}
        lines = list(known.values())
        notes.append(
            f"The accuracy is too high: {len(lines)} of the photographs, or near-duplicates, are "
            f"among those that the project trains or validates on:\n{bulleted(lines, 5)}"
        )
    looks = io.read_looks()
    look = {
        "date": pd.Timestamp.now().strftime("%Y-%m-%d %H:%M"),
        "images": io.digest(sorted(table["sha256"])),
        "folder": images.as_posix(),
        "cell": network.record["cell"],
        "correct": int((table["label"] == table["predicted"]).sum()),
        "of": len(table),
    }
    io.write_csv(LOOKS, look, [row.values() for row in (*looks, look)])
    if before := sum(row["images"] == look["images"] for row in looks):
        notes.append(
            f"Evaluations of these photographs before this one: {before} ({LOOKS}). The more often "
            "a choice depends on a test set, the less it says of new photographs."
        )
    return table[["image", "label", "group", "predicted", *columns]], notes


def _find_labelled(folder: Path, classes: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return a folder's photographs of some classes, and a note on each kind that is left out.

    The class is of the folder's index, if headswap wrote it, else the first folder of the path.
    """
    notes = []
    index = folder / NAME
    if index.is_file() and (not index.stat().st_size or b"phash" in index.read_bytes()):
        table = pd.DataFrame(read_index(folder).rows, columns=Row._fields)
    else:
        found = []
        for name, path in (folders.find_images(folder) if folder.is_dir() else {}).items():
            label = name.partition("/")[0] if "/" in name else ""
            try:
                phash = near_duplicates.perceptual_hash(read_image(path))
                found.append((name, label, "", io.sha256(path), phash))
            except UnreadableImage as error:
                notes.append(f"Left out: {str(error).splitlines()[0]}")
        table = pd.DataFrame(found, columns=["path", "label", "group", "sha256", "phash"])
    table["image"] = [(folder / path).as_posix() for path in table["path"]]
    is_known = table["label"].isin(classes)
    for name, count in table["label"][~is_known].value_counts().sort_index().items():
        where = f"of {name}, which the network does not know" if name else "in no folder of a class"
        notes.append(f"Left out: {count} {where}")
    if not is_known.any():
        raise UserError(
            f"There is no test set in {folder}: no photograph of {' or '.join(classes)}.\n"
            f"{bulleted(notes or ['It has no photographs.'])}\n"
            "Name a folder that has a folder for each class, called as in training, as in: "
            "headswap evaluate photos/test\nor list a test set: headswap manifest --help"
        )
    return table[is_known], notes
