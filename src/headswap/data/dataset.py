"""The photographs: fetched as an archive, held against a manifest, laid out in class folders."""

import csv
import hashlib
import io
import lzma
import stat
import warnings
import zipfile
import zlib
from collections import Counter
from pathlib import Path, PurePosixPath

from PIL import Image, UnidentifiedImageError

from headswap.data import synthetic as drawings
from headswap.download import obtain
from headswap.errors import UserError, bulleted
from headswap.images.folders import SPLITS, check_classes, images_in, is_image
from headswap.io import atomic_write, write_csv, write_json
from headswap.params import GENERATED
from headswap.paths import IMAGES

ARCHIVE = Path("data/hymenoptera_data.zip")
COLUMNS = ("path", "bytes", "sha256")
MANIFEST = "manifest.csv"
DAMAGE = zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError
"""What reading a damaged member of a zip raises."""


def check(dataset):
    """Make sure that a local archive, folder or manifest is where the parameters say.

    Raises
    ------
    UserError
        If one is missing.
    """
    if dataset.url == GENERATED:
        return
    if "://" not in dataset.url and not Path(dataset.url).expanduser().exists():
        raise UserError(
            f"dataset.url: there is no {dataset.url} here; allowed are an address, a local zip, "
            f"a local folder with train/ and val/ in it, and {GENERATED}.\n"
            "Mend params.yaml, then: headswap check"
        )
    if not Path(dataset.manifest).is_file():
        raise _no_manifest(dataset)


def _no_manifest(dataset):
    return UserError(
        f"dataset.manifest: there is no {dataset.manifest}.\n"
        f"Make it with: headswap manifest FOLDER --output {dataset.manifest}"
    )


def fetch(dataset, archive=ARCHIVE):
    """Bring the archive here.

    Parameters
    ----------
    dataset : Dataset
        Its ``url`` is an address, a local zip, a local folder with ``train`` and ``val`` in it,
        or ``generated``.
    archive : path-like
        The zip to write.

    Returns
    -------
    str
        Where it came from.

    Raises
    ------
    UserError
        If no place has a readable zip.
    """
    if dataset.url == GENERATED:
        with atomic_write(archive) as temporary:
            drawings.draw_archive(temporary, MANIFEST)
        return GENERATED
    folder = Path(dataset.url).expanduser()
    if folder.is_dir():
        with atomic_write(archive) as temporary, zipfile.ZipFile(temporary, "w") as file:
            for name, path in images_in(folder).items():
                file.writestr(zipfile.ZipInfo(name), _content(path))
        return str(folder)
    return obtain(dataset.url, archive, _check_zip)


def _content(path):
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}.\nMake it readable, then: dvc repro fetch"
        ) from error


def _check_zip(path):
    if not zipfile.is_zipfile(path):
        raise ValueError("is no zip archive, or not a whole one")


