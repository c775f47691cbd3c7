"""Labels of photographs in a table: any CSV, or a Camera Trap Data Package."""

import csv
import io
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from os import PathLike
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import NamedTuple

from headswap.errors import UserError, bulleted, printable
from headswap.images.folders import SPLIT_NAMES, is_system_file
from headswap.io import local_path, read_bytes

NAMES = {
    "image": (
        *("path", "filepath", "imagepath", "file", "filename", "imagefile", "imagefilename"),
        *("imagename", "image", "img", "photo", "photograph", "picture", "imageid", "name", "id"),
        "relativepath",
    ),
    "label": (
        *("label", "class", "classname", "species", "scientificname", "category"),
        *("categoryname", "taxon", "commonname", "target", "breed", "diagnosis"),
    ),
    "group": ("group", "groupid", "deploymentid"),
    "split": ("split", "subset"),
}
"""How columns are called: letters and digits in lower case, for an image the best first."""
FOLDERS = ("relativepath", "directory", "folder")
"""What a column is called that has the folder of the file beside it, as Timelapse writes it."""
MISSING = ("", "na", "nan", "n/a", "null")
UNKNOWN = (
    *("unknown", "unidentified", "unclassified", "undetermined", "unlabeled", "unlabelled"),
    *("indet", "indet.", "?"),
)
PACKAGE = ("media.csv", "observations.csv")
REQUIRED = {
    "media.csv": ("mediaID", "deploymentID", "timestamp", "filePath", "fileMediatype"),
    "observations.csv": (
        *("mediaID", "deploymentID", "eventStart", "eventEnd", "observationLevel"),
        *("observationType", "scientificName"),
    ),
}
"""The columns of Camtrap DP 1.0 [https://camtrap-dp.tdwg.org/data] that are used."""
NO_FILE = "rows without a file"
SEVERAL_FILES = "rows that may mean several files, or files that several rows may mean"
NO_ROW = "photographs without a row"
NO_LABEL = "photographs without a label"
UNKNOWN_LABEL = "photographs of unknown label"
TWO_LABELS = "photographs with two labels or more, which is not supported"
TWO_PLACES = "photographs in two groups or splits"
NO_PHOTOGRAPH = "videos and sounds"


class Columns(NamedTuple):
    """The names of a table's columns; None is found by name, or there is none."""

    image: str | None = None
    label: str | None = None
    group: str | None = None
    split: str | None = None


class Labelled(NamedTuple):
    """What a table says of a photograph; an empty text is not said."""

    label: str
    group: str = ""
    split: str = ""


@dataclass
class Labels:
    """What a table says: by photograph, what was understood, and what is left out, by reason."""

    photographs: dict[str, Labelled] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


class Table(NamedTuple):
    """A CSV's name, the names of its columns, and its rows by the numbers of their lines."""

    name: str
    columns: list[str]
    rows: dict[int, dict[str, str]]


class Row(NamedTuple):
    """Where a row is, the paths that its photograph may have, the best first, and its values."""

    line: int
    paths: tuple[str, ...]
    labels: tuple[str, ...]
    group: str
    split: str
    of_event: bool = False


def read_labels(path: str | PathLike[str], files: Sequence[str], columns: Columns) -> Labels:
    """Return the labels of photographs, whose paths in their folder are `files`.

    `path` is a CSV, or a Camtrap DP: its folder, or one of its files.
    """
    path = local_path(path)
    folder = path if path.is_dir() else path.parent
    is_package = path.is_dir() or path.name in (*PACKAGE, "datapackage.json")
    if is_package and all((folder / name).exists() for name in PACKAGE):
        media, observations = (_read_table(folder / name) for name in PACKAGE)
        rows, labels = _rows_of_package(media, observations, columns)
        return _assign(media.name, rows, files, labels)
    table = _read_table(path)
    rows, labels = _rows_of_table(table, columns)
    return _assign(table.name, rows, files, labels)


def _read_table(path: Path) -> Table:
    """Read a CSV whose columns are separated by commas, semicolons or tabs."""
    if not path.is_file():
        raise UserError(
            f"--labels: there is no table {printable(path)} in {Path.cwd()}.\n"
            "Name a CSV, or the folder of a Camtrap DP: --labels labels.csv"
        )
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(
            f"{printable(path)} is not a CSV in UTF-8.\n"
            "Save its table as CSV in UTF-8, and name that: --labels labels.csv"
        ) from None
    heading = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=heading.count))
    rows, wrong = {}, []
    try:
        columns = [cell.strip() for cell in next(reader, [])]
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells[len(columns) :]):
                wrong.append(f"line {reader.line_num}: {len(cells)} cells, not {len(columns)}")
            elif any(cells):
                row = dict(zip(columns, [*cells, *[""] * len(columns)], strict=False))
                row.pop("", None)  # numbers of rows, as pandas writes them
                rows[reader.line_num] = row
    except csv.Error as error:
        wrong.append(f"line {reader.line_num}: {error}")
    if wrong:
        raise UserError(
            f"{printable(path.name)} has lines that are not as its heading:\n{bulleted(wrong)}\n"
            "Put quotes around what holds the character that separates the columns."
        )
    return Table(printable(path.name), list(filter(None, columns)), rows)


