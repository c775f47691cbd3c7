"""Random numbers that depend on a seed and a purpose, and on nothing that happened before."""

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def derive(seed: int, purpose: str, *numbers: int) -> int:
    """Return a seed, between 0 and 2**63 - 1, for one purpose of a run.

    `purpose` is ``head``, ``order``, ``augmentation``, ``dropout`` or ``weights``; `numbers`
    distinguish its draws: epoch, image.

    >>> derive(0, "order", 1) == derive(0, "order", 1)
    True
    >>> derive(0, "order", 1) == derive(0, "order", 2)
    False
    """
    text = "/".join(map(str, (seed, purpose, *numbers)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, *numbers: int) -> torch.Generator:
    """Return a generator on the CPU, seeded with `derive`."""
    return torch.Generator().manual_seed(derive(seed, purpose, *numbers))


@contextlib.contextmanager
def seeded(seed: int, purpose: str, *numbers: int) -> Iterator[None]:
    """Seed torch's default generator on the CPU with `derive`, and restore its state afterwards.

    For library code that takes no generator: torchvision's transforms and initialisers.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, purpose, *numbers))
        yield
