"""Fetch the archive of images: download it, pack a local folder, or draw the images."""

import contextlib
import hashlib
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from headswap.data.changes import check_url, listed_names
from headswap.data.manifest import read_manifest
from headswap.data.synthetic import draw_archive
from headswap.data.verify import DAMAGE, SHRUNK, match_archive
from headswap.download import download_file
from headswap.errors import printable
from headswap.images.folders import find_images
from headswap.images.reading import shrink_image
from headswap.io import StrPath, atomic_write, is_address, local_path, read_bytes
from headswap.params import GENERATED, Dataset
from headswap.paths import ARCHIVE


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
    check_url(dataset.url)
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
