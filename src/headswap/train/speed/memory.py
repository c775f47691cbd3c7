"""Speed: halves the processor time of a light network that is not trained (benchmarks/PREDICT.md).

Glibc returns large freed memory, and gets it back page by page, each set to zero.
"""

import contextlib
import ctypes


def keep_freed_memory() -> None:
    """Let this process keep up to a gigabyte that it has freed; nothing where libc is another."""
    with contextlib.suppress(AttributeError):
        # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, and M_ARENA_MAX: other arenas hold 64 MB at most
        for parameter, value in ((-1, 2**30), (-3, 2**30), (-8, 1)):
            ctypes.CDLL(None).mallopt(parameter, value)
