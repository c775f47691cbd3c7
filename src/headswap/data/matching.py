"""Which files are the images of a manifest: the same content, whatever their names."""

import unicodedata
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from headswap.data.manifest import Entry, Manifest, used_images
from headswap.images.folders import SPLIT_NAMES, is_image

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


def match_files(
    files: Sequence[File], manifest: Manifest, all_extra: bool = False
) -> tuple[dict[int, str], list[str]]:
    """Return which files are images of a manifest, by their content, and what differs.

    Of several files with the same content, as many are images as are listed, and first those that
    have a listed name. Images are returned by the places of their files; the differences are a
    line for each image that is missing or has changed, and for each extra one: an image that lies
    in a class's folder beside those of listed images or, where one is missing or it is said so,
    anywhere. Images that the manifest leaves out may be there or not.
    """
    left_out = {(entry.size, entry.sha256) for entry in manifest.values() if entry.left_out}
    manifest = used_images(manifest)
    unfound: dict[tuple[int, str], list[str]] = {}
    for name, entry in manifest.items():
        unfound.setdefault((entry.size, entry.sha256), []).append(name)

    def take(file: File, same_name: bool) -> str | None:
        names = unfound.get((file.size, file.sha256), [])
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
    places = {_folder_of_classes(files[place].name, name) for place, name in found.items()}
    by_key = {name_key(file.name): file for file in unlisted}
    changed = {name: by_key[name_key(name)] for name in missing if name_key(name) in by_key}
    lines = [_change(name, manifest[name], file) for name, file in changed.items()]
    lines += [f"missing: {name}" for name in missing if name not in changed]
    images = [f for f in unlisted if is_image(f.name) and f not in changed.values()]
    lines += [
        f"extra: {file.name}"
        for file in images
        if missing or all_extra or not places.isdisjoint(PurePosixPath(file.name).parents[1:])
    ]
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
    return found, lines


def _change(name: str, entry: Entry, file: File) -> str:
    if file.damage:
        return f"damaged: {name} ({file.damage})"
    if file.size != entry.size:
        return f"changed: {name} ({file.size} bytes, not {entry.size})"
    return f"changed: {name} (SHA-256 {file.sha256[:12]}…, not {entry.sha256[:12]}…)"


def name_key(name: str) -> str:
    """Return what the names of an image have in common in a manifest and in other places.

    >>> name_key("set/Train/bee/2024/1.jpg"), name_key("photos/bee/1.jpg")
    ('train/bee/2024/1.jpg', 'photos/bee/1.jpg')
    """
    parts = unicodedata.normalize("NFC", name).split("/")
    for place, part in enumerate(parts[:-2]):
        if split := SPLIT_NAMES.get(part.lower()):
            return "/".join([split, *parts[place + 1 :]])
    return "/".join(parts)


def _folder_of_classes(file: str, name: str) -> PurePosixPath:
    """Return the folder in which the folder of an image's class lies, from its two names."""
    parents = PurePosixPath(file).parents
    return parents[min(name.count("/") - 1, len(parents) - 1)]
