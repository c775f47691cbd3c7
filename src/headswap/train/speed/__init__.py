"""What is here for speed alone (benchmarks/ABLATION.md); it changes the last digits at most.

Torchvision without torch's compiler, which it imports for region pooling on GPUs, saves half of the
processor time of `headswap check` and of stage `weights`.
"""

import contextlib
import ctypes
import sys
from types import ModuleType

COMPILER = "torch._dynamo.utils"
if is_missing := COMPILER not in sys.modules:
    sys.modules[COMPILER] = stand_in = ModuleType(COMPILER)
    stand_in.is_compile_supported = lambda device: False  # type: ignore[attr-defined]
try:
    import torchvision as torchvision
finally:
    if is_missing:
        del sys.modules[COMPILER]


def keep_freed_memory() -> None:
    """Let this process keep up to a gigabyte that it has freed; nothing where libc is another.

    Halves the processor time of a light network that is not trained (benchmarks/PREDICT.md): Glibc
    returns large freed memory, and gets it back page by page, each set to zero.
    """
    with contextlib.suppress(AttributeError):
        # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, and M_ARENA_MAX: other arenas hold 64 MB at most
        for parameter, value in ((-1, 2**30), (-3, 2**30), (-8, 1)):
            ctypes.CDLL(None).mallopt(parameter, value)
