"""What changed in a local folder of photographs since its manifest was written."""

import contextlib
import hashlib
import os
import unicodedata
from pathlib import Path
from shlex import quote

from headswap.data.manifest import Manifest, read_manifest
from headswap.data.matching import File, match_files, name_key
from headswap.errors import UserError, bulleted
from headswap.images.folders import find_images
from headswap.io import is_address, local_path, read_bytes, read_json, write_json
from headswap.params import GENERATED, Dataset
from headswap.paths import RUNS

COMMANDS = RUNS / "manifests.json"
"""The command that wrote each manifest, without what splits all photographs anew."""
KNOWN = RUNS / "photographs.json"
"""Size, time and digest of each photograph that was read, so that it is not read again."""


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


def manifest_command(dataset: Dataset) -> str:
    """Return the command that writes a dataset's manifest, with the options that were used."""
    command = f"headswap manifest {quote(dataset.url)} --output {quote(dataset.manifest)}"
    with contextlib.suppress(OSError, ValueError):
        return read_json(COMMANDS).get(command, command)
    return command


def remember_command(dataset: Dataset, options: dict[str, object]) -> None:
    """Remember the options with which a dataset's manifest was written."""
    before = {}
    with contextlib.suppress(OSError, ValueError):
        before = read_json(COMMANDS)
    command = f"headswap manifest {quote(dataset.url)} --output {quote(dataset.manifest)}"
    words = [f"--{name} {quote(str(value))}" for name, value in options.items() if value]
    write_json(COMMANDS, {**before, command: " ".join([command, *words])})


def note_changes(dataset: Dataset) -> str:
    """Return a line that says that a local folder is not as its manifest says, empty if it is."""
    if not (changes := find_changes(dataset)):
        return ""
    count = f"{len(changes)} photograph{'s' * (len(changes) > 1)}"
    return (
        f"{dataset.url} is not as {dataset.manifest} says ({count} added, removed, changed or "
        "moved). To see which: headswap check"
    )


def find_changes(dataset: Dataset) -> list[str]:
    """Return a line for each difference between a local folder, if it is one, and its manifest."""
    if dataset.url == GENERATED or is_address(dataset.url) or not local_path(dataset.url).is_dir():
        return []
    manifest, images = read_manifest(dataset.manifest), find_images(local_path(dataset.url))
    names = manifest_names(images, manifest)
    files = _read_files({names[path]: file for path, file in images.items()})
    found, differences = match_files(files, manifest, all_extra=True)
    labels = {name.split("/")[1] for name, entry in manifest.items() if not entry.left_out}
    paths = list(images)
    for place, name in found.items():
        split, label, *_ = name.split("/")
        *folders, _ = name_key(paths[place]).split("/")
        if names[paths[place]] in manifest or not folders:
            continue
        if folders[0] in labels and folders[0] != label:
            differences.append(f"moved: {name} is in {folders[0]} now")
        elif folders[1:] and folders[1] in labels and folders[:2] != [split, label]:
            differences.append(f"moved: {name} is in {folders[0]}/{folders[1]} now")
    return differences


def manifest_names(paths: dict[str, Path], manifest: Manifest) -> dict[str, str]:
    """Return the names in a manifest of the images in a folder, by their paths in it.

    A path is as in the manifest, or without the split, or, where a table has the labels, without
    the class, too. An image that is not listed keeps its path.
    """
    used = [name for name, entry in manifest.items() if not entry.left_out]
    of_class = {name.split("/", 1)[1]: name for name in used}
    of_table = {name.split("/", 2)[2]: name for name in used}
    plain = {path: unicodedata.normalize("NFC", path) for path in paths}
    by_table = sum(path in of_table for path in plain.values())
    if by_table > sum(name_key(path) in manifest or path in of_class for path in plain.values()):
        return {path: of_table.get(name, path) for path, name in plain.items()}
    names = {}
    for path, name in plain.items():
        key = name_key(name)
        other = of_class.get(name) or of_class.get(key.partition("/")[2], path)
        names[path] = key if key in manifest else other
    return names


def _read_files(images: dict[str, Path]) -> list[File]:
    """Return size and digest of the images; only those that are new or were touched are read."""
    try:
        known = read_json(KNOWN)
    except (OSError, ValueError):
        known = {}
    files, seen = [], {}
    for name, path in images.items():
        status = os.stat(path)
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        where = str(Path(path).absolute())
        if known.get(where, [])[:3] == stamp:
            digest = known[where][3]
        else:
            digest = hashlib.sha256(read_bytes(path)).hexdigest()
        files.append(File(name, status.st_size, digest))
        seen[where] = [*stamp, digest]
    if seen != known:
        write_json(KNOWN, seen)
    return files
