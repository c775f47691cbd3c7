"""Speed: saves half of the processor time of `headswap check` and of stage `weights`.

That is torchvision without torch's compiler, which it imports for region pooling on GPUs.
"""

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