def write_manifest(folder, path):
    """Write the manifest of a folder of one's own; return its entries (see `read_manifest`)."""
    images = images_in(folder)
    contents = ((name, _content(image)) for name, image in images.items())
    rows = [(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in contents]
    write_csv(path, COLUMNS, rows)
    return {name: (size, digest) for name, size, digest in rows}


def read_manifest(text, name):
    """Read a manifest.

    Parameters
    ----------
    text : str
        A table with the columns path, bytes and sha256.
    name : str
        The file's name, for the message.

    Returns
    -------
    dict of str to tuple of (int, str)
        Size in bytes and SHA-256 of each image, by its path.

    Raises
    ------
    UserError
        With every line that is not right.
    """
    entries, faults = {}, []
    rows = csv.DictReader(io.StringIO(text))
    try:
        for row in rows:
            path, size, digest = (row.get(column) or "" for column in COLUMNS)
            parts = PurePosixPath(path).parts
            safe = len(parts) == 3 and parts[0] in SPLITS and ".." not in parts and "\\" not in path
            if safe and path not in entries and size.isdecimal() and len(digest) == 64:
                entries[path] = int(size), digest
            else:
                faults.append(f"line {rows.line_num}: {','.join(map(str, row.values()))[:100]}")
    except csv.Error as error:
        faults.append(f"line {rows.line_num}: {error}")
    if faults or not entries:
        raise UserError(
            f"{name} is no manifest of images (columns {', '.join(COLUMNS)}, every path once, "
            f"as train/<class>/<image> or val/<class>/<image>).\n{bulleted(faults)}\n"
            "Restore it with `git checkout`, or make one: headswap manifest FOLDER"
        )
    check_classes(entries, name)
    return entries


def verify(dataset, archive=ARCHIVE, images=IMAGES):
    """Unpack the archive's images and hold every one against the manifest.

    The manifest, not the archive, says which files are written and how large each may be, so
    nothing is written outside the folder and nothing unpacks to more than was asked for.

    Parameters
    ----------
    dataset : Dataset
        Its ``manifest`` is the check; generated images bring their own in the archive.
    archive, images : path-like
        The zip to read and the folder to write.

    Returns
    -------
    dict of str to tuple of (int, str)
        What was verified (see `read_manifest`).

    Raises
    ------
    UserError
        If an image is missing, extra, changed or no image; all of them by name.
    """
    try:
        with zipfile.ZipFile(archive) as file, atomic_write(images) as folder:
            text, name = _manifest_text(dataset, file)
            entries = read_manifest(text, name)
            faults = _extract(file, entries, folder) + _undecodable(folder)
            if faults:
                raise UserError(
                    f"{archive} does not hold the images of {name}:\n{bulleted(faults)}\n"
                    "Fetch it anew with: dvc repro --force --single-item fetch\n"
                    "If you changed images of your own, first make their manifest anew: "
                    "headswap manifest FOLDER"
                )
    except FileNotFoundError as error:
        raise UserError(f"There is no {error.filename}.\nGet it with: dvc repro fetch") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise UserError(
            f"{archive} is damaged: {error}.\n"
            "Get a good copy with: dvc repro --force --single-item fetch"
        ) from None
    return entries


def _manifest_text(dataset, archive):
    if dataset.url == GENERATED:
        if MANIFEST not in archive.namelist():
            raise UserError(
                f"{archive.filename} holds no generated images.\nDraw them with: dvc repro fetch"
            )
        return archive.read(MANIFEST).decode(), MANIFEST
    try:
        return Path(dataset.manifest).read_text(encoding="utf-8-sig"), dataset.manifest
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(
            f"dataset.manifest: {dataset.manifest} is no table in UTF-8: {error}.\n"
            f"Make it with: headswap manifest FOLDER --output {dataset.manifest}"
        ) from None
    except FileNotFoundError:
        raise _no_manifest(dataset) from None


def _extract(archive, entries, folder):
    """Write the manifest's images into `folder`; return what is wrong, a line an image."""
    members, faults = {}, []
    for info in archive.infolist():
        name = "/".join(PurePosixPath(info.filename).parts[-3:])
        if is_image(name) and name.split("/")[0] in SPLITS:
            members.setdefault(name, []).append(info)
    for name in sorted(members.keys() - entries.keys()):
        faults.append(f"extra: {name}")
    for name, (size, digest) in entries.items():
        found = members.get(name, [])
        if len(found) != 1:
            faults.append(f"missing: {name}" if not found else f"there {len(found)} times: {name}")
        elif stat.S_ISLNK(found[0].external_attr >> 16):
            faults.append(f"a link, not an image: {name}")
        elif found[0].file_size != size:
            faults.append(f"changed: {name} ({found[0].file_size} bytes, not {size})")
        else:
            try:
                with archive.open(found[0]) as source:
                    content = source.read(size + 1)
            except DAMAGE as error:
                faults.append(f"damaged: {name} ({error})")
                continue
            given = hashlib.sha256(content).hexdigest()
            if given != digest:
                faults.append(f"changed: {name} (SHA-256 {given[:12]}…, not {digest[:12]}…)")
                continue
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    return faults


def _undecodable(folder):
    """Return a line for each file in `folder` that is no readable image."""
    faults = []
    for path in sorted(folder.glob("*/*/*")):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(path) as image:
                    image.load()
                    if image.mode[0] in "IF":  # as RGB, all but black would become white
                        raise ValueError("16 or 32 bits a pixel; save it with 8 bits a channel")
        except (OSError, SyntaxError, ValueError, Warning, Image.DecompressionBombError) as error:
            why = "no known format" if isinstance(error, UnidentifiedImageError) else error
            faults.append(f"no readable image: {'/'.join(path.parts[-3:])} ({why})")
    return faults


def counts(entries):
    """Count images by split and by split and class, and those of ``val`` that ``train`` has too.

    >>> entries = {"train/a/1.jpg": (9, "c0"), "val/a/2.jpg": (9, "c0"), "val/b/3.jpg": (9, "c1")}
    >>> counts(entries)["val_a"], counts(entries)["in_both_splits"]
    (1, 1)
    """
    tally = Counter()
    for name in entries:
        split, label, _ = name.split("/")
        tally.update(["images", split, f"{split}_{label}"])
    learned = {digest for name, (_, digest) in entries.items() if name.startswith("train/")}
    seen = [name for name, (_, digest) in entries.items() if digest in learned]
    tally["in_both_splits"] = sum(name.startswith("val/") for name in seen)
    return dict(sorted(tally.items()))


def remarks(entries):
    """Return what a comparison on such images suffers from, a line each.

    >>> entries = {"train/a/1.jpg": (9, "c0"), "val/a/2.jpg": (9, "c0"), "val/a/3.jpg": (9, "c1")}
    >>> for line in remarks(entries):
    ...     print(line)
    the same image twice or more: train/a/1.jpg, val/a/2.jpg
    a class of one image: train/a
    """
    places, classes = {}, Counter(name.rpartition("/")[0] for name in entries)
    for name, (_, digest) in entries.items():
        places.setdefault(digest, []).append(name)
    return [
        f"the same image twice or more: {', '.join(names)}"
        for names in places.values()
        if len(names) > 1
    ] + [f"a class of one image: {name}" for name, number in classes.items() if number == 1]


def record(tally, path="metrics/dataset.json"):
    """Write what `counts` counted."""
    write_json(path, tally)
