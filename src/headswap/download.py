"""Download a file, or copy it from a mirror or a cache, and check it."""

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import requests

from headswap.errors import UserError
from headswap.io import atomic_write, is_address, local_path

MIRROR = "HEADSWAP_MIRROR"
"""The environment variable that names a folder or base URL to try first."""
TIMEOUT = (5, 30)
"""Seconds to wait for a connection, and for the next bytes."""
RETRIES = 2


def download_file(
    url: str,
    destination: str | PathLike[str],
    check: Callable[[Path], None],
    caches: Iterable[str | PathLike[str]] = (),
    pinned: bool = True,
    name: str | None = None,
) -> str:
    """Write a file from the first source that has a good copy: mirror, cache, URL; return which.

    The last part of `url`, an address or a local path, is the file's name in a mirror, unless a
    `name` is given; `caches` are local files. `check` raises ValueError to reject a copy. If it is
    not `pinned`, compared with a full SHA-256 now or by a later stage, plain HTTP is refused
    (except from this machine). If no source has a good copy, a file that is there already stays; a
    UserError names what was wrong.
    """
    name, failures = name or url.rsplit("/", 1)[-1], []
    mirror = os.environ.get(MIRROR, "").rstrip("/")
    # A local file is the one that is meant.
    mirrored = [f"{mirror}/{name}"] if mirror and is_address(url) else []
    with atomic_write(destination) as copy:
        for source in [*mirrored, *map(str, caches), url]:
            try:
                if not pinned:
                    _refuse_plain_http(source)
                _copy(source, copy)
                check(copy)
            except (OSError, ValueError, requests.RequestException) as error:
                failures.append(f"  {source}: {_describe(error)}")
                copy.unlink(missing_ok=True)
            else:
                return source
        tried = "\n".join(failures)
        raise UserError(
            f"{name} could not be downloaded. Tried:\n{tried}\nWithout network: put "
            f"{name} into a folder and set {MIRROR} to that folder's absolute path.\n"
            "`make demo` needs neither network nor mirror."
        )


def _refuse_plain_http(source: str) -> None:
    address = urlsplit(source)
    if address.scheme == "http" and address.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise ValueError("plain HTTP, and its full digest is not known; use https:// or a folder")


def _copy(source: str, destination: Path) -> None:
    if not is_address(source):
        shutil.copyfile(local_path(source), destination)
        return
    pooch.get_logger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(dir=destination.parent) as folder:
        downloads = pooch.create(
            folder, "", registry={"file": None}, urls={"file": source}, retry_if_failed=RETRIES
        )
        downloader = pooch.HTTPDownloader(timeout=TIMEOUT, progressbar=sys.stderr.isatty())
        # A copy, because only its owner may read pooch's file.
        shutil.copyfile(downloads.fetch("file", downloader=downloader), destination)


def _describe(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, requests.HTTPError):
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.ReadTimeout) or "Read timed out" in str(error):
        return f"no answer for {TIMEOUT[1]} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off before the file was complete"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return str(error)
