"""File locks, so that no two processes work on the same cell."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from headswap.errors import UserError


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold a file lock for the length of a block.

    The operating system releases the lock when its process ends, however it ends.

    Parameters
    ----------
    path
        The lock file, in the folder that it protects.

    Raises
    ------
    UserError
        If another process holds the lock. The message names the process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = path.with_suffix(".pid")
    try:
        with FileLock(path, timeout=0):
            holder.write_text(str(os.getpid()))
            yield
    except Timeout:
        process = holder.read_text() if holder.exists() else "unknown"
        raise UserError(
            f"Another process, number {process}, is working on {path.parent.name}.\n"
            f"Wait for it, or stop it with `kill {process}`, then run the same command again."
        ) from None
