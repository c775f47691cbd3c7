"""Labels of photographs in a table: any CSV, or a Camera Trap Data Package."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd

from headswap.data.manifest import read_table
from headswap.errors import UserError, bulleted, printable
from headswap.images.folders import SPLIT_NAMES, is_system_file
from headswap.io import is_address, local_path, read_bytes

NAMES = {
    "image": ("path", "filepath", "file", "filename", "image", "imagename", "photo", "id"),
    "label": ("label", "class", "species", "scientificname", "category", "taxon"),
    "group": ("group", "deploymentid"),
    "split": ("split", "subset"),
}
"""How columns are called: letters and digits in lower case, for an image the best first."""
MISSING = ("", "na", "nan", "n/a", "null")
UNKNOWN = ("unknown", "unidentified", "unclassified", "undetermined", "unlabeled", "indet.", "?")
PACKAGE = ("media.csv", "observations.csv")
"""The tables of a Camtrap DP [https://camtrap-dp.tdwg.org/data] that are used."""
NO_FILE = "rows without a file"
SEVERAL_FILES = "rows that may mean several files"
NO_ROW = "photographs without a row"
NO_LABEL = "photographs without a label"
UNKNOWN_LABEL = "photographs of unknown label"
TWO_LABELS = "photographs with two labels or more, which is not supported"
TWO_PLACES = "photographs in two groups or splits"


class Columns(NamedTuple):
    """The names of a table's columns; None is found by name, or there is none."""

    image: str | None = None
    label: str | None = None
    group: str | None = None
    split: str | None = None


class Labels(NamedTuple):
    """What a table says: label, group and split of each photograph; why others are not used.

    A group or split that is not said is empty. Rows that are not used are in ``left_out``, by
    reason; ``notes`` say what was understood.
    """

    labels: dict[str, tuple[str, str, str]]
    unused: dict[str, str]
    left_out: dict[str, list[str]]
    notes: list[str]


def read_labels(path: str | PathLike[str], files: Sequence[str], columns: Columns) -> Labels:
    """Return the labels of photographs, whose paths in their folder are `files`.

    `path` is a CSV, or a Camtrap DP: its folder, or one of its files.
    """
    path = local_path(path)
    folder = path if path.is_dir() else path.parent
    is_package = path.is_dir() or path.name in (*PACKAGE, "datapackage.json")
    if is_package and all((folder / name).exists() for name in PACKAGE):
        try:
            rows = _join_package(*(_read(folder / name) for name in PACKAGE))
        except (LookupError, ValueError, TypeError) as error:
            raise UserError(
                f"{printable(folder)} is no Camtrap DP 1.0: {type(error).__name__}: {error}.\n"
                "Export it as version 1.0, or name a table of another name: --labels labels.csv"
            ) from error
        defaults = Columns("filePath", "label", "deploymentID")
        columns = Columns(*(one or other for one, other in zip(columns, defaults, strict=True)))
    else:
        rows = list(_read(path).items())
    table, note = _choose_columns(rows, printable(path.name), columns)
    table["file"] = _match(table["image"], files)
    left_out = defaultdict(list)
    has_file = table["file"].isin(files)
    for line, image, why in table.loc[~has_file, ["line", "image", "file"]].itertuples(index=False):
        left_out[why].append(f"line {line}: {printable(image) or 'no path'}")
    table = table[has_file]
    if table.empty:
        raise UserError(
            f"No row of {printable(path.name)} names a photograph of the folder, such as "
            f"{printable(min(files, default='none'))}.\n"
            "Name the column of their paths: --image-column NAME"
        )
    labels, unused = _combine(table, files)
    return Labels(labels, unused, left_out, [note])


def _read(path: Path) -> dict[int, dict[str, str]]:
    if not path.is_file():
        raise UserError(
            f"--labels: there is no table {printable(path)} in {Path.cwd()}.\n"
            "Name a CSV, or the folder of a Camtrap DP: --labels labels.csv"
        )
    remedy = "Save it as CSV in UTF-8, and name that: --labels labels.csv"
    return read_table(read_bytes(path), printable(path.name), remedy)


def _join_package(
    media: dict[int, dict[str, str]], observations: dict[int, dict[str, str]]
) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a Camtrap DP: photographs with their observations, else their events'.

    An animal's label is its scientific name, another's is its type: blank, human, vehicle.
    """
    own, events = defaultdict(list), defaultdict(list)
    for row in observations.values():
        kind = row["observationType"]
        row["label"] = row["scientificName"] if kind == "animal" else kind
        if kind == "unclassified":
            continue
        if row["mediaID"]:
            own[row["mediaID"]].append(row)
        else:
            start, end = (datetime.fromisoformat(row[key]) for key in ("eventStart", "eventEnd"))
            events[row["deploymentID"]].append((start, end, row))
    rows = []
    for line, one in media.items():
        time, place = datetime.fromisoformat(one["timestamp"]), one["deploymentID"]
        of_event = [row for start, end, row in events[place] if start <= time <= end]
        if is_address(one["filePath"]):
            one["filePath"] = f"{place}/{one['fileName']}"
        for seen in own[one["mediaID"]] or of_event or [{"label": ""}]:
            rows.append((line, seen | one))
    return rows


def _choose_columns(
    rows: list[tuple[int, dict[str, str]]], name: str, columns: Columns
) -> tuple[pd.DataFrame, str]:
    """Return a table with the line and the columns of `Columns`, and which columns these are."""
    there = list(dict.fromkeys(column for _, row in rows for column in row))
    chosen = {}
    for role, given in columns._asdict().items():
        names = [_plain(given)] if given else NAMES[role]
        found = [column for name in names for column in there if _plain(column) == name]
        is_needed = bool(given) or role in ("image", "label")
        if (is_needed and not found) or (role == "label" and len(found) > 1):
            raise UserError(
                f"Which column has the {role}? The columns of {name} are "
                f"{', '.join(map(printable, there))}.\nName one of them: --{role}-column NAME"
            )
        chosen[role] = found[0] if found else ""
    table = pd.DataFrame([(line, *(row.get(c, "") for c in chosen.values())) for line, row in rows])
    said = ", ".join(f"{role} {column!r}" for role, column in chosen.items() if column)
    return table.set_axis(["line", *chosen], axis=1), f"columns of {name}: {said}"


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold()))


def _match(paths: Iterable[str], files: Sequence[str]) -> list[str]:
    """Return the file that each path means, or why it means none.

    It is the one file whose path ends as the given one does, or the other way round; case,
    backslashes, and the ending where a path has none, do not matter.
    """
    ends: dict[str, list[str]] = defaultdict(list)
    for file in files:
        for end in _ends(file):
            for key in _with_and_without_ending(end):
                ends[key].append(file)
    found = []
    for path in paths:
        given = _ends(path)
        end = next((end for end in given if end in ends), "")
        means = ends.get(end, [])
        whole = [file for file in means if end in _with_and_without_ending(_ends(file)[0])]
        if end != given[0]:  # a part of the given path is the whole of the file's
            means = whole
        elif len(means) > 1:
            means = [path] if path in means else whole or means
        found.append(means[0] if len(means) == 1 else SEVERAL_FILES if means else NO_FILE)
    return found


def _ends(path: str) -> list[str]:
    """Return a path without its case, and without one, two, … of its first folders."""
    plain = unicodedata.normalize("NFC", path.replace("\\", "/")).casefold()
    parts = [part for part in plain.split("/") if part not in ("", ".", "..")]
    return ["/".join(parts[start:]) for start in range(len(parts))] or [""]


def _with_and_without_ending(path: str) -> set[str]:
    return {path, path.removesuffix(PurePosixPath(path).suffix)}


def _combine(
    table: pd.DataFrame, files: Sequence[str]
) -> tuple[dict[str, tuple[str, str, str]], dict[str, str]]:
    """Return what all rows of each file say, and why files are not used."""
    for column in ("label", "group", "split"):
        values = table[column].map(lambda value: unicodedata.normalize("NFC", value))
        table = table.assign(**{column: values.mask(values.str.casefold().isin(MISSING))})
    if wrong := sorted(filter(_is_no_folder, table["label"].dropna().unique())):
        raise UserError(
            f"Labels that cannot be the name of a class's folder:\n"
            f"{bulleted([printable(label) for label in wrong])}\n"
            "Write them without / and \\, and with a letter or digit first; then run the same "
            "command again."
        )
    if other := sorted({*table["split"].dropna().str.casefold()} - {*SPLIT_NAMES}):
        raise UserError(
            f"Splits that are none of {', '.join(SPLIT_NAMES)}:\n{bulleted(other)}\n"
            "Correct them, or give the column another name."
        )
    table["split"] = table["split"].str.casefold().map(SPLIT_NAMES)
    unknown = table["label"].str.casefold().isin(UNKNOWN)
    of_file = table.assign(label=table["label"].mask(unknown)).groupby("file")
    found, counts = of_file.first().fillna(""), of_file.nunique()
    names = set(table.loc[unknown, "file"])
    labels, unused = {}, dict.fromkeys([file for file in files if file not in found.index], NO_ROW)
    for file, label, group, split in found[["label", "group", "split"]].itertuples():
        if counts.at[file, "label"] > 1:
            unused[file] = TWO_LABELS
        elif not label:
            unused[file] = UNKNOWN_LABEL if file in names else NO_LABEL
        elif counts.at[file, "group"] > 1 or counts.at[file, "split"] > 1:
            unused[file] = TWO_PLACES
        else:
            labels[file] = label, group, split
    return labels, unused


def _is_no_folder(label: str) -> bool:
    return "/" in label or "\\" in label or is_system_file(label) or not label.isprintable()
