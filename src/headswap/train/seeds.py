"""Random numbers that depend on a seed and a purpose, and on nothing that happened before."""

import contextlib
import hashlib

import torch


def derive(seed, purpose, *numbers):
    """Return a seed of its own for one purpose of a run.

    Parameters
    ----------
    seed : int
        The run's seed, from ``params.yaml``.
    purpose : str
        ``head``, ``order``, ``augmentation``, ``dropout`` …
    *numbers : int
        What tells the draws of one purpose apart: epoch, image.

    Returns
    -------
    int
        Between 0 and 2**63 - 1.

    Examples
    --------
    >>> derive(0, "order", 1) == derive(0, "order", 1)
    True
    >>> derive(0, "order", 1) == derive(0, "order", 2)
    False
    """
    text = "/".join(map(str, (seed, purpose, *numbers)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed, purpose, *numbers):
    """Return a `torch.Generator` on the CPU, started from `derive`."""
    return torch.Generator().manual_seed(derive(seed, purpose, *numbers))


@contextlib.contextmanager
def seeded(seed, purpose, *numbers):
    """Start torch's default generator on the CPU from `derive`, and put it back afterwards.

    For library code that takes no generator: torchvision's transforms and initialisers.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, purpose, *numbers))
        yield
