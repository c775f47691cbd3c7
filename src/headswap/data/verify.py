"""The archive of images: fetched (downloaded, packed or drawn), verified, and unpacked."""

import contextlib
import hashlib
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from rich.progress import track

from headswap.data.changes import File, check_url, listed_names, manifest_command, match_files
from headswap.data.manifest import Manifest, parse_manifest, read_manifest, used_images
from headswap.data.synthetic import MANIFEST, draw_archive
from headswap.download import download_file
from headswap.errors import UserError, bulleted, printable
from headswap.images.folders import find_images, is_image
from headswap.images.index import Row, write_index
from headswap.images.near_duplicates import near_duplicate_groups, perceptual_hash
from headswap.images.reading import decode_image, shrink_image
from headswap.io import StrPath, atomic_write, is_address, local_path, read_bytes
from headswap.params import GENERATED, Dataset
from headswap.paths import ARCHIVE, IMAGES, TEST
from headswap.progress import console

FETCH = "dvc repro --force --single-item fetch"
DAMAGE = zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError
"""What `zipfile` raises for a damaged archive or member."""
SHRUNK = "shrunk from {} bytes with SHA-256 {}"  # the comment of a member that is no original


def fetch_archive(dataset: Dataset, archive: StrPath = ARCHIVE, shrink: bool = False) -> str | None:
    """Write the archive of images; return where it came from, None if it was there already.

    One that holds the manifest's images is not downloaded again, whatever the code and the address.
    A local zip, or folder, whose large photographs are shrunk, is copied each time: it may differ.
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
        named = zip(listed_names(images, manifest), images.values(), strict=True)
        packed = [
            (printable(n), p) for n, p in named if n in manifest or os.path.getsize(p) in sizes
        ]
        with (
            atomic_write(archive) as temporary,
            zipfile.ZipFile(temporary, "w") as file,
            ThreadPoolExecutor(os.cpu_count()) as pool,
        ):
            for start in range(0, len(packed), 64):  # a few at a time, for they may be large
                for member in pool.map(partial(_stored, shrink), packed[start : start + 64]):
                    file.writestr(*member)
        return str(folder)
    return download_file(dataset.url, archive, _check_zip)


def _stored(shrink: bool, named: tuple[str, str]) -> tuple[zipfile.ZipInfo, bytes]:
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


def verify_images(
    dataset: Dataset, archive: StrPath = ARCHIVE, images: StrPath = IMAGES, shrink: bool = False
) -> Manifest:
    """Compare the archive's images with the manifest, and unpack them, those to test on apart.

    The manifest, not the archive, decides which files are written, where, and how large. A
    UserError names every image that is missing, extra, changed, or cannot be read.
    """
    is_own = not is_address(dataset.url) and dataset.url != GENERATED
    folder = dataset.url if Path(dataset.url).is_dir() else "FOLDER"
    renew = manifest_command(dataset.model_copy(update={"url": folder}))
    again = f"Fetch it anew with: {FETCH}"
    try:
        with (
            zipfile.ZipFile(archive) as file,
            atomic_write(images, replace_folder=True) as used,
            atomic_write(TEST, replace_folder=True) as tested,
        ):
            if dataset.url == GENERATED:  # its manifest is in the archive
                content = file.read(MANIFEST) if MANIFEST in file.namelist() else b""
                manifest = parse_manifest(content, MANIFEST, f"Draw the images with: {FETCH}")
            else:
                manifest = read_manifest(dataset.manifest)
            members, differences = match_archive(file, manifest, shrink and is_own)
            if differences:
                text = f"{archive} does not hold the images of {dataset.manifest}:"
                first = f"\nIf you changed your own images, first run: {renew}" * is_own
                raise UserError(f"{text}\n{bulleted(differences)}\n{again}{first}")
            files = {}
            for path in sorted(members):
                target = tested / path[5:] if path.startswith("test/") else used / path
                files[path] = target
                target.parent.mkdir(parents=True, exist_ok=True)
                content = file.read(members[path])
                target.write_bytes(shrink_image(content) if shrink else content)
            remedy = f"Replace or remove them, then run: {renew}" if is_own else again
            rows = read_unpacked(files, manifest, str(archive), remedy)
            write_index(used, [row for row in rows if row.split != "test"])
            apart = (row._replace(path=row.path[5:]) for row in rows if row.split == "test")
            write_index(tested, apart)
    except FileNotFoundError:
        raise UserError(f"There is no {archive}.\nGet it with: dvc repro fetch") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise UserError(f"{archive} is damaged: {error}.\nGet a good copy with: {FETCH}") from None
    return used_images(manifest)


def match_archive(
    archive: zipfile.ZipFile, manifest: Manifest, has_shrunk: bool
) -> tuple[dict[str, zipfile.ZipInfo], list[str]]:
    """Return which members are a manifest's images, shrunk ones as originals, and what differs."""
    sizes = {entry.size for entry in manifest.values()}
    there = [member for member in archive.infolist() if not member.is_dir()]
    members = [one for one in there if is_image(one.filename) or one.file_size in sizes]
    files = [_read_member(archive, member, sizes, has_shrunk) for member in members]
    places, differences = match_files(files, manifest)
    return {name: members[place] for place, name in places.items()}, differences


