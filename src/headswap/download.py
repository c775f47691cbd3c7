"""One file from the first place that has it: mirror, cache, internet."""

import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import requests

from headswap.errors import UserError
from headswap.io import atomic_write

MIRROR = "HEADSWAP_MIRROR"
TIMEOUT = (5, 30)
"""Seconds to wait for a connection, and for the next bytes."""
RETRIES = 2


def obtain(url, destination, check, caches=(), pinned=True):
    """Put a file in its place, whole and checked, or leave what was there.

    Parameters
    ----------
    url : str
        Where the file lives. Its last part is the name by which a mirror has it.
    destination : path-like
        Where the file goes.
    check : callable
        Called with the path of a copy; raises ValueError, saying what is wrong, if it will not do.
    caches : iterable of path-like
        Local files to try after the mirror and before `url`.
    pinned : bool
        Whether all of the content's SHA-256 is known. If not, plain HTTP, on whose way anybody may
        exchange a file, is refused (but from this machine).

    Returns
    -------
    str
        The place that the file came from.

    Raises
    ------
    UserError
        If no place had a good copy: which were tried, and what was wrong with each.
    """
    name = url.rsplit("/", 1)[-1]
    tried = []
    with atomic_write(destination) as copy:
        for place in _places(url, name, caches):
            try:
                if not pinned:
                    _refuse_plain_http(place)
                _copy(place, copy)
                check(copy)
            except (OSError, ValueError, requests.RequestException) as error:
                tried.append(f"  {place}: {_in_words(error)}")
                copy.unlink(missing_ok=True)
                continue
            return place
        raise UserError(
            f"{name} could not be had. Tried:\n"
            + "\n".join(tried)
            + f"\nWithout network: put {name} into a folder and set {MIRROR} to that folder's "
            "absolute path.\n`make demo` needs neither network nor mirror."
        )


def _places(url, name, caches):
    mirror = os.environ.get(MIRROR, "").rstrip("/")
    if mirror:
        yield f"{mirror}/{name}"
    yield from (str(cache) for cache in caches)
    yield url


def _refuse_plain_http(place):
    address = urlsplit(place)
    if address.scheme == "http" and address.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise ValueError("plain HTTP, and not all of its digest is known; use https:// or a folder")


def _copy(place, destination):
    if "://" not in place:
        shutil.copyfile(Path(place).expanduser(), destination)
        return
    pooch.get_logger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(dir=destination.parent) as folder:
        downloads = pooch.create(
            folder, "", registry={"file": None}, urls={"file": place}, retry_if_failed=RETRIES
        )
        downloader = pooch.HTTPDownloader(timeout=TIMEOUT, progressbar=sys.stderr.isatty())
        # A copy, because pooch's file is readable by its owner alone.
        shutil.copyfile(downloads.fetch("file", downloader=downloader), destination)


def _in_words(error):
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, requests.HTTPError):
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.ReadTimeout) or "Read timed out" in str(error):
        return f"no answer for {TIMEOUT[1]} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off before the file was whole"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return str(error)
