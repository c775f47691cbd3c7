"""Speed: halves the processor time of a light network that is not trained (benchmarks/PREDICT.md).

Activations of a batch are large, and glibc returns memory of that size to the system as soon as it
is freed: the next layer gets it back page by page, each set to zero.
"""

import contextlib
import ctypes

SETTINGS = {-1: 2**30, -3: 2**30, -8: 1}
"""M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, and M_ARENA_MAX: other arenas hold 64 MB at most."""


def keep_freed_memory() -> None:
    """Let this process keep up to a gigabyte that it has freed; nothing where libc is another."""
    with contextlib.suppress(AttributeError):
        for parameter, value in SETTINGS.items():
            ctypes.CDLL(None).mallopt(parameter, value)
