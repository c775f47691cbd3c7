"""Which files are the images of a manifest: the same content, whatever their names."""

import unicodedata
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from headswap.data.listing import SPLIT_NAMES
from headswap.data.manifest import Entry, Manifest, without_duplicates
from headswap.images.folders import is_image

MANY = 20
"""From how many differences on the message says what they have in common."""


class File(NamedTuple):
    """A file in an archive or folder that may be an image of a manifest.

    ``sha256`` is empty where it is not known, because the size is that of no listed image or the
    file cannot be read; ``damage`` says why it cannot.
    """

    name: str
    size: int
    sha256: str = ""
    damage: str = ""


def match_files(files: Sequence[File], manifest: Manifest) -> tuple[dict[int, str], list[str]]:
    """Return which files are images of a manifest, by their content, and what differs.

    Of several files with the same content, as many are images as are listed, and first those that
    have a listed name. Images are returned by the places of their files; the differences are a
    line for each image that is missing or has changed, and for each extra one: an image that lies
    in a class's folder beside those of listed images or, where one is missing, anywhere. Images
    that the manifest leaves out may be there or not.
    """
    left_out = {entry[:2] for entry in manifest.values() if entry.duplicate_of}
    manifest = without_duplicates(manifest)
    unfound: dict[Entry, list[str]] = {}
    for name, entry in manifest.items():
        unfound.setdefault(entry, []).append(name)

    def take(file: File, same_name: bool) -> str | None:
        names = unfound.get(Entry(file.size, file.sha256), [])
        for name in names:
            if not same_name or name_key(name) == name_key(file.name):
                names.remove(name)
                return name
        return None

    found: dict[int, str] = {}
    for same_name in (True, False):
        for place, file in enumerate(files):
            if place not in found and (taken := take(file, same_name)):
                found[place] = taken
    missing = sorted(name for names in unfound.values() for name in names)
    unlisted = [
        file
        for place, file in enumerate(files)
        if place not in found and (file.size, file.sha256) not in left_out
    ]
    places = {_class_folders(files[place].name) for place in found}
    return found, _describe(missing, unlisted, places, manifest)


def _describe(
    missing: list[str], unlisted: list[File], places: set[str], manifest: Manifest
) -> list[str]:
    by_key = {name_key(file.name): file for file in unlisted}
    changed = {name: by_key[name_key(name)] for name in missing if name_key(name) in by_key}
    lines = [_change(name, manifest[name], file) for name, file in changed.items()]
    lines += [f"missing: {name}" for name in missing if name not in changed]
    images = [f for f in unlisted if is_image(f.name) and f not in changed.values()]
    extra = [f for f in images if missing or _class_folders(f.name) in places]
    lines += [f"extra: {file.name}" for file in extra]
    if len(missing) >= MANY:
        there = len(manifest) - len(missing)
        text = f"of {len(manifest)} listed images, {there} are there by content"
        if changed:
            text += f"; {len(changed)} have the name of one and other content"
            if len(changed) == len(missing):
                text += ": saved anew, resized, or another edition of the set"
        elif images:
            text += f"; none of the {len(images)} other images has the name of one: another set"
        lines.insert(0, text)
    return lines


def _change(name: str, entry: Entry, file: File) -> str:
    if file.damage:
        return f"damaged: {name} ({file.damage})"
    if file.size != entry.size:
        return f"changed: {name} ({file.size} bytes, not {entry.size})"
    return f"changed: {name} (SHA-256 {file.sha256[:12]}…, not {entry.sha256[:12]}…)"


def name_key(name: str) -> str:
    """Return what the names of an image have in common in a manifest and in other places."""
    parts = [unicodedata.normalize("NFC", part) for part in PurePosixPath(name).parts[-3:]]
    if len(parts) == 3:
        parts[0] = SPLIT_NAMES.get(parts[0].lower(), parts[0])
    return "/".join(parts)


def _class_folders(name: str) -> str:
    """Return the folder in which the folder of an image's class lies."""
    return PurePosixPath(name).parent.parent.as_posix()
