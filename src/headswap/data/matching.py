"""Which files are the images of a manifest: the same content, whatever their names."""

import unicodedata
from pathlib import PurePosixPath
from typing import NamedTuple

from headswap.data.listing import SPLIT_NAMES
from headswap.data.manifest import Entry, Manifest
from headswap.images.folders import is_image

MANY = 20
"""From how many differences on the message says what they have in common."""


class Other(NamedTuple):
    """A file that is none of the images that a manifest lists.

    Attributes
    ----------
    name
        In its archive or folder.
    size
        In bytes.
    sha256
        Empty if the size is that of no listed image.
    damage
        Why it cannot be read, empty if it can.
    """

    name: str
    size: int
    sha256: str = ""
    damage: str = ""


class Matching:
    """Matches files with the images of a manifest by their content.

    Of several files with the same content each is one image, of as many as are listed.

    Parameters
    ----------
    manifest
        What is looked for.
    """

    def __init__(self, manifest: Manifest):
        self._manifest = manifest
        self._open: dict[Entry, list[str]] = {}
        for name, entry in manifest.items():
            self._open.setdefault(entry, []).append(name)
        self._places: set[str] = set()
        self._others: list[Other] = []
        self.sizes = {entry.size for entry in manifest.values()}

    def match(self, name: str, entry: Entry, same_name: bool = False) -> str | None:
        """Return the name of the listed image that a file is, None if it is none.

        Parameters
        ----------
        name, entry
            Of the file.
        same_name
            Whether the listed image must have the same name. To be tried for all files first.
        """
        names = self._open.get(entry, [])
        same = [listed for listed in names if _key(listed) == _key(name)]
        if not (same if same_name else names):
            return None
        found = (same or names)[0]
        names.remove(found)
        self._places.add(_class_folders(name))
        return found

    def add_other(self, other: Other) -> None:
        """Add a file that is no listed image."""
        self._others.append(other)

    def differences(self) -> list[str]:
        """Return a line for each image that is missing or has changed, and for each extra one.

        Extra is an image that lies in a class's folder beside those of listed images or, where
        one is missing, anywhere.
        """
        missing = sorted(name for names in self._open.values() for name in names)
        by_key = {_key(other.name): other for other in self._others}
        pairs = {name: by_key[_key(name)] for name in missing if _key(name) in by_key}
        lines = [_change(name, self._manifest[name], other) for name, other in pairs.items()]
        lines += [f"missing: {name}" for name in missing if name not in pairs]
        images = [o for o in self._others if is_image(o.name) and o not in pairs.values()]
        extra = [o for o in images if missing or _class_folders(o.name) in self._places]
        lines += [f"extra: {other.name}" for other in extra]
        if len(missing) >= MANY:
            lines.insert(0, self._pattern(len(missing), len(pairs), len(images)))
        return lines

    def _pattern(self, missing: int, changed: int, others: int) -> str:
        listed = len(self._manifest)
        text = f"of {listed} listed images, {listed - missing} are there by content"
        if changed:
            text += f"; {changed} have the name of one and other content"
            if changed == missing:
                text += ": saved anew, resized, or another edition of the set"
        elif others:
            text += f"; none of the {others} other images has the name of one: another set"
        return text


def _change(name: str, entry: Entry, other: Other) -> str:
    if other.damage:
        return f"damaged: {name} ({other.damage})"
    if other.size != entry.size:
        return f"changed: {name} ({other.size} bytes, not {entry.size})"
    return f"changed: {name} (SHA-256 {other.sha256[:12]}…, not {entry.sha256[:12]}…)"


def _key(name: str) -> str:
    """Return what the names of an image have in common in a manifest and in other places."""
    parts = [unicodedata.normalize("NFC", part) for part in PurePosixPath(name).parts[-3:]]
    if len(parts) == 3:
        parts[0] = SPLIT_NAMES.get(parts[0].lower(), parts[0])
    return "/".join(parts)


def _class_folders(name: str) -> str:
    """Return the folder in which the folder of an image's class lies."""
    return PurePosixPath(name).parent.parent.as_posix()
