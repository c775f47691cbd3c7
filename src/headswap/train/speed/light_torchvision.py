"""torchvision without torch's compiler, which it imports for region pooling on GPUs.

Speed: saves half of the processor time of `headswap check` and of stage `weights`.
"""

import sys
from types import ModuleType

COMPILER = "torch._dynamo.utils"


def _import_torchvision() -> None:
    if COMPILER in sys.modules:
        return
    stand_in = ModuleType(COMPILER)
    stand_in.is_compile_supported = lambda device: False  # type: ignore[attr-defined]
    sys.modules[COMPILER] = stand_in
    try:
        import torchvision  # noqa: F401
    finally:
        del sys.modules[COMPILER]


_import_torchvision()

import torchvision  # noqa: E402

__all__ = ["torchvision"]
