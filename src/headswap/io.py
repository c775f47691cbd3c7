"""Read files, write them atomically, compute digests."""

import ast
import contextlib
import csv
import fcntl
import functools
import glob
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from headswap.errors import UserError
from headswap.paths import LOOKS, OUTPUTS, SOURCES

StrPath = str | os.PathLike[str]
FORMULA = re.compile(r"'*[=+\-@\t\r]")  # to a spreadsheet; perhaps with apostrophes already


@contextlib.contextmanager
def atomic_write(
    path: StrPath, *failures: type[Exception], durable: bool = True, replace_folder: bool = False
) -> Iterator[Path]:
    """Write a file or folder under a temporary name; rename it when the block ends well.

    Yields where to write, in a folder beside `path`, which is removed afterwards or, after a kill,
    by the next writer. Of several processes' files the last remains. A UserError says that the disk
    is full or read-only; besides OSError a library may raise `failures` then. A `durable` file is
    on the disk before it is renamed. Only with `replace_folder` a folder that is not empty goes.
    """
    path = Path(path)
    kinds: tuple[type[Exception], ...] = (OSError, *failures)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial/lock"):
            with contextlib.suppress(OSError):  # a living process locks its own
                with open(left) as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left.parent)
        folder = tempfile.TemporaryDirectory(".partial", f".{path.name}.", path.parent, True)
        with folder as name, open(f"{name}/unlocked", "w") as lock:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(lock, fcntl.LOCK_EX)
                os.rename(lock.name, f"{name}/lock")
            written = Path(name, path.name)
            yield written
            if written.is_file():
                with contextlib.suppress(OSError):  # some file systems have no permissions
                    written.chmod(os.fstat(lock.fileno()).st_mode & 0o777)
                if durable:
                    with open(written, "rb") as file:
                        os.fsync(file.fileno())
            if replace_folder and path.is_dir():
                path.rename(f"{name}/old")
            os.replace(written, path)
    except kinds as error:
        text = f"{path} could not be written: {getattr(error, 'strerror', None) or error}."
        raise UserError(f"{text}\nMake room or set the permissions, then try again.") from error


def write_text(path: StrPath, text: str) -> None:
    """Write a text file in UTF-8, atomically; what is no regular file is written into."""
    if is_stream(path):
        sys.stdout.flush()
        with open(path, "a", encoding="utf-8", newline="\n") as file:
            file.write(text)
    else:
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: StrPath, value: Any) -> None:
    """Write JSON, one key a line; ValueError if a number is NaN or infinite."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


MAKE_ANEW = "Make it anew with: dvc repro --force --single-item compare"  # tables of metrics


def write_csv(path: StrPath, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table with a header; a formula gets an apostrophe, which `read_csv` removes."""
    write_text(path, _csv_text([columns, *rows]))


def append_csv(path: StrPath, rows: Iterable[Iterable[Any]]) -> None:
    """Add rows to a table, so that a kill at any time leaves all of them there, or none."""
    sys.stdout.flush()
    with open(path, "ab", buffering=0) as file:
        file.write(_csv_text(rows).encode())


def _csv_text(rows: Iterable[Iterable[Any]]) -> str:
    lines: Any = SimpleNamespace(written=[])
    lines.write = lines.written.append
    # With another end of line `csv` would not quote a carriage return.
    csv.writer(lines).writerows(
        [f"'{cell}" if isinstance(cell, str) and FORMULA.match(cell) else cell for cell in row]
        for row in rows
    )
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines.written)


def without_apostrophe(cell: str) -> str:
    """Return the text that `write_csv` was given: ``=1`` for ``'=1``, but ``'tis`` as it is."""
    return cell[1:] if cell[:1] == "'" and FORMULA.match(cell) else cell


def read_csv(path: StrPath, remedy: str = "") -> Iterator[dict[str, str]]:
    """Yield the rows of a table that `write_csv` wrote.

    If it is none: ValueError or csv.Error, or with a `remedy` a UserError.
    """
    explained = explain_damage(path, remedy) if remedy else contextlib.nullcontext()
    with explained, open(path, encoding="utf-8", newline="") as file:
        lines = ([without_apostrophe(cell) for cell in row] for row in csv.reader(file))
        if not (columns := next(lines, None)):
            raise ValueError("no columns")
        yield from (dict(zip(columns, row, strict=True)) for row in lines)


def read_looks() -> list[dict[str, str]]:
    """Return the evaluations of test sets, the rows of `LOOKS`."""
    with explain_damage(LOOKS, "Correct it, or restore it with: git checkout metrics/test"):
        return [row for row in (read_csv(LOOKS) if LOOKS.exists() else []) if int(row["of"])]


def is_address(url: str) -> bool:
    """Return whether a URL is an address, not a local path."""
    return "://" in url


def local_path(path: StrPath) -> Path:
    """Return a path that the user gave, with ``~`` replaced by the home folder."""
    return Path(os.path.expanduser(path))


def refuse_outputs(path: StrPath, name: str) -> None:
    """Raise a UserError if the user's `path`, called `name`, overlaps one of `paths.OUTPUTS`."""
    if output := _overlap(local_path(path), OUTPUTS):
        text = f"{name}: {path} overlaps {output}, which headswap writes and deletes."
        raise UserError(f"{text}\nMove your files to another folder, say photos/, and name that.")


