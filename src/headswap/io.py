"""Read files, write them atomically, compute digests."""

import contextlib
import csv
import fcntl
import glob
import hashlib
import io
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import safe_open

from headswap.errors import UserError
from headswap.paths import OUTPUTS

StrPath = str | PathLike[str]


@contextlib.contextmanager
def atomic_write(path: StrPath, *failures: type[Exception], durable: bool = True) -> Iterator[Path]:
    """Write a file or folder under a temporary name; rename it when the block ends well.

    Yields where to write, in a temporary folder beside `path` that is removed afterwards. Several
    processes may write the same file at a time: each has its own temporary name, and the last one's
    file remains. A UserError says that the disk is full or read-only; `failures` are what a library
    raises, besides OSError, if it cannot write. A `durable` file is flushed to the disk before it
    is renamed, so that a power cut cannot leave it empty.
    """
    path = Path(path)
    kinds: tuple[type[Exception], ...] = (OSError, *failures)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_folder(path) as (folder, mode):
            yield folder / path.name
            if (folder / path.name).is_file():
                with contextlib.suppress(OSError):  # some file systems have no permissions
                    os.chmod(folder / path.name, mode)
                if durable:
                    with open(folder / path.name, "rb") as file:
                        os.fsync(file.fileno())
            if path.is_dir():
                path.rename(folder / "old")
            os.replace(folder / path.name, path)
    except kinds as error:
        raise UserError(
            f"{path} could not be written: {getattr(error, 'strerror', None) or error}.\n"
            "Make room or set the permissions, then run the same command again."
        ) from error


@contextlib.contextmanager
def _temporary_folder(path: Path) -> Iterator[tuple[Path, int]]:
    """Create a folder beside `path`, and remove it and those that killed processes left.

    Each holds a file that its process keeps locked as long as it lives. Its permissions, those that
    the user gives to new files, are yielded, too: some libraries write files that only their owner
    may read.
    """
    for lock in path.parent.glob(f".{glob.escape(path.name)}.*.partial/lock"):
        with contextlib.suppress(OSError):
            with open(lock) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        with open(folder / "unlocked", "w") as file:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(file, fcntl.LOCK_EX)
                os.rename(folder / "unlocked", folder / "lock")
            yield folder, stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_text(path: StrPath, text: str) -> None:
    """Write a text file in UTF-8, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: StrPath, value: Any) -> None:
    """Write JSON, one key a line; ValueError if a number is NaN or infinite."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_csv(path: StrPath, columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table with a header line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def is_address(url: str) -> bool:
    """Return whether a URL is an address, not a local path.

    >>> is_address("https://example.org/photos.zip"), is_address("photos.zip")
    (True, False)
    """
    return "://" in url


def local_path(path: StrPath) -> Path:
    """Return a path that the user gave, with ``~`` replaced by the home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{path}: there is no such user on this machine.\nWrite the whole path, from / on."
        ) from None


def refuse_outputs(path: StrPath, name: str) -> None:
    """Raise a UserError if the user's `path` is one of `paths.OUTPUTS`, is in one, or holds one.

    So it is through links and ``..``, too, or in another case where the file system ignores that.
    `name` is what the path is, for the message.
    """
    given = _comparable(local_path(path))
    for output in OUTPUTS:
        written = _comparable(output)
        if given.is_relative_to(written) or written.is_relative_to(given):
            raise UserError(
                f"{name}: {path} overlaps {output}, which headswap writes and deletes.\n"
                "Move your own files to a folder of another name beside it, say photos/, and "
                "name that."
            )


def _comparable(path: Path) -> Path:
    """Return the absolute path without links, in lower case where the file system ignores case."""
    path = path.resolve()
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    named = next((p for p in (existing, *existing.parents) if p.name.swapcase() != p.name), None)
    if named is None:
        return path
    other = named.with_name(named.name.swapcase())
    ignores_case = other.exists() and other.samefile(named)
    return Path(str(path).casefold()) if ignores_case else path


def folder_size(folder: StrPath) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def read_bytes(path: StrPath) -> bytes:
    """Read a file that the user gave."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}.\n"
            "Make it readable, then run the same command again."
        ) from error


def read_json(path: StrPath) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


@contextlib.contextmanager
def explain_damage(path: StrPath, remedy: str) -> Iterator[None]:
    """Raise whatever is wrong with the content of a file, while it is read, with its remedy."""
    try:
        yield
    except Exception as error:  # the file may be anything
        raise UserError(f"{path} cannot be read: {error}.\n{remedy}") from error


def read_tensors(
    path: StrPath, framework: str = "numpy", only: Collection[str] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tensors of a safetensors file that headswap wrote, and its metadata.

    The tensors are NumPy's, or with the `framework` ``pt`` torch's. With `only`, those of these
    names are read.
    """
    if not os.path.exists(path):
        raise not_made_yet(path)
    with (
        explain_damage(path, "Remove it, then: dvc repro"),
        safe_open(path, framework) as file,
    ):
        metadata = json.loads(file.metadata()["headswap"])
        names = file.keys() if only is None else only
        return {name: file.get_tensor(name) for name in names}, metadata


def sha256(path: StrPath) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise not_made_yet(path) from None


def not_made_yet(path: StrPath) -> UserError:
    """Return the error that a file or folder is missing that stages write."""
    return UserError(f"There is no {path} yet.\nMake it, and all that it needs, with: dvc repro")


def digest(*values: Any) -> str:
    """Return a digest of JSON-like values: 16 hexadecimal digits."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
