"""Labels of photographs in a table: any CSV, or a Camera Trap Data Package."""

import unicodedata
from collections import defaultdict, namedtuple
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd

from headswap.data.manifest import read_table
from headswap.errors import UserError, bulleted, printable
from headswap.images.folders import SPLIT_NAMES, is_system_file
from headswap.io import StrPath, is_address, local_path, read_bytes

NAMES = {  # of columns: letters and digits in lower case, for an image the best first
    "image": ("path", "filepath", "file", "filename", "image", "imagename", "photo", "id"),
    "label": ("label", "class", "species", "scientificname", "category", "taxon"),
    "group": ("group", "deploymentid"),
    "split": ("split", "subset"),
}
MISSING = ("", "na", "nan", "n/a", "null")
UNKNOWN = ("unknown", "unidentified", "unclassified", "undetermined", "unlabeled", "indet.", "?")
PACKAGE = ("media.csv", "observations.csv")  # of a Camtrap DP, https://camtrap-dp.tdwg.org/data
# The names of a table's columns; None is found by name, or there is none.
Columns = namedtuple("Columns", "image label group split", defaults=(None, None, None, None))
Table = dict[int, dict[str, str]]


class Labels(NamedTuple):
    """What a table says of photographs, and why others, and some of its rows, are not used."""

    labels: dict[str, tuple[str, str, str]]  # label, group and split, empty where not said
    unused: dict[str, str]
    left_out: dict[str, list[str]]  # by reason
    notes: list[str]  # what was understood


def read_labels(path: StrPath, files: Sequence[str], columns: Columns) -> Labels:
    """Return the labels of the photographs `files`, by a CSV or a Camtrap DP (folder or file)."""
    path = local_path(path)
    folder, name = path if path.is_dir() else path.parent, printable(path.name)
    is_package = path.is_dir() or path.name in (*PACKAGE, "datapackage.json")
    if is_package and all((folder / name).exists() for name in PACKAGE):
        try:
            rows = _join_package(*(_read(folder / name) for name in PACKAGE))
        except (LookupError, ValueError, TypeError) as error:
            why = f"is no Camtrap DP 1.0: {type(error).__name__}: {error}"
            remedy = "Export it as 1.0, or name a table: --labels TABLE.csv"
            raise UserError(f"{printable(folder)} {why}.\n{remedy}") from error
        usual = ("filePath", "label", "deploymentID", None)
        columns = Columns(*(one or other for one, other in zip(columns, usual, strict=True)))
    else:
        rows = list(_read(path).items())
    table, note = _choose_columns(rows, name, columns)
    table["file"] = _match(table["image"], files)
    has_file, left_out = table["file"].isin(files), defaultdict(list)
    for line, image, why in table.loc[~has_file, ["line", "image", "file"]].itertuples(index=False):
        left_out[why].append(f"line {line}: {printable(image) or 'no path'}")
    if not has_file.any():
        example = printable(min(files, default="none"))
        text = f"No row of {name} names a photograph of the folder, such as {example}."
        raise UserError(f"{text}\nName the column of their paths: --image-column NAME")
    return Labels(*_combine(table[has_file], files), left_out, [note])


def _read(path: Path) -> Table:
    remedy = "Save it as CSV in UTF-8, and name that: --labels labels.csv"
    return read_table(read_bytes(path), printable(path.name), remedy)


def _join_package(media: Table, observations: Table) -> list[tuple[int, dict[str, str]]]:
    """Return photographs with their observations, else their events'; animals by their species."""
    own, events = defaultdict(list), defaultdict(list)
    for row in observations.values():
        kind = row["observationType"]
        row["label"] = row["scientificName"] if kind == "animal" else kind
        if row["mediaID"] and kind != "unclassified":
            own[row["mediaID"]].append(row)
        elif kind != "unclassified":
            start, end = (datetime.fromisoformat(row[key]) for key in ("eventStart", "eventEnd"))
            events[row["deploymentID"]].append((start, end, row))
    rows = []
    for line, one in media.items():
        time, place = datetime.fromisoformat(one["timestamp"]), one["deploymentID"]
        of_event = [row for start, end, row in events[place] if start <= time <= end]
        if is_address(one["filePath"]):
            one["filePath"] = f"{place}/{one['fileName']}"
        seen = own[one["mediaID"]] or of_event or [{"label": ""}]
        rows += [(line, observed | one) for observed in seen]
    return rows