def _rows_of_table(table: Table, columns: Columns) -> tuple[list[Row], Labels]:
    image, label, group, split = (
        _find(table, role, given) for role, given in columns._asdict().items()
    )
    folder = next(
        (c for name in FOLDERS for c in table.columns if _plain(c) == name != _plain(image)), ""
    )
    rows = []
    for line, row in table.rows.items():
        path = "/".join(filter(None, (row.get(folder), row[image])))
        paths = (path,) if row[image] else ()
        rows.append(Row(line, paths, (row[label],), row.get(group, ""), row.get(split, "")))
    used = zip(Columns._fields, (image, label, group, split), strict=True)
    said = ", ".join(f"{role} {column!r}" for role, column in used if column)
    return rows, Labels(notes=[f"columns of {table.name}: {said}"])


def _rows_of_package(
    media: Table, observations: Table, columns: Columns
) -> tuple[list[Row], Labels]:
    """Return the rows of a Camtrap DP 1.0, by default in groups by deployment.

    A photograph has the observations of itself, else those of the events in its deployment that
    its time is in. An animal's label is its scientific name, another's is its type: blank, human,
    vehicle. What is unclassified counts as not observed.
    """
    for table in (media, observations):
        missing = [name for name in REQUIRED[table.name] if name not in table.columns]
        if missing:
            raise UserError(
                f"{table.name} has no {' and no '.join(missing)}, as Camtrap DP 1.0 has; "
                f"{_columns(table)}.\nExport the package as version 1.0, or name a table of "
                "another name: --labels labels.csv"
            )
    both = media._replace(columns=[*media.columns, *observations.columns])
    label = _find(both, "label", columns.label) if columns.label else ""
    image = _find(media, "image", columns.image or "filePath")
    group = _find(media, "group", columns.group or "deploymentID")
    split = _find(media, "split", columns.split)
    own, events = defaultdict(list), defaultdict(list)
    for row in observations.rows.values():
        if row["observationType"] != "unclassified" and row["observationLevel"] == "media":
            own[row["mediaID"]].append(row)
        elif row["observationType"] != "unclassified":
            events[row["deploymentID"]].append(
                (_seconds(row["eventStart"]), _seconds(row["eventEnd"]), row)
            )
    labels = Labels(notes=[f"{' and '.join(PACKAGE)} are a Camtrap DP; groups are by its {group}"])
    rows = []
    for line, one in media.rows.items():
        if not one["fileMediatype"].startswith("image/"):
            labels.left_out[NO_PHOTOGRAPH].append(one["filePath"])
            continue
        time = _seconds(one["timestamp"])
        of_event = [row for start, end, row in events[one["deploymentID"]] if start <= time <= end]
        given = []
        for seen in own[one["mediaID"]] or of_event:
            name = "scientificName" if seen["observationType"] == "animal" else "observationType"
            given.append({**seen, **one}[label or name])
        paths = (one[image], f"{one['deploymentID']}/{one.get('fileName') or '?'}")
        is_of_event = bool(given) and not own[one["mediaID"]]
        rows.append(Row(line, paths, tuple(given), one[group], one.get(split, ""), is_of_event))
    return rows, labels


def _seconds(time: str) -> float:
    """Return the seconds of a time as ISO 8601 writes it, NaN if it is none."""
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return float("nan")


def _find(table: Table, role: str, given: str | None) -> str:
    """Return the column that has the images, the labels, …; empty if it may be and is missing."""
    option = f"--{role}-column"
    if given is not None:
        same = [c for c in table.columns if c == given]
        same = same or [c for c in table.columns if _plain(c) == _plain(given)]
        if not same:
            raise UserError(
                f"{option} {quote(given)}: {_columns(table)}.\nName one of them: {option} NAME"
            )
        return same[0]
    found = [c for name in NAMES[role] for c in table.columns if _plain(c) == name]
    if role == "label" and len(found) > 1:
        raise UserError(
            f"{table.name} has several columns that may be the label: {', '.join(found)}.\n"
            f"Name one of them: {option} {quote(found[0])}"
        )
    if role in ("image", "label") and not found:
        raise UserError(
            f"Which column has the {role}? {_columns(table)}.\nName one of them: {option} NAME"
        )
    return found[0] if found else ""


def _columns(table: Table) -> str:
    return f"the columns of {table.name} are {', '.join(map(printable, table.columns))}"


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold()))


