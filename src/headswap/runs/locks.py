"""File locks, so that no two processes work on the same run."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from headswap.errors import UserError
from headswap.progress import OnProgress


@contextlib.contextmanager
def file_lock(path: Path, on_progress: OnProgress | None = None) -> Iterator[None]:
    """Hold a file lock, which ends with its process; do without on file systems that have none.

    Where another process holds it, `on_progress` is told, and this one waits; None: a UserError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder, lock = path.with_suffix(".pid"), FileLock(path)
    with contextlib.suppress(NotImplementedError):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            process = holder.read_text() if holder.exists() else "unknown"
            another = f"another process, number {process}, which is working on"
            if on_progress is None:
                raise UserError(
                    f"Wait for {another} {path.with_suffix('')},\n"
                    f"or stop it with `kill {process}`; then run the same command again."
                ) from None
            on_progress(None, note=f"waits for {another} it")
            lock.acquire()
    try:
        if lock.is_locked:
            holder.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Return whether a process holds a file lock."""
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except (NotImplementedError, OSError):  # no locks on this file system; another user's file
        return False
