"""Reading files, writing them so that a half-written one is never taken for a whole, digests."""

import contextlib
import csv
import hashlib
import io
import json
import os
import shutil
from pathlib import Path

from safetensors import safe_open

from headswap.errors import UserError


@contextlib.contextmanager
def atomic_write(path, *failures, durable=True):
    """Give a temporary path beside `path` that takes its place when the block ends well.

    What a killed process left of an earlier try is removed first. There may be one writer at a
    time.

    Parameters
    ----------
    path : path-like
        The file or folder to write; its parents are made.
    *failures : type
        What a library raises, besides OSError, if it cannot write.
    durable : bool
        Whether a file is on the disk before it takes its place, so that a power cut cannot leave
        it empty.

    Yields
    ------
    pathlib.Path
        Where to write. It is removed if the block raises.

    Raises
    ------
    UserError
        If the disk is full, read-only, or not ours to write.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial / path.name
        if durable and (partial / path.name).is_file():
            with open(partial / path.name, "rb") as file:
                os.fsync(file.fileno())
        if path.is_dir():
            path.rename(partial / "old")
        os.replace(partial / path.name, path)
    except (OSError, *failures) as error:
        raise UserError(
            f"{path} could not be written: {getattr(error, 'strerror', None) or error}.\n"
            "Make room or set the permissions, then run the same command again."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path, text):
    """Write a text file in UTF-8, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path, value):
    """Write JSON with one key a line; a NaN or an infinity is refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_csv(path, columns, rows):
    """Write a table with a header line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def folder_size(folder):
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def read_json(path):
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_tensors(path, framework="numpy", only=None):
    """Read a safetensors file that `weights.save` wrote.

    Parameters
    ----------
    path : path-like
    framework : {"numpy", "pt"}
        Of the tensors.
    only : collection of str, optional
        The names of the tensors to read; else all.

    Returns
    -------
    tensors : dict of str to numpy.ndarray or torch.Tensor
    metadata : dict

    Raises
    ------
    UserError
        If the file is missing or damaged.
    """
    try:
        with safe_open(path, framework) as file:
            metadata = json.loads(file.metadata()["headswap"])
            names = file.keys() if only is None else only
            return {name: file.get_tensor(name) for name in names}, metadata
    except Exception as error:  # the file may be anything
        raise UserError(f"{path} cannot be read: {error}.\nRemove it, then: dvc repro") from error


def sha256(path):
    """Return the SHA-256 of a file as 64 hexadecimal digits.

    Raises
    ------
    UserError
        If there is no such file.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise UserError(
            f"There is no {path} yet.\nMake it, and all that it needs, with: dvc repro"
        ) from None


def digest(*values):
    """Return 16 hexadecimal digits that stand for JSON-like values."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
