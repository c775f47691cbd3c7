"""What is not as a manifest says: images are known by their content, whatever their names."""

import contextlib
import hashlib
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import Any, NamedTuple

from headswap.data.manifest import Manifest, read_manifest, used_images
from headswap.errors import UserError, bulleted
from headswap.images.folders import SPLIT_NAMES, find_images, is_image
from headswap.io import is_address, local_path, read_bytes, read_json, write_json
from headswap.params import GENERATED, Dataset
from headswap.paths import RUNS

COMMANDS = RUNS / "manifests.json"
"""The command that wrote each manifest, without what splits all photographs anew."""
KNOWN = RUNS / "photographs.json"
"""Size, times and digest of each photograph that was read, so that it is not read again."""


class File(NamedTuple):
    """A file in an archive or folder that may be an image of a manifest.

    ``sha256`` is empty where it is not known, because the size is that of no listed image or the
    file cannot be read; ``damage`` says why it cannot.
    """

    name: str
    size: int
    sha256: str = ""
    damage: str = ""


def check_photographs(dataset: Dataset) -> None:
    """Check that a local folder still holds the photographs of its manifest.

    A UserError names every photograph that was added, removed, changed, or moved to another class
    or split. Where the folder is not here, as in a clone that has DVC's archive, there is nothing
    to check.
    """
    if changes := find_changes(dataset):
        raise UserError(
            f"{dataset.url} is not as {dataset.manifest} says:\n{bulleted(changes)}\n"
            f"To take the change in: {manifest_command(dataset)}\nThen: dvc repro"
        )


def note_changes(dataset: Dataset) -> str:
    """Return a line that says that a local folder is not as its manifest says, empty if it is."""
    if not (changes := find_changes(dataset)):
        return ""
    count = f"{len(changes)} photograph{'s' * (len(changes) > 1)}"
    return (
        f"{dataset.url} is not as {dataset.manifest} says ({count} added, removed, changed or "
        "moved). To see which: headswap check"
    )


def manifest_command(dataset: Dataset) -> str:
    """Return the command that writes a dataset's manifest, with the options that were used."""
    command = f"headswap manifest {quote(dataset.url)} --output {quote(dataset.manifest)}"
    return str(_read(COMMANDS).get(command, command))


def remember_command(dataset: Dataset, options: dict[str, object]) -> None:
    """Remember the options that a dataset's manifest was written with."""
    command = f"headswap manifest {quote(dataset.url)} --output {quote(dataset.manifest)}"
    words = [f"--{name} {quote(str(value))}" for name, value in options.items() if value]
    write_json(COMMANDS, {**_read(COMMANDS), command: " ".join([command, *words])})


def _read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        return dict(read_json(path))
    return {}


def find_changes(dataset: Dataset) -> list[str]:
    """Return a line for each difference between a local folder, if it is one, and its manifest."""
    if dataset.url == GENERATED or is_address(dataset.url) or not local_path(dataset.url).is_dir():
        return []
    manifest = read_manifest(dataset.manifest)
    files = _read_files(find_images(local_path(dataset.url)))
    found, lines = match_files(files, manifest, all_extra=True)
    used = used_images(manifest)
    labels = {name.split("/")[1] for name in used}
    paths = [files[place].name for place in found]
    for path, name, listed in zip(paths, found.values(), listed_names(paths, used), strict=True):
        split, label, _ = name.split("/", 2)
        folders = from_split(path).split("/")[:-1][:2]
        in_other = label not in folders or not {*folders}.isdisjoint({*SPLIT_NAMES} - {split})
        if listed == path and in_other and not labels.isdisjoint(folders):
            lines.append(f"moved: {name} is in {'/'.join(folders)} now")
    return lines


def _read_files(images: dict[str, Path]) -> list[File]:
    """Return size and digest of the images; only those that are new or were touched are read."""
    known, seen, files = _read(KNOWN), {}, []
    for name, path in images.items():
        status, where = os.stat(path), str(path.absolute())
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        *before, digest = known.get(where, [""])
        if before != stamp:
            digest = hashlib.sha256(read_bytes(path)).hexdigest()
        files.append(File(name, status.st_size, digest))
        seen[where] = [*stamp, digest]
    if seen != known:
        write_json(KNOWN, seen)
    return files


def match_files(
    files: Sequence[File], manifest: Manifest, all_extra: bool = False
) -> tuple[dict[int, str], list[str]]:
    """Return which files are images of a manifest, by their content, and what differs.

    Of several files with the same content, as many are images as are listed, and first those that
    have a listed name. Images are returned by the places of their files; the differences are a
    line for each image that is missing or has changed, and for each extra one: beside a listed
    image or, where one is missing or it is said so, anywhere. Images that the manifest leaves out
    may be there or not.
    """
    left_out = {(entry.size, entry.sha256) for entry in manifest.values() if entry.left_out}
    manifest = used_images(manifest)
    unfound: dict[tuple[int, str], list[str]] = {}
    for name, entry in manifest.items():
        unfound.setdefault((entry.size, entry.sha256), []).append(name)
    named = listed_names((file.name for file in files), manifest)
    found: dict[int, str] = {}
    for same_name in (True, False):
        for place, file in enumerate(files):
            names = unfound.get((file.size, file.sha256), [])
            if place not in found and names and (named[place] in names or not same_name):
                found[place] = named[place] if same_name else names[0]
                names.remove(found[place])
    unlisted = {
        named[place]: file
        for place, file in enumerate(files)
        if place not in found and (file.size, file.sha256) not in left_out
    }
    missing = sorted(name for names in unfound.values() for name in names)
    lines = []
    for name in missing:
        file_now, entry = unlisted.pop(name, None), manifest[name]
        if not file_now:
            lines.append(f"missing: {name}")
        elif file_now.damage:
            lines.append(f"damaged: {name} ({file_now.damage})")
        elif file_now.size != entry.size:
            lines.append(f"changed: {name} ({file_now.size} bytes, not {entry.size})")
        else:
            digests = f"{file_now.sha256[:12]}…, not {entry.sha256[:12]}…"
            lines.append(f"changed: {name} (SHA-256 {digests})")
    lines.sort(key=lambda line: line.startswith("missing"))
    places = {PurePosixPath(files[place].name).parent for place in found}
    lines += [
        f"extra: {file.name}"
        for file in unlisted.values()
        if is_image(file.name)
        and (missing or all_extra or PurePosixPath(file.name).parent in places)
    ]
    return found, lines


def listed_names(paths: Iterable[str], manifest: Manifest) -> list[str]:
    """Return the names in a manifest that paths mean; a path that is not listed is its own.

    A path may have folders before the split, or lack the split, and the class where a table has it.
    """
    ends: dict[str, str] = {}
    for start in range(3):
        for name in manifest:
            ends.setdefault("/".join(name.split("/")[start:]), name)
    names = []
    for path in paths:
        plain = unicodedata.normalize("NFC", path)
        key = from_split(plain)
        keys = (plain, key, key.removeprefix("train/"))  # what validates may be drawn from train/
        names.append(next((ends[key] for key in keys if key in ends), path))
    return names


def from_split(path: str) -> str:
    """Return a path from its split on, if it has one.

    >>> from_split("set/Train/bee/2024/1.jpg"), from_split("photos/bee/1.jpg")
    ('train/bee/2024/1.jpg', 'photos/bee/1.jpg')
    """
    parts = path.split("/")
    for place, part in enumerate(parts[:-2]):
        if split := SPLIT_NAMES.get(part.lower()):
            return "/".join([split, *parts[place + 1 :]])
    return path
