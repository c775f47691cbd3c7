"""What changed in a local folder of photographs since its manifest was written."""

import hashlib
import os
from pathlib import Path
from shlex import quote

from headswap.data.listing import Listing, list_images
from headswap.data.manifest import read_manifest
from headswap.data.matching import File, match_files, name_key
from headswap.errors import UserError, bulleted
from headswap.io import is_address, local_path, read_bytes, read_json, write_json
from headswap.params import GENERATED, Dataset
from headswap.paths import RUNS

KNOWN = RUNS / "photographs.json"
"""Size, time and digest of each photograph that was read, so that it is not read again."""


def check_photographs(dataset: Dataset) -> None:
    """Check that a local folder still holds the photographs of its manifest.

    A UserError names every photograph that was added, removed, changed, or moved to another class
    or split. Where the folder is not here, as in a clone that has DVC's archive, there is nothing
    to check.
    """
    if dataset.url == GENERATED or is_address(dataset.url) or not local_path(dataset.url).is_dir():
        return
    if changes := find_changes(dataset):
        raise UserError(
            f"{dataset.url} is not as {dataset.manifest} says:\n{bulleted(changes)}\n"
            "To take the change in: "
            f"headswap manifest {quote(dataset.url)} --output {quote(dataset.manifest)}\n"
            "Then: dvc repro"
        )


def find_changes(dataset: Dataset) -> list[str]:
    """Return a line for each difference between a local folder and its manifest."""
    manifest, listing = read_manifest(dataset.manifest), list_images(dataset.url)
    files = _read_files(listing)
    if not listing.is_split:  # the manifest says in which split an image is
        full_names = {_without_split(name): name for name in manifest}
        files = [
            file._replace(name=full_names.get(file.name, f"train/{file.name}")) for file in files
        ]
    found, differences = match_files(files, manifest)
    labels = {name.split("/")[1] for name in manifest}
    for place, name in found.items():
        now = files[place].name
        if name_key(now) != name_key(name) and now.split("/")[1] in labels:
            folder, before = (path.rpartition("/")[0] for path in (now, name))
            if not listing.is_split:
                folder, before = _without_split(folder), _without_split(before)
            if folder != before:
                differences.append(f"moved: {name} is in {folder} now")
    return differences


def _without_split(name: str) -> str:
    return name.split("/", 1)[1]


def _read_files(listing: Listing) -> list[File]:
    """Return size and digest of the images; only those that are new or were touched are read."""
    try:
        known = read_json(KNOWN)
    except (OSError, ValueError):
        known = {}
    files, seen = [], {}
    for name, path in listing.images.items():
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
