"""Classify photographs whose classes are known, such as a test set."""

from collections import ChainMap, Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from headswap.errors import UserError, bulleted
from headswap.images.folders import find_images
from headswap.images.index import NAME, read_index
from headswap.images.near_duplicates import near_duplicate_pairs, perceptual_hash
from headswap.images.reading import UnreadableImage, read_image
from headswap.io import digest, read_csv, sha256, write_csv
from headswap.paths import IMAGES, METRICS
from headswap.predict.model import load_model
from headswap.predict.predict import predict

LOOKS = METRICS / "test" / "looks.csv"
"""A line for each time that a test set was evaluated; for Git."""
COLUMNS = ("date", "images", "folder", "cell", "correct", "of")


class Labelled(NamedTuple):
    """A photograph with its class, its group (empty: it is alone), SHA-256 and perceptual hash."""

    path: Path
    label: str
    group: str
    sha256: str
    phash: str


def classify_labelled(folder: Path, images: Path) -> tuple[pd.DataFrame, list[str]]:
    """Classify the photographs of the classes that a model folder's network knows.

    Return columns ``image``, ``label``, ``group``, ``predicted`` and ``p_<class>``; and what must
    be said: photographs that are left out, or that the project trains or validates on, and how
    often these were evaluated before.
    """
    network = load_model(folder)
    labelled, notes = find_labelled(images, network.classes)
    batches = predict([network], [one.path for one in labelled], notes.append)
    found = dict(ChainMap(*batches))
    labelled = [one for one in labelled if one.path in found]
    probabilities = torch.stack([found[one.path] for one in labelled])
    predicted = [network.classes[place] for place in probabilities.argmax(1).tolist()]
    table = pd.DataFrame(
        {
            "image": [one.path.as_posix() for one in labelled],
            "label": [one.label for one in labelled],
            "group": [one.group for one in labelled],
            "predicted": predicted,
            **{f"p_{name}": probabilities[:, i] for i, name in enumerate(network.classes)},
        }
    )
    if seen := _seen_before(labelled):
        notes.append(
            f"The accuracy is too high: {len(set(one for one, _ in seen))} of the photographs, or "
            f"near-duplicates, are among those that the project trains or validates on:\n"
            + bulleted([f"{one}: {other}" for one, other in seen], 5)
        )
    correct = int((table["label"] == table["predicted"]).sum())
    if before := _record_look(labelled, images, network.record["cell"], correct):
        notes.append(
            f"These photographs were evaluated {before} times before ({LOOKS}). The more often a "
            "choice depends on a test set, the less it says of new photographs."
        )
    return table, notes


def find_labelled(folder: Path, classes: Sequence[str]) -> tuple[list[Labelled], list[str]]:
    """Return a folder's photographs of some classes, and a note on each kind that is left out.

    The class is that of the folder's index, where it has one, else the first folder of the path.
    """
    indexed = (folder / NAME).exists()
    if not folder.is_dir() or (indexed and not read_index(folder).rows):
        raise UserError(
            f"There is no test set in {folder}.\nName a folder with a folder for each class, "
            "as in: headswap evaluate photos/test\nor list a test set: headswap manifest --help"
        )
    notes: list[str] = []
    if indexed:
        rows = read_index(folder).rows
        found = [
            Labelled(folder / row.path, row.label, row.group, row.sha256, row.phash) for row in rows
        ]
    else:
        found = []
        for name, path in find_images(folder).items():
            label = name.partition("/")[0] if "/" in name else ""
            try:
                found.append(
                    Labelled(path, label, "", sha256(path), perceptual_hash(read_image(path)))
                )
            except UnreadableImage as error:
                notes.append(f"Left out: {str(error).splitlines()[0]}")
    unknown = Counter(image.label for image in found if image.label not in classes)
    notes += [
        f"Left out: {count} of {name}, which the network does not know"
        if name
        else f"Left out: {count} in no folder of a class"
        for name, count in sorted(unknown.items())
    ]
    known = [image for image in found if image.label in classes]
    if not known:
        raise UserError(
            f"{folder} has no photograph of {' or '.join(classes)}.\n{bulleted(notes)}\n"
            "Name a folder that has a folder for each class, called as in training."
        )
    return known, notes


def _seen_before(images: Sequence[Labelled]) -> list[tuple[str, str]]:
    """Return which photographs the project trains or validates on, and as which of its own."""
    if not IMAGES.exists():
        return []
    rows = read_index().rows
    pairs = near_duplicate_pairs([one.phash for one in images], [row.phash for row in rows])
    return [(images[one].path.as_posix(), rows[other].path) for one, other, _ in pairs]


def _record_look(images: Sequence[Labelled], folder: Path, cell: str, correct: int) -> int:
    """Write that these images were evaluated; return how often they were before."""
    before = read_csv(LOOKS) if LOOKS.exists() else []
    which = digest(sorted(image.sha256 for image in images))
    date = pd.Timestamp.now().strftime("%Y-%m-%d %H:%M")
    look = (date, which, folder.as_posix(), cell, correct, len(images))
    write_csv(LOOKS, COLUMNS, [*(row.values() for row in before), look])
    return sum(row["images"] == which for row in before)
