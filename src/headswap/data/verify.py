"""Verify the images of the archive against the manifest, and unpack them."""

import hashlib
import lzma
import re
import stat
import zipfile
import zlib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from headswap.data.facts import read_facts
from headswap.data.manifest import Manifest, parse_manifest, read_manifest, used_images
from headswap.data.matching import File, match_files
from headswap.data.synthetic import MANIFEST
from headswap.errors import UserError, bulleted, printable
from headswap.images.folders import is_image
from headswap.images.index import Row, write_index
from headswap.images.reading import shrink_image
from headswap.io import atomic_write, is_address
from headswap.params import GENERATED, Dataset
from headswap.paths import ARCHIVE, IMAGES, TEST

DAMAGE = zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError
"""What `zipfile` raises for a damaged archive or member."""

ORIGINAL = re.compile(r"shrunk from (\d+) bytes with SHA-256 ([0-9a-f]{64})")
"""The comment of an image in an archive that `fetch` packed, if it is not the original."""


def verify_images(
    dataset: Dataset,
    archive: str | PathLike[str] = ARCHIVE,
    images: str | PathLike[str] = IMAGES,
    test: str | PathLike[str] = TEST,
    shrink: bool = False,
) -> Manifest:
    """Compare the archive's images with the manifest, and unpack them, those to test on apart.

    An image is identified by its content. The manifest, not the archive, decides which files are
    written, where, and how large each may be: nothing is written outside the folder, and a small
    archive cannot fill the disk.

    Generated images have their manifest in the archive. A UserError names every image that is
    missing, extra, changed, or cannot be read.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            if dataset.url == GENERATED:
                manifest, name = _generated_manifest(file), MANIFEST
            else:
                manifest, name = read_manifest(dataset.manifest), dataset.manifest
            has_shrunk = shrink and not is_address(dataset.url)
            members, differences = match_archive(file, manifest, has_shrunk)
            with (
                atomic_write(images, replace_folder=True) as folder,
                atomic_write(test, replace_folder=True) as apart,
            ):
                apart.mkdir()
                files = {}
                for path, member in sorted(members.items()):
                    in_test = path.removeprefix("test/")
                    files[path] = folder / path if in_test == path else apart / in_test
                    files[path].parent.mkdir(parents=True, exist_ok=True)
                    content = file.read(member)
                    files[path].write_bytes(shrink_image(content) if shrink else content)
                rows, unreadable = read_unpacked(files, manifest)
                if differences or unreadable:
                    raise UserError(_describe(archive, name, dataset, differences, unreadable))
                write_index(folder, [row for row in rows if row.split != "test"])
                tested = [row for row in rows if row.split == "test"]
                write_index(apart, [row._replace(path=row.path[len("test/") :]) for row in tested])
    except FileNotFoundError as error:
        raise UserError(f"There is no {error.filename}.\nGet it with: dvc repro fetch") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise UserError(
            f"{archive} is damaged: {error}.\n"
            "Get a good copy with: dvc repro --force --single-item fetch"
        ) from None
    return used_images(manifest)


def archive_fits(
    archive: str | PathLike[str], manifest: Manifest, has_shrunk: bool = False
) -> bool:
    """Return whether an archive is intact and holds the images of a manifest and no others."""
    try:
        with zipfile.ZipFile(archive) as file:
            return not match_archive(file, manifest, has_shrunk)[1]
    except DAMAGE:
        return False


def match_archive(
    archive: zipfile.ZipFile, manifest: Manifest, has_shrunk: bool
) -> tuple[dict[str, zipfile.ZipInfo], list[str]]:
    """Return which members are the images of a manifest, and a line for each difference.

    In an archive that `fetch` packed, shrunk images have the size and digest of the original.
    """
    sizes = {entry.size for entry in manifest.values()}
    images = []
    for info in archive.infolist():
        if has_shrunk and (found := ORIGINAL.fullmatch(info.comment.decode(errors="replace"))):
            images.append((info, File(_member_name(info), int(found[1]), found[2])))
        elif file := _read_member(archive, info, sizes):
            images.append((info, file))
    places, differences = match_files([file for _, file in images], manifest)
    return {name: images[place][0] for place, name in places.items()}, differences


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, sizes: set[int]) -> File | None:
    """Return size and digest of a member; None if it is no image of these sizes, nor named so."""
    name = _member_name(info)
    if info.is_dir() or not (is_image(name) or info.file_size in sizes):
        return None
    if stat.S_ISLNK(info.external_attr >> 16):
        return File(name, info.file_size, damage="a link, not an image")
    if info.flag_bits & 0x1:
        raise UserError(
            f"{archive.filename} is encrypted.\n"
            "Unpack it with its password, set dataset.url to the folder, then: dvc repro"
        )
    if info.file_size not in sizes:
        return File(name, info.file_size)
    try:
        with archive.open(info) as source:
            content = source.read(info.file_size + 1)  # the zip's directory may give a wrong size
    except DAMAGE as error:
        return File(name, info.file_size, damage=str(error) or type(error).__name__)
    return File(name, len(content), hashlib.sha256(content).hexdigest())


def _member_name(info: zipfile.ZipInfo) -> str:
    """Return the name of a member, whatever program wrote it."""
    name = info.filename
    try:
        if not info.flag_bits & 0x800:  # not said to be UTF-8, so zipfile took it for cp437
            name = name.encode("cp437").decode("utf-8")
    except UnicodeError:
        pass
    return printable(name.replace("\\", "/"))


def read_unpacked(files: Mapping[str, Path], manifest: Manifest) -> tuple[list[Row], list[str]]:
    """Return a row of the index for each image, and a line for each that is unreadable.

    The files are by the images' paths in the manifest.
    """
    facts, reasons = read_facts(files)
    rows = []
    for name, one in facts.items():
        split, label, _ = name.split("/", 2)
        entry, stored = manifest[name], (one.bytes, one.sha256)
        original = (entry.size, entry.sha256, one.phash)
        rows.append(Row(name, split, label, entry.group, one.width, one.height, *original, *stored))
    return rows, [f"unreadable: {name} ({why})" for name, why in reasons.items()]


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
