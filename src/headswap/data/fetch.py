"""Fetch the archive of images: download it, pack a local folder, or draw the images."""

import contextlib
import hashlib
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from headswap.data.changes import listed_names
from headswap.data.manifest import read_manifest
from headswap.data.synthetic import draw_archive
from headswap.data.verify import DAMAGE, SHRUNK, match_archive
from headswap.download import download_file
from headswap.errors import UserError, printable
from headswap.images.folders import find_images
from headswap.images.reading import shrink_image
from headswap.io import StrPath, atomic_write, is_address, local_path, read_bytes, refuse_outputs
from headswap.params import GENERATED, Dataset, recorded_stages
from headswap.paths import ARCHIVE


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
                f"dataset.url: there is no {dataset.url} here.\n"
                "Correct params.yaml, then run: headswap check"
            )
    read_manifest(dataset.manifest)


def _check_url(url: str) -> None:
    is_web = url.lower().startswith(("https://", "http://"))
    others = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
    if url.lower().endswith(others) or (is_address(url) and not is_web):
        raise UserError(
            f"dataset.url: {url} cannot be fetched; allowed are an https:// or http:// address of "
            "a zip, a local zip, a local folder with train/ and val/ or the classes in it, and "
            f"{GENERATED}.\n"
            "Fetch and unpack it yourself, set dataset.url to the folder, then run: headswap check"
        )
    if not is_web:
        refuse_outputs(url, "dataset.url")


def fetch_archive(dataset: Dataset, archive: StrPath = ARCHIVE, shrink: bool = False) -> str | None:
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
    folder, is_web = local_path(dataset.url), is_address(dataset.url)
    if is_web or not folder.exists():
        manifest = read_manifest(dataset.manifest)
        with contextlib.suppress(*DAMAGE), zipfile.ZipFile(archive) as file:
            if not match_archive(file, manifest, shrink and not is_web)[1]:
                return None
    elif folder.is_dir():
        manifest, images = read_manifest(dataset.manifest), find_images(folder)
        sizes = {entry.size for entry in manifest.values()}
        packed = {
            printable(name): path
            for name, path in zip(listed_names(images, manifest), images.values(), strict=True)
            if name in manifest or path.stat().st_size in sizes
        }
        members = list(packed.items())
        with (
            atomic_write(archive) as temporary,
            zipfile.ZipFile(temporary, "w") as file,
            ThreadPoolExecutor(os.cpu_count()) as pool,
        ):
            for start in range(0, len(members), 64):  # a few at a time, for they may be large
                for member in pool.map(partial(_read, shrink), members[start : start + 64]):
                    file.writestr(*member)
        return str(folder)
    return download_file(dataset.url, archive, _check_zip)


def _read(shrink: bool, named: tuple[str, Path]) -> tuple[zipfile.ZipInfo, bytes]:
    """Return what is stored of a photograph, with a comment that names the original if need be."""
    member, content = zipfile.ZipInfo(named[0]), read_bytes(named[1])
    stored = shrink_image(content) if shrink else content
    if stored is not content:
        digest = hashlib.sha256(content).hexdigest()
        member.comment = SHRUNK.format(len(content), digest).encode()
    return member, stored


def _check_zip(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        raise ValueError("not a zip archive (a web page perhaps), or an incomplete one")
