"""Groups of photographs that are not independent, from their paths and the times in their EXIF.

An empty group is that of a photograph alone.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from os import PathLike
from pathlib import PurePosixPath
from shlex import quote

from PIL import ExifTags

from headswap.errors import UserError, printable
from headswap.images.reading import open_image

EXAMPLES = "Type, for instance, --group '(site[0-9]+)/', or --group folder."
TIMES = (
    (ExifTags.Base.DateTimeOriginal, ExifTags.Base.SubsecTimeOriginal),
    (ExifTags.Base.DateTime, ExifTags.Base.SubsecTime),
)
"""Of the shutter, else of the file, each with the digits after its seconds."""


def groups_by_pattern(paths: Sequence[str], pattern: str) -> list[str]:
    """Return what a regular expression finds in each path: its first group, if it has one.

    >>> groups_by_pattern(["bee/id7_1.jpg", "bee/id7_2.jpg", "bee/new.jpg"], "id([0-9]+)_")
    ['7', '7', '']
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"--group {quote(pattern)} is no regular expression: {error}.\n{EXAMPLES}"
        ) from None
    found = [expression.search(path) for path in paths]
    groups = [match[min(1, expression.groups)] or "" if match else "" for match in found]
    if not any(groups):
        raise UserError(
            f"--group {quote(pattern)} matches none of the {len(paths)} paths, such as "
            f"{printable(paths[0])}.\n{EXAMPLES}"
        )
    return groups


def groups_by_time(
    paths: Sequence[str], times: Sequence[datetime | None], minutes: float
) -> list[str]:
    """Return the burst of each photograph: in one folder, each at most `minutes` after another.

    A burst's name is its folder and first time; a photograph without a time is alone.
    """
    folders: dict[str, list[tuple[datetime, int]]] = defaultdict(list)
    for place, (path, time) in enumerate(zip(paths, times, strict=True)):
        if time:
            folders[str(PurePosixPath(path).parent)].append((time, place))
    groups = [""] * len(paths)
    for folder, shots in folders.items():
        last, name = datetime.min, ""
        for time, place in sorted(shots):
            if time - last > timedelta(minutes=minutes):
                name = f"{folder}/{time.isoformat()}"
            groups[place], last = name, time
    return groups


def time_taken(path: str | PathLike[str]) -> datetime | None:
    """Return when a photograph was taken, by its EXIF; None if it does not say."""
    try:
        with open_image(path) as image:
            exif = image.getexif()
            tags = {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
    except Exception:  # not an image, or damaged EXIF
        return None
    for tag, fraction in TIMES:
        try:
            time = datetime.strptime(str(tags.get(tag)).strip("\0 "), "%Y:%m:%d %H:%M:%S")
        except ValueError:  # none, or 0000:00:00 from a camera whose clock was not set
            continue
        digits = str(tags.get(fraction, "")).strip("\0 ")
        return time + timedelta(seconds=float(f"0.{digits}" if digits.isdecimal() else 0))
    return None
