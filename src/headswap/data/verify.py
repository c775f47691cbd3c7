"""Verify the images of the archive against the manifest, and unpack them."""

import hashlib
import lzma
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from rich.progress import track

from headswap.data.changes import File, match_files
from headswap.data.manifest import Manifest, parse_manifest, read_manifest, used_images
from headswap.data.synthetic import MANIFEST
from headswap.errors import UserError, bulleted, printable
from headswap.images.folders import is_image
from headswap.images.index import Row, write_index
from headswap.images.near_duplicates import perceptual_hash
from headswap.images.reading import UnreadableImage, decode_image, shrink_image
from headswap.io import atomic_write, is_address, read_bytes
from headswap.params import GENERATED, Dataset
from headswap.paths import ARCHIVE, IMAGES, TEST
from headswap.progress import console

FETCH = "dvc repro --force --single-item fetch"
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
        with (
            zipfile.ZipFile(archive) as file,
            atomic_write(images, replace_folder=True) as folder,
            atomic_write(test, replace_folder=True) as apart,
        ):
            if dataset.url == GENERATED:
                content = file.read(MANIFEST) if MANIFEST in file.namelist() else b""
                manifest = parse_manifest(content, MANIFEST, f"Draw the images with: {FETCH}")
            else:
                manifest = read_manifest(dataset.manifest)
            has_shrunk = shrink and not is_address(dataset.url)
            members, differences = match_archive(file, manifest, has_shrunk)
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
                raise UserError(_describe(archive, dataset, differences, unreadable))
            write_index(folder, [row for row in rows if row.split != "test"])
            tested = [row for row in rows if row.split == "test"]
            write_index(apart, [row._replace(path=row.path[len("test/") :]) for row in tested])
    except FileNotFoundError as error:
        raise UserError(f"There is no {error.filename}.\nGet it with: dvc repro fetch") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise UserError(f"{archive} is damaged: {error}.\nGet a good copy with: {FETCH}") from None
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
    members, files = [], []
    for info in archive.infolist():
        found = ORIGINAL.fullmatch(info.comment.decode(errors="replace")) if has_shrunk else None
        if found:
            files.append(File(printable(info.filename), int(found[1]), found[2]))
        elif not info.is_dir() and (is_image(info.filename) or info.file_size in sizes):
            files.append(_read_member(archive, info, sizes))
        else:
            continue
        members.append(info)
    places, differences = match_files(files, manifest)
    return {name: members[place] for place, name in places.items()}, differences


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, sizes: set[int]) -> File:
    name = printable(info.filename.replace("\\", "/"))
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


class Facts(NamedTuple):
    """The end of an image's row in the index, and whether only its first frame or page is used."""

    width: int
    height: int
    bytes: int
    sha256: str
    phash: str
    animated: bool


def read_facts(images: Mapping[str, Path]) -> tuple[dict[str, Facts], dict[str, str]]:
    """Read images on all cores; return their facts and, of those that cannot be read, why."""
    facts, reasons = {}, {}
    total, hidden = len(images), not console.is_terminal
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(_facts_or_reason, images.values())
        shown = track(results, "reading", total, console=console, transient=True, disable=hidden)
        for name, found in zip(images, shown, strict=True):
            if isinstance(found, str):
                reasons[name] = found
            else:
                facts[name] = found
    if count := sum(one.animated for one in facts.values()):
        print(f"Of {count} animated or many-page files the first frame or page is used.")
    return facts, reasons


def _facts_or_reason(path: Path) -> Facts | str:
    try:
        content = read_bytes(path)
        image = decode_image(content, path)
    except UnreadableImage as error:
        return error.why
    except UserError as error:
        return str(error).splitlines()[0]
    digest, hashed = hashlib.sha256(content).hexdigest(), perceptual_hash(image)
    return Facts(*image.size, len(content), digest, hashed, image.info["animated"])


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


def _describe(
    archive: str | PathLike[str], dataset: Dataset, differences: list[str], unreadable: list[str]
) -> str:
    """Return the message about images that are wrong, with what to do."""
    own = not is_address(dataset.url) and dataset.url != GENERATED
    folder = dataset.url if Path(dataset.url).is_dir() else "FOLDER"
    renew = f"headswap manifest {folder} --output {dataset.manifest}"
    lines = []
    if differences:
        lines = [f"{archive} does not hold the images of {dataset.manifest}:"]
        lines += [bulleted(differences), f"Fetch it anew with: {FETCH}"]
        lines += [f"If you changed your own images, first run: {renew}"] * own
    if unreadable:
        lines += [f"{archive} holds images that cannot be read:", bulleted(unreadable)]
        replace = f"Replace or remove them, then run: {renew}"
        lines += [replace if own else f"Fetch it anew with: {FETCH}"]
    return "\n".join(lines)