def output_path(
    path: StrPath, name: str, ending: str = "", inputs: Iterable[StrPath] = (), mark: str = ""
) -> Path:
    """Return where to write what the user wants at `path`: there, or where a link leads.

    A UserError says that it would replace something else: `inputs` of the same command, or a file
    that does not begin, quotes and blanks aside, with the `mark` of its kind, a regular expression.
    Without an `ending` it is a folder, new or empty.
    """
    if ending and is_stream(path):
        return Path(path)
    target, why = Path(path).resolve(), ""
    if owner := _overlap(target, (*OUTPUTS, *SOURCES)):
        why = f"overlaps {owner}, which is a part of the project"
    elif read := _overlap(target, inputs):
        why = f"overlaps {read}, which is also in this command"
    elif target.is_dir() and (ending or any(target.iterdir())):
        why = "is a folder" if ending else "is a folder that is not empty"
    elif target.exists() and not target.is_dir() and not ending:
        why = "is a file"
    elif target.is_file() and target.stat().st_size:
        with open(target, encoding="utf-8-sig", errors="replace") as file:
            start = re.sub(r'["\s\0]', "", re.sub("[;\t]", ",", file.read(600)))
        if not re.match(mark, start):
            why = "is there already and was not written by this command"
    if why:
        text = f"{name}: {path} {why}; it is not overwritten."
        other = "another" if target.stem == "new" else "new"
        what = "file" if ending else "folder"
        raise UserError(f"{text}\nName another {what}, say {other}{ending}.")
    return target if Path(path).is_symlink() else Path(path)


def is_stream(path: StrPath) -> bool:
    """Return whether a path is a device, a pipe, or a file that this process has opened."""
    absolute = Path(os.path.abspath(path))
    is_special = absolute.exists() and not (absolute.is_file() or absolute.is_dir())
    return is_special or str(absolute).startswith(("/dev/std", "/dev/fd/", "/proc/"))


def _overlap(path: StrPath, others: Iterable[StrPath]) -> StrPath | None:
    """Return one of some files and folders that `path` is, is in, or holds."""
    for other in others:  # without links, in lower case, which some systems ignore
        one, two = (Path(str(Path(p).resolve()).casefold()) for p in (path, other))
        if one.is_relative_to(two) or two.is_relative_to(one):
            return other
    return None


def folder_size(folder: StrPath) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def read_bytes(path: StrPath) -> bytes:
    """Read a file that the user gave."""
    with explain_damage(path, "Correct its path or make it readable, then run the same again."):
        return Path(path).read_bytes()


def read_json(path: StrPath) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


@contextlib.contextmanager
def explain_damage(path: StrPath, remedy: str) -> Iterator[None]:
    """Raise whatever is wrong with the content of a file, while it is read, with its remedy."""
    try:
        yield
    except Exception as error:  # the file may be anything
        what = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read: {what}.\n{remedy}") from error


def read_tensors(
    path: StrPath, framework: str = "numpy", only: Collection[str] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return tensors, all or `only` some, NumPy's or torch's (``pt``), and headswap's metadata."""
    path = existing(path)
    with explain_damage(path, "Remove it, then: dvc repro"), safe_open(path, framework) as file:
        metadata = json.loads(file.metadata()["headswap"])
        names = file.keys() if only is None else only
        return {name: file.get_tensor(name) for name in names}, metadata


def write_tensors(path: StrPath, tensors: Mapping[str, NDArray[Any]], **metadata: Any) -> None:
    """Write NumPy's tensors and JSON-like metadata; the bytes depend on their content alone."""
    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    text = json.dumps(metadata, sort_keys=True)  # one entry: safetensors shuffles several
    with atomic_write(path, SafetensorError) as temporary:
        save_file(arrays, temporary, metadata={"headswap": text})


def sha256(path: StrPath) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with open(existing(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def existing(path: StrPath) -> Path:
    """Return the path of what a stage writes; a UserError says how to make it if it is missing."""
    if not os.path.exists(path):
        text = f"There is no {path} yet.\nMake it, and all that it needs, with: dvc repro"
        raise UserError(text) if os.path.exists("dvc.yaml") else not_here(path)
    return Path(path)


def not_here(path: StrPath) -> UserError:
    """Return the error that this is not the project's folder."""
    text = f"There is no {path} in {Path.cwd()}."
    return UserError(f"{text}\nGo to the project's folder, the one with dvc.yaml; try again.")


def digest(*values: Any) -> str:
    """Return a digest of JSON-like values: 16 hexadecimal digits."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache  # of all files it takes 0.2 s, and the status of all runs needs it for each cell
def syntax_tree(code: str | bytes) -> str:
    """Return Python code without comments, docstrings (also of constants) and formatting."""
    nodes = [*ast.walk(tree := ast.parse(code))]
    expressions = [node for node in nodes if isinstance(node, ast.Expr)]
    texts = {one for one in expressions if isinstance(getattr(one.value, "value", None), str)}
    for node in nodes:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [statement for statement in node.body if statement not in texts]
    return ast.dump(tree)
