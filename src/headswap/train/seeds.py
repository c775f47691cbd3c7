"""Random numbers that depend on a seed and a purpose, and on nothing that happened before."""

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def derive(seed: int, purpose: str, *numbers: int) -> int:
    """Return a seed for a purpose of a run, such as ``order``, and for a draw: epoch, image."""
    text = "/".join(map(str, (seed, purpose, *numbers)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, *numbers: int) -> torch.Generator:
    """Return a generator on the CPU, seeded with `derive`."""
    return torch.Generator().manual_seed(derive(seed, purpose, *numbers))


@contextlib.contextmanager
def seeded(seed: int, purpose: str, *numbers: int) -> Iterator[None]:
    """Seed torch's default generator on the CPU for library code that takes no generator."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, purpose, *numbers))
        yield