def _read_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, sizes: set[int], has_shrunk: bool
) -> File:
    file = File(printable(member.filename.replace("\\", "/")), member.file_size)
    comment = member.comment.decode("latin1") if has_shrunk else ""
    if original := re.fullmatch(SHRUNK.format(r"(\d+)", "([0-9a-f]{64})"), comment):
        return File(file.name, int(original[1]), original[2])
    if member.flag_bits & 0x1:
        text = f"{archive.filename} is encrypted.\nUnpack it with its password"
        raise UserError(f"{text}, set dataset.url to the folder, then: dvc repro")
    if member.file_size not in sizes:
        return file
    try:
        with archive.open(member) as source:
            content = source.read(member.file_size + 1)  # the zip's directory may be wrong
    except DAMAGE as error:
        return file._replace(damage=str(error) or type(error).__name__)
    return file._replace(size=len(content), sha256=hashlib.sha256(content).hexdigest())


def read_facts(images: Mapping[str, StrPath], where: str, remedy: str) -> pd.DataFrame:
    """Read images on all cores for the index, by name; a UserError names all that are damaged."""
    hidden = not console.is_terminal
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(_read_facts, images.values())
        shown = track(
            found, "reading", len(images), console=console, transient=True, disable=hidden
        )
        facts = pd.DataFrame(shown, list(images))
    if "why" in facts:
        lines = [f"{printable(name)}: {why}" for name, why in facts["why"].dropna().items()]
        text = f"{where} has {len(lines)} images that cannot be read:"
        raise UserError(f"{text}\n{bulleted(lines, len(lines))}\n{remedy}")
    if count := facts.pop("animated").sum():
        print(f"Of {count} animated or many-page files the first frame or page is used.")
    return facts


def _read_facts(path: StrPath) -> dict[str, Any]:
    try:
        content = read_bytes(path)
        image = decode_image(content, path)
    except UserError as error:
        return {"why": getattr(error, "why", str(error).splitlines()[0])}
    size = {"width": image.width, "height": image.height, "bytes": len(content)}
    digests = {"sha256": hashlib.sha256(content).hexdigest(), "phash": perceptual_hash(image)}
    return {**size, **digests, "animated": image.info["animated"]}


def read_unpacked(
    files: Mapping[str, Path], manifest: Manifest, where: str = "", remedy: str = ""
) -> list[Row]:
    """Return a row of the index for each image; the files are by their paths in the manifest."""
    rows = []
    for name, width, height, *stored, phash in read_facts(files, where, remedy).itertuples():
        (size, digest, group, _), (split, label, _) = manifest[name], name.split("/", 2)
        rows.append(Row(name, split, label, group, width, height, size, digest, phash, *stored))
    return rows


def find_quality_issues(hashes: Mapping[str, str]) -> dict[str, list[str]]:
    """Return what makes a comparison less reliable, by kind, from perceptual hashes by path."""
    names = pd.Series(sorted(hashes))
    parts = names.str.split("/", n=2, expand=True)
    sizes = (parts[0] + "/" + parts[1]).value_counts()
    kinds = ("near-duplicates in two splits", "near-duplicates in two classes")  # the worst first
    issues = {kinds[0]: [], kinds[1]: [], "a class of one image": sorted(sizes.index[sizes == 1])}
    for _, group in names.groupby(near_duplicate_groups([hashes[name] for name in names])):
        if len(group) > 1 and (counts := parts.loc[group.index].nunique())[[0, 1]].max() > 1:
            kind = kinds[0] if counts[0] > 1 else kinds[1]
            more = f" and {len(group) - 2} more" if len(group) > 2 else ""
            issues[kind].append(", ".join(group[:2]) + more)
    return {kind: lines for kind, lines in issues.items() if lines}
