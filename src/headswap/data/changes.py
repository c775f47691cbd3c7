"""What changed in a local folder of photographs since its manifest was written."""

import hashlib
import os
from pathlib import Path
from shlex import quote

from headswap.data.listing import Listing, list_images
from headswap.data.manifest import Entry, Manifest, read_manifest
from headswap.data.matching import Matching, Other
from headswap.errors import UserError, bulleted
from headswap.io import is_address, local_path, read_bytes, read_json, write_json
from headswap.params import GENERATED, Dataset
from headswap.paths import RUNS

KNOWN = RUNS / "photographs.json"
"""Size, time and digest of each photograph that was read, so that it is not read again."""


def check_photographs(dataset: Dataset) -> None:
    """Check that a local folder still holds the photographs of its manifest.

    Where the folder is not here, as in a clone that has DVC's archive, there is nothing to check.

    Raises
    ------
    UserError
        With every photograph that was added, removed, changed, or moved to another class or split.
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
    """Return a line for each difference between a local folder and its manifest.

    Files whose size and time are as before are not read.
    """
    manifest = read_manifest(dataset.manifest)
    listing = list_images(dataset.url)
    listed = dict(zip(map(_short, manifest), manifest, strict=True))
    matching, moved = Matching(manifest), []
    others: list[tuple[str, Entry]] = []
    for name, entry in _read_digests(listing).items():
        name = name if listing.is_split else listed.get(name, f"train/{name}")
        if not matching.match(name, entry, same_name=True):
            others.append((name, entry))
    labels = {name.split("/")[1] for name in manifest}
    for name, entry in others:
        found = matching.match(name, entry)
        if found is None:
            matching.add_other(Other(name, *entry))
        elif name.split("/")[1] in labels and _place(name, listing) != _place(found, listing):
            moved.append(f"moved: {found} is in {_place(name, listing)} now")
    return matching.differences() + moved


def _short(name: str) -> str:
    """Return ``<class>/<image>``, the name in a folder that is not split."""
    return name.split("/", 1)[1]


def _place(name: str, listing: Listing) -> str:
    folder = name.rpartition("/")[0]
    return folder if listing.is_split else _short(folder)


def _read_digests(listing: Listing) -> Manifest:
    """Return size and digest of the images; only those that are new or were touched are read."""
    try:
        known = read_json(KNOWN)
    except (OSError, ValueError):
        known = {}
    entries, seen = {}, {}
    for name, path in listing.images.items():
        status = os.stat(path)
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        where = str(Path(path).absolute())
        if known.get(where, [])[:3] == stamp:
            digest = known[where][3]
        else:
            digest = hashlib.sha256(read_bytes(path)).hexdigest()
        entries[name], seen[where] = Entry(status.st_size, digest), [*stamp, digest]
    if seen != known:
        write_json(KNOWN, seen)
    return entries