def _choose_columns(
    rows: list[tuple[int, dict[str, str]]], name: str, columns: Columns
) -> tuple[pd.DataFrame, str]:
    """Return a table with the line and the columns of `Columns`, and which columns these are."""
    there, chosen = list(dict.fromkeys(column for _, row in rows for column in row)), {}
    for role, given in columns._asdict().items():
        names = [_plain(given)] if given else NAMES[role]
        found = [column for name in names for column in there if _plain(column) == name]
        is_needed = given or role in ("image", "label")
        if (is_needed and not found) or (role == "label" and len(found) > 1):
            known = ", ".join(map(printable, there))
            text = f"Which column has the {role}? The columns of {name} are {known}."
            raise UserError(f"{text}\nName one of them: --{role}-column NAME")
        chosen[role] = found[0] if found else ""
    table = pd.DataFrame([(line, *(row.get(c, "") for c in chosen.values())) for line, row in rows])
    said = ", ".join(f"{role} {column!r}" for role, column in chosen.items() if column)
    return table.set_axis(["line", *chosen], axis=1), f"columns of {name}: {said}"


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold()))


def _match(paths: Iterable[str], files: Sequence[str]) -> list[str]:
    """Return each path's file, the one with the same end, or why there is none."""
    tails, wholes = defaultdict(list), defaultdict(list)
    for file in files:
        for place, end in enumerate(_ends(file)):
            for key in {end, end.removesuffix(PurePosixPath(end).suffix)}:
                tails[key].append(file)
                if place == 0:
                    wholes[key].append(file)
    found = []
    for path in paths:
        given = _ends(path)
        end = next((end for end in given if end in tails), "")
        means = tails.get(end, [])
        if path in means:
            means = [path]
        elif end != given[0] or end in wholes:  # a part of the path is the whole of the file's
            means = wholes.get(end, [])
        why = "rows that may mean several files" if means else "rows without a file"
        found.append(means[0] if len(means) == 1 else why)
    return found


def _ends(path: str) -> list[str]:
    """Return a path without its case, and without one, two, … of its first folders."""
    plain = unicodedata.normalize("NFC", path.replace("\\", "/")).casefold()
    parts = [part for part in plain.split("/") if part not in ("", ".", "..")]
    return ["/".join(parts[start:]) for start in range(len(parts))] or [""]


def _combine(
    table: pd.DataFrame, files: Sequence[str]
) -> tuple[dict[str, tuple[str, str, str]], dict[str, str]]:
    """Return what all rows of each file say, and why files are not used."""
    said = table.set_index("file")[["label", "group", "split"]]
    said = said.map(lambda text: unicodedata.normalize("NFC", text))
    said = said.mask(said.map(str.casefold).isin(MISSING))
    names = sorted(said["label"].dropna().unique())
    wrong = [of for of in names if {*of} & {*"/\\"} or is_system_file(of) or not of.isprintable()]
    if lines := [*map(printable, wrong)]:
        text = f"Labels that cannot be the name of a class's folder:\n{bulleted(lines)}"
        raise UserError(f"{text}\nWrite them without / and \\, and with a letter or digit first.")
    said["split"] = said["split"].str.casefold()
    if other := sorted({*said["split"].dropna()} - {*SPLIT_NAMES}):
        text = f"Splits that are none of {', '.join(SPLIT_NAMES)}:\n{bulleted(other)}"
        raise UserError(f"{text}\nCorrect them, or give the column another name.")
    said["split"] = said["split"].map(SPLIT_NAMES)
    unknown = said["label"].str.casefold().isin(UNKNOWN)
    said["label"] = said["label"].mask(unknown)
    found, counts = said.groupby("file").first().fillna(""), said.groupby("file").nunique()
    reasons = {
        "photographs with two labels or more, which is not supported": counts["label"] > 1,
        "photographs of unknown label": (found["label"] == "") & unknown.groupby("file").any(),
        "photographs without a label": found["label"] == "",
        "photographs in two groups or splits": counts[["group", "split"]].max(axis=1) > 1,
    }
    why = pd.Series(np.select([*reasons.values()], [*reasons], ""), found.index)
    labels = {file: (*row,) for file, *row in found[why == ""].itertuples()}
    no_row = {file: "photographs without a row" for file in files if file not in found.index}
    return labels, no_row | why[why != ""].to_dict()
