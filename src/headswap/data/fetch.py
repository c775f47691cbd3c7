"""Fetch the archive of images: download it, pack a local folder, or draw the images."""

import hashlib
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from os import PathLike
from pathlib import Path

from headswap.data.changes import listed_names
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
    if not is_address(dataset.url) and not local_path(dataset.url).exists():
        # In a clone and in a queued experiment DVC has the archive that was packed from the folder.
        packed = recorded_stages().get("fetch", {}).get("params", {}).get("params.yaml", {})
        if packed.get("dataset.url") != dataset.url:
            raise UserError(
                f"dataset.url: there is no {dataset.url} here; {ALLOWED}.\n"
                "Correct params.yaml, then run: headswap check"
            )
    read_manifest(dataset.manifest)


def _check_url(url: str) -> None:
    """Raise a UserError if an address or path is of a kind that cannot be fetched."""
    is_web = url.lower().startswith(("https://", "http://"))
    if url.lower().endswith(OTHER_ARCHIVES) or (is_address(url) and not is_web):
        raise UserError(
            f"dataset.url: {url} cannot be fetched; {ALLOWED}.\n"
            "Fetch and unpack it yourself, set dataset.url to the folder, then run: headswap check"
        )
    if not is_web:
        refuse_outputs(url, "dataset.url")


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
    folder = local_path(dataset.url)
    if is_address(dataset.url) or not folder.exists():
        has_shrunk = shrink and not is_address(dataset.url)
        manifest = read_manifest(dataset.manifest)
        if Path(archive).exists() and archive_fits(archive, manifest, has_shrunk):
            return None
    elif folder.is_dir():
        manifest, images = read_manifest(dataset.manifest), find_images(folder)
        sizes = {entry.size for entry in manifest.values()}
        packed = {
            printable(name): image
            for name, image in zip(listed_names(images, manifest), images.values(), strict=True)
            if name in manifest or image.stat().st_size in sizes
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
    if not zipfile.is_zipfile(path):
        raise ValueError("not a zip archive (a web page perhaps), or an incomplete one")
