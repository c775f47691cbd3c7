"""Verify the images of the archive against the manifest, and unpack them."""

import hashlib
import lzma
import os
import stat
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path

from headswap.data.manifest import Entry, Manifest, parse_manifest, read_manifest
from headswap.data.matching import Matching, Other
from headswap.data.synthetic import MANIFEST
from headswap.errors import UserError, bulleted, printable
from headswap.images.folders import is_image
from headswap.images.index import Row, write_index
from headswap.images.reading import UnreadableImage, read_image
from headswap.io import atomic_write, is_address
from headswap.params import GENERATED, Dataset
from headswap.paths import ARCHIVE, IMAGES

DAMAGE = zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError
"""What `zipfile` raises for a damaged archive or member."""


def verify_images(
    dataset: Dataset,
    archive: str | PathLike[str] = ARCHIVE,
    images: str | PathLike[str] = IMAGES,
) -> Manifest:
    """Compare the archive's images with the manifest, and unpack them.

    An image is identified by its content. The manifest, not the archive, decides which files are
    written, where, and how large each may be: nothing is written outside the folder, and a small
    archive cannot fill the disk.

    Parameters
    ----------
    dataset
        Generated images have their manifest in the archive; all others, in ``dataset.manifest``.
    archive
        The zip to read.
    images
        The folder to write.

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
                rows, unreadable = read_unpacked(folder, manifest)
                if differences or unreadable:
                    raise UserError(_describe(archive, name, dataset, differences, unreadable))
                write_index(folder, rows)
    except FileNotFoundError as error:
        raise UserError(f"There is no {error.filename}.\nGet it with: dvc repro fetch") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise _damaged(archive, error) from None
    return manifest


def _damaged(archive: str | PathLike[str], error: Exception) -> UserError:
    return UserError(
        f"{archive} is damaged: {error}.\n"
        "Get a good copy with: dvc repro --force --single-item fetch"
    )


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
        An open zip. The names in it do not matter.
    manifest
        What the archive must hold.
    folder
        Where to write the images, by the names in the manifest; None writes none.

    Raises
    ------
    UserError
        If the archive is encrypted.
    """
    matching = Matching(manifest)

    def write(content: bytes, found: str) -> None:
        if folder:
            target = folder / found
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

    others: list[tuple[zipfile.ZipInfo, str, Entry]] = []
    for info in archive.infolist():
        name = _member_name(info)
        content = _read_image(archive, info, name, matching)
        if content is not None:
            entry = Entry(len(content), hashlib.sha256(content).hexdigest())
            if found := matching.match(name, entry, same_name=True):
                write(content, found)
            else:
                others.append((info, name, entry))
    for info, name, entry in others:
        if found := matching.match(name, entry):
            write(archive.read(info), found)
        else:
            matching.add_other(Other(name, *entry))
    return matching.differences()


def _member_name(info: zipfile.ZipInfo) -> str:
    """Return the name of a member, whatever program wrote it."""
    name = info.filename
    try:
        if not info.flag_bits & 0x800:  # not said to be UTF-8, so zipfile took it for cp437
            name = name.encode("cp437").decode("utf-8")
    except UnicodeError:
        pass
    return printable(name.replace("\\", "/"))


def _read_image(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, matching: Matching
) -> bytes | None:
    """Return a member's content if it can be that of a listed image, else add it to the others."""
    if info.is_dir() or not (is_image(name) or info.file_size in matching.sizes):
        return None
    if stat.S_ISLNK(info.external_attr >> 16):
        matching.add_other(Other(name, info.file_size, damage="a link, not an image"))
        return None
    if info.flag_bits & 0x1:
        raise UserError(
            f"{archive.filename} is encrypted.\n"
            "Unpack it with its password, set dataset.url to the folder, then: dvc repro"
        )
    if info.file_size not in matching.sizes:
        matching.add_other(Other(name, info.file_size))
        return None
    try:
        with archive.open(info) as source:
            return source.read(info.file_size + 1)  # the size in the zip's directory may be wrong
    except DAMAGE as error:
        matching.add_other(Other(name, info.file_size, damage=str(error)))
        return None


def read_unpacked(folder: Path, manifest: Manifest) -> tuple[list[Row], list[str]]:
    """Read the images of a manifest that are in a folder, on all cores.

    The first list has a row of the index for each image, the second a line for each that cannot
    be read.
    """
    rows, unreadable = [], []
    names = [name for name in sorted(manifest) if (folder / name).exists()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes = pool.map(_size_or_reason, [folder / name for name in names])
        for name, size in zip(names, sizes, strict=True):
            if isinstance(size, str):
                unreadable.append(f"unreadable: {name} ({size})")
            else:
                split, label, _ = name.split("/")
                rows.append(Row(name, split, label, "", *size, *manifest[name]))
    return rows, unreadable


def _size_or_reason(path: Path) -> tuple[int, int] | str:
    """Return width and height of an image, or why it cannot be read."""
    try:
        return read_image(path).size
    except UnreadableImage as error:
        return error.why


def _generated_manifest(archive: zipfile.ZipFile) -> Manifest:
    if MANIFEST not in archive.namelist():
        raise UserError(
            f"{archive.filename} does not hold generated images.\n"
            "Draw them with: dvc repro --force --single-item fetch"
        )
    return parse_manifest(archive.read(MANIFEST).decode(), MANIFEST)


def _describe(
    archive: str | PathLike[str],
    manifest: str,
    dataset: Dataset,
    differences: list[str],
    unreadable: list[str],
) -> str:
    """Return the message about images that are wrong, with a remedy for each kind."""
    fetch = "dvc repro --force --single-item fetch"
    own = not is_address(dataset.url) and dataset.url != GENERATED
    folder = dataset.url if Path(dataset.url).is_dir() else "FOLDER"
    lines = []
    if differences:
        lines += [f"{archive} does not hold the images of {manifest}:", bulleted(differences)]
        lines += [f"Fetch it anew with: {fetch}"]
        if own:
            command = f"headswap manifest {folder} --output {manifest}"
            lines += [f"If you changed your own images, first run: {command}"]
    if unreadable:
        lines += [f"{archive} holds images that cannot be read:", bulleted(unreadable)]
        lines += [
            f"Replace or remove them, then run: headswap manifest {folder} --output {manifest}"
            if own
            else f"Fetch it anew with: {fetch}"
        ]
    return "\n".join(lines)