def _assign(name: str, rows: Sequence[Row], files: Sequence[str], labels: Labels) -> Labels:
    """Add to `labels` what the rows of the table `name` say of each file, and what is left over."""
    rows_of = _match(rows, files, labels)
    if not rows_of and rows:
        path = rows[0].paths[0] if rows[0].paths else ""
        raise UserError(
            f"No row of {name} names a photograph of the folder: its first one says "
            f"{path!r}, and the first photograph is {printable(min(files, default=''))!r}.\n"
            "Name the column of their paths: --image-column NAME"
        )
    _check_values(name, [row for found in rows_of.values() for row in found])
    of_event = 0
    for file in files:
        found = rows_of.get(file, [])
        given = {_value(label) for row in found for label in row.labels} - {""}
        known = {label for label in given if label.casefold() not in UNKNOWN}
        groups = {_value(row.group) for row in found} - {""}
        splits = {SPLIT_NAMES[row.split.casefold()] for row in found if _value(row.split)}
        if not found:
            labels.left_out[NO_ROW].append(file)
        elif len(known) > 1:
            labels.left_out[TWO_LABELS].append(file)
        elif not known:
            labels.left_out[UNKNOWN_LABEL if given else NO_LABEL].append(file)
        elif len(groups) > 1 or len(splits) > 1:
            labels.left_out[TWO_PLACES].append(file)
        else:
            of_event += any(row.of_event for row in found)
            group, split = min(groups, default=""), min(splits, default="")
            labels.photographs[file] = Labelled(known.pop(), group, split)
    if of_event:
        labels.notes.append(
            f"{of_event} photographs have the label of their event, blank frames in it, too"
        )
    return labels


def _value(text: str) -> str:
    """Return a value in the form in which all are compared, empty if it is missing."""
    return "" if text.casefold() in MISSING else unicodedata.normalize("NFC", text)


def _check_values(name: str, rows: Sequence[Row]) -> None:
    """Check that labels can be names of folders, and that splits are known."""
    labels = {_value(label) for row in rows for label in row.labels} - {""}
    if wrong := sorted(filter(_is_no_folder, labels)):
        raise UserError(
            f"{name} has labels that cannot be the name of a class's folder:\n"
            f"{bulleted([printable(label) for label in wrong])}\n"
            "Write them without / and \\, and with a letter or digit first; then run the same "
            "command again."
        )
    splits = {_value(row.split) for row in rows} - {""}
    if other := sorted(split for split in splits if split.casefold() not in SPLIT_NAMES):
        raise UserError(
            f"{name} has splits that are none of {', '.join(SPLIT_NAMES)}:\n{bulleted(other)}\n"
            "Correct them, or give the column another name."
        )


def _is_no_folder(label: str) -> bool:
    return "/" in label or "\\" in label or is_system_file(label) or not label.isprintable()


def _match(rows: Sequence[Row], files: Sequence[str], labels: Labels) -> dict[str, list[Row]]:
    """Return the rows of each file; what is left over, and how they were found, is in `labels`.

    A row means the file whose path ends as its own does, or the other way round; case, backslashes,
    and the ending where a row has none, do not matter. If no row does, folders were renamed: then
    that which has the most in common with it at its end, at least the name. Of rows with other
    paths that mean the same file, those with the most in common do.
    """
    ends: dict[str, list[str]] = defaultdict(list)
    for file in files:
        parts = _parts(file)
        for end in ("/".join(parts[start:]) for start in range(len(parts))):
            for key in {end, end.removesuffix(PurePosixPath(end).suffix)}:
                ends[key].append(file)
    matches: list[tuple[Row, str, int, bool]] = []
    for row in rows:
        several = False
        for parts in map(_parts, row.paths):
            tails = ("/".join(parts[start:]) for start in range(len(parts)))
            found = next((ends[tail] for tail in tails if tail in ends), [])
            depth = sum("/".join(parts[start:]) in ends for start in range(len(parts)))
            same = [file for file in found if file in row.paths]
            whole = [file for file in found if _parts(file) == parts]
            if match := next((f[0] for f in (found, same, whole) if len(f) == 1), None):
                is_end = depth == min(len(parts), len(_parts(match)))
                matches.append((row, match, depth, is_end))
                break
            several = several or depth == len(parts)
        else:
            labels.left_out[SEVERAL_FILES if several else NO_FILE].append(_describe(row))
    is_any_end = any(is_end for *_, is_end in matches)
    candidates: dict[str, list[tuple[int, Row]]] = defaultdict(list)
    for row, file, depth, is_end in matches:
        if is_end or not is_any_end:
            candidates[file].append((depth, row))
        else:
            labels.left_out[NO_FILE].append(_describe(row))
    if matches and not is_any_end:
        labels.notes.append("no folder is as in the table: photographs are known by their names")
    rows_of = {}
    for file, of in candidates.items():
        best = max(depth for depth, _ in of)
        if len({tuple(_parts(row.paths[0])) for depth, row in of if depth == best}) == 1:
            rows_of[file] = [row for depth, row in of if depth == best]
        for depth, row in of:
            if depth < best or file not in rows_of:
                why = NO_FILE if depth < best else SEVERAL_FILES
                labels.left_out[why].append(_describe(row))
    return rows_of


def _parts(path: str) -> list[str]:
    """Return the parts of a path without case."""
    plain = unicodedata.normalize("NFC", path.replace("\\", "/")).casefold()
    return [part for part in plain.split("/") if part not in ("", ".", "..")]


def _describe(row: Row) -> str:
    return f"line {row.line}: {printable(row.paths[0]) if row.paths else 'no path'}"
