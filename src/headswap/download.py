"""Download a file, or copy it from a mirror or a cache, and check it."""

import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import requests

from headswap.errors import UserError
from headswap.io import StrPath, atomic_write, is_address, local_path

MIRROR = "HEADSWAP_MIRROR"  # a folder or base URL to try first
TIMEOUT = (5, 30)  # seconds to wait for a connection, and for the next bytes
RETRIES = 2


def download_file(
    url: str,
    destination: StrPath,
    check: Callable[[Path], None],
    caches: Iterable[StrPath] = (),
    pinned: bool = True,
    name: str | None = None,
) -> str:
    """Write a file from the first source that has a good copy: mirror, cache, URL; return which.

    `name` is the file's in a mirror, by default the last part of `url`, which may be a local path.
    `check` raises ValueError to reject a copy. What is not `pinned` by a full SHA-256 is not taken
    over plain HTTP, except from this machine. Without a good copy a file that is there stays.
    """
    name, failures = name or url.rsplit("/", 1)[-1], []
    mirror = os.environ.get(MIRROR, "").rstrip("/")
    mirrored = [f"{mirror}/{name}"] if mirror and is_address(url) else []
    with atomic_write(destination) as copy:
        for source in [*mirrored, *map(str, caches), url]:
            try:
                _copy(source, copy, pinned)
                check(copy)
                return source
            except (OSError, ValueError) as error:
                failures.append(f"  {source}: {_describe(error)}")
                copy.unlink(missing_ok=True)
        remedy = f"Without network: put this file into a folder, set {MIRROR} to the folder's "
        remedy += "absolute path,\nthen run the same command again."
        demo = "`make demo` needs neither network nor mirror."
        raise UserError("\n".join([f"{name} could not be downloaded:", *failures, remedy, demo]))


def _copy(source: str, destination: Path, pinned: bool) -> None:
    if not is_address(source):
        shutil.copyfile(local_path(source), destination)
        return
    is_here = urlsplit(source).hostname in ("127.0.0.1", "::1", "localhost")
    if source.lower().startswith("http:") and not (pinned or is_here):
        raise ValueError("plain HTTP, and its full digest is not known; use https:// or a folder")
    pooch.get_logger().setLevel("ERROR")
    files = {"registry": {destination.name: None}, "urls": {destination.name: source}}
    downloads = pooch.create(destination.parent, "", retry_if_failed=RETRIES, **files)
    downloader = pooch.HTTPDownloader(timeout=TIMEOUT, progressbar=sys.stderr.isatty())
    downloads.fetch(destination.name, downloader=downloader)


def _describe(error: Exception) -> str:
    if isinstance(error, requests.HTTPError):
        return f"the server answered {error.response.status_code} {error.response.reason}"
    kinds = {
        FileNotFoundError: "no such file",
        requests.exceptions.ChunkedEncodingError: "the connection broke off before the end",
        requests.ConnectionError: "no connection",
    }
    text = next((kinds[kind] for kind in kinds if isinstance(error, kind)), str(error))
    return f"no answer for {TIMEOUT[1]} s" if "Read timed out" in str(error) else text
