"""Fetch the archive of images: download it, pack a local folder, or draw the images."""

import hashlib
import os
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from os import PathLike
from pathlib import Path

from headswap.data.changes import manifest_names
from headswap.data.manifest import read_manifest
from headswap.data.synthetic import draw_archive
from headswap.data.verify import archive_fits
from headswap.download import download_file
from headswap.errors import UserError, printable
from headswap.images.folders import find_images
from headswap.images.reading import shrink_image
from headswap.io import atomic_write, is_address, local_path, read_bytes, refuse_outputs
from headswap.params import GENERATED, Dataset, recorded_stages
from headswap.paths import ARCHIVE

ALLOWED = (
    "allowed are an https:// or http:// address of a zip, a local zip, a local folder with "
    f"train/ and val/ or the classes in it, and {GENERATED}"
)
OTHER_ARCHIVES = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")


def check_dataset(dataset: Dataset) -> None:
    """Check that the parameters name images that can be fetched and a correct manifest."""
    if dataset.url == GENERATED:
        return
    _check_url(dataset.url)
    refuse_outputs(dataset.manifest, "dataset.manifest")
    here = is_address(dataset.url) or local_path(dataset.url).exists()
    if not here and not _dvc_has_archive(dataset.url):
        raise UserError(
            f"dataset.url: there is no {dataset.url} here; {ALLOWED}.\n"
            "Correct params.yaml, then run: headswap check"
        )
    read_manifest(dataset.manifest)


def _check_url(url: str) -> None:
    """Raise a UserError if an address or path is of a kind that cannot be fetched."""
    scheme = url.partition("://")[0] if is_address(url) else ""
    if url.lower().endswith(OTHER_ARCHIVES):
        what = "is an archive of a kind that is not read"
        remedy = "Unpack it, and set dataset.url to the folder"
    elif scheme == "file":
        what, remedy = "is not written as a path", f"Set dataset.url to {url[7:]}"
    elif scheme and scheme.lower() not in ("http", "https"):
        what = f"is an address of a kind that is not fetched, {scheme}://"
        remedy = "Fetch it yourself, and set dataset.url to the folder or zip on this machine"
    else:
        if not scheme:
            refuse_outputs(url, "dataset.url")
        return
    raise UserError(f"dataset.url: {url} {what}; {ALLOWED}.\n{remedy}, then run: headswap check")


def _dvc_has_archive(url: str) -> bool:
    """Return whether DVC has the archive that was packed from a folder that is not here.

    So it is in a clone and in a queued experiment, which DVC copies without the folder.
    """
    fetch = recorded_stages().get("fetch", {})
    return fetch.get("params", {}).get("params.yaml", {}).get("dataset.url") == url


def fetch_archive(
    dataset: Dataset, archive: str | PathLike[str] = ARCHIVE, shrink: bool = False
) -> str | None:
    """Write the archive of images; return where it came from, None if it was there already.

    An archive that is there already and holds the images of the manifest is not downloaded again,
    so that neither an edit of this code nor a new address makes a download necessary. A local zip
    or folder is copied each time, since the images may have changed; large photographs of a folder
    are shrunk on the way.
    """
    if dataset.url == GENERATED:
        with atomic_write(archive) as temporary:
            draw_archive(temporary)
        return GENERATED
    _check_url(dataset.url)
    here = not is_address(dataset.url) and local_path(dataset.url).exists()
    if (
        not here
        and Path(archive).exists()
        and archive_fits(
            archive, read_manifest(dataset.manifest), shrink and not is_address(dataset.url)
        )
    ):
        return None
    folder = local_path(dataset.url)
    if here and folder.is_dir():
        manifest, images = read_manifest(dataset.manifest), find_images(folder)
        names, sizes = manifest_names(images, manifest), {one.size for one in manifest.values()}
        packed = {
            printable(names[path]): image
            for path, image in images.items()
            if names[path] in manifest or image.stat().st_size in sizes
        }
        with (
            atomic_write(archive) as temporary,
            zipfile.ZipFile(temporary, "w") as file,
            ThreadPoolExecutor(os.cpu_count()) as pool,
        ):
            paths = list(packed)
            for start in range(0, len(paths), 64):  # a few at a time, for they may be large
                some = paths[start : start + 64]
                read = pool.map(partial(_read_stored, shrink=shrink), [packed[n] for n in some])
                for name, (content, comment) in zip(some, read, strict=True):
                    member = zipfile.ZipInfo(name)
                    member.comment = comment
                    file.writestr(member, content)
        return str(folder)
    return download_file(dataset.url, archive, _check_zip)


def _read_stored(path: Path, shrink: bool) -> tuple[bytes, bytes]:
    """Return what is stored of a photograph, and the comment that names the original if need be."""
    content = read_bytes(path)
    stored = shrink_image(content) if shrink else content
    if stored is content:
        return content, b""
    digest = hashlib.sha256(content).hexdigest()
    return stored, f"shrunk from {len(content)} bytes with SHA-256 {digest}".encode()


def _check_zip(path: Path) -> None:
    if zipfile.is_zipfile(path):
        return
    with open(path, "rb") as file:
        start = file.read(512).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError("a web page, not a zip archive; open the address in a browser to see why")
    if tarfile.is_tarfile(path):
        raise ValueError("a tar archive; unpack it, and set dataset.url to the folder")
    raise ValueError("not a zip archive, or an incomplete one")
