"""Verify the images of the archive against the manifest, and unpack them."""

import hashlib
import lzma
import stat
import warnings
import zipfile
import zlib
from collections.abc import Callable
from os import PathLike
from pathlib import Path, PurePosixPath

from PIL import Image, UnidentifiedImageError

from headswap.data.manifest import Entry, Manifest, parse_manifest, read_manifest
from headswap.data.synthetic import MANIFEST
from headswap.errors import UserError, bulleted
from headswap.images.folders import SPLITS, is_image
from headswap.images.reading import read_image
from headswap.io import atomic_write
from headswap.params import GENERATED, Dataset
from headswap.paths import ARCHIVE, IMAGES

DAMAGE = zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError
"""What `zipfile` raises for a damaged archive or member."""


def verify_images(
    dataset: Dataset,
    archive: str | PathLike[str] = ARCHIVE,
    images: str | PathLike[str] = IMAGES,
    before_writing: Callable[[], None] = lambda: None,
) -> Manifest:
    """Compare the archive's images with the manifest, and unpack them.

    The manifest, not the archive, decides which files are written and how large each may be:
    nothing is written outside the folder, and a small archive cannot fill the disk.

    Parameters
    ----------
    dataset
        Generated images have their manifest in the archive; all others, in ``dataset.manifest``.
    archive
        The zip to read.
    images
        The folder to write.
    before_writing
        Called when all images are verified, before they replace those of before.

    Returns
    -------
    Manifest
        The images that were verified.

    Raises
    ------
    UserError
        If an image is missing, extra, changed, or cannot be read; with all of their names.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            if dataset.url == GENERATED:
                manifest, name = _generated_manifest(file), MANIFEST
            else:
                manifest, name = read_manifest(dataset.manifest), dataset.manifest
            with atomic_write(images) as folder:
                differences = compare_archive(file, manifest, folder)
                unreadable = find_unreadable_images(folder)
                if differences or unreadable:
                    raise UserError(_describe(archive, name, differences, unreadable))
                before_writing()
    except FileNotFoundError as error:
        raise UserError(f"There is no {error.filename}.\nGet it with: dvc repro fetch") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise UserError(
            f"{archive} is damaged: {error}.\n"
            "Get a good copy with: dvc repro --force --single-item fetch"
        ) from None
    return manifest


def archive_fits(archive: str | PathLike[str], manifest: Manifest) -> bool:
    """Return whether an archive is intact and holds the images of a manifest and no others."""
    try:
        with zipfile.ZipFile(archive) as file:
            return not compare_archive(file, manifest)
    except DAMAGE:
        return False


def compare_archive(
    archive: zipfile.ZipFile, manifest: Manifest, folder: Path | None = None
) -> list[str]:
    """Return a line for each difference between an archive's images and a manifest.

    Parameters
    ----------
    archive
        An open zip. The last three parts of a member's path are the image's name.
    manifest
        What the archive must hold.
    folder
        Where to write the images that are as the manifest says; None writes none.
    """
    members: dict[str, list[zipfile.ZipInfo]] = {}
    for info in archive.infolist():
        name = "/".join(PurePosixPath(info.filename).parts[-3:])
        if is_image(name) and name.split("/")[0] in SPLITS:
            members.setdefault(name, []).append(info)
    differences = [f"extra: {name}" for name in sorted(members.keys() - manifest.keys())]
    for name, entry in manifest.items():
        try:
            content = _read_image(archive, members.get(name, []), name, entry)
        except ValueError as difference:
            differences.append(str(difference))
            continue
        if folder:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    return differences


def _read_image(
    archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], name: str, entry: Entry
) -> bytes:
    """Return the content of an image; raise ValueError unless it is what the manifest says."""
    if not members:
        raise ValueError(f"missing: {name}")
    if len(members) > 1:
        raise ValueError(f"{len(members)} times in the archive: {name}")
    if stat.S_ISLNK(members[0].external_attr >> 16):
        raise ValueError(f"a link, not an image: {name}")
    if members[0].file_size != entry.size:
        raise ValueError(f"changed: {name} ({members[0].file_size} bytes, not {entry.size})")
    try:
        with archive.open(members[0]) as source:
            content = source.read(entry.size + 1)  # the size in the zip's directory may be wrong
    except DAMAGE as error:
        raise ValueError(f"damaged: {name} ({error})") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != entry.sha256:
        raise ValueError(f"changed: {name} (SHA-256 {digest[:12]}…, not {entry.sha256[:12]}…)")
    return content


def find_unreadable_images(folder: Path) -> list[str]:
    """Return a line for each file in ``<split>/<class>/`` that cannot be read as an image."""
    unreadable = []
    for path in sorted(folder.glob("*/*/*")):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                read_image(path)
        except (OSError, ValueError) as error:
            why = "not a known format" if isinstance(error, UnidentifiedImageError) else error
            unreadable.append(f"unreadable: {path.relative_to(folder).as_posix()} ({why})")
    return unreadable


def _generated_manifest(archive: zipfile.ZipFile) -> Manifest:
    if MANIFEST not in archive.namelist():
        raise UserError(
            f"{archive.filename} does not hold generated images.\n"
            "Draw them with: dvc repro --force --single-item fetch"
        )
    return parse_manifest(archive.read(MANIFEST).decode(), MANIFEST)


def _describe(
    archive: str | PathLike[str], manifest: str, differences: list[str], unreadable: list[str]
) -> str:
    """Return the message about images that are wrong, with a remedy for each kind of fault."""
    lines = []
    if differences:
        lines += [
            f"{archive} does not hold the images of {manifest}:",
            bulleted(differences),
            "Fetch it again with: dvc repro --force --single-item fetch",
            "If you changed your own images, first run: headswap manifest FOLDER",
        ]
    if unreadable:
        lines += [
            f"{archive} holds images that cannot be read:",
            bulleted(unreadable),
            "Remove them or save them as JPEG or PNG with 8 bits a channel, then run: "
            "headswap manifest FOLDER",
        ]
    return "\n".join(lines)
