"""The networks that params.yaml can name: what they cost, and whether their weights are here."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from headswap.download import MIRROR
from headswap.images.preprocessing import preprocessing_from_network
from headswap.train.factories import import_factory, timm_url
from headswap.train.networks import DEFAULT
from headswap.train.speed.light_torchvision import torchvision
from headswap.train.weights import cached_files, torchvision_preprocessing, weights_filename

MEASURED = 40
"""Networks of timm's that are built to be measured; of more only the names are listed."""


def list_networks(pattern: str) -> Iterator[tuple[str, ...]]:
    """Yield the networks of torchvision and timm with a text in their name.

    Each with parameters, billions of multiply-accumulates, pixels of the input, and where its
    weights are: ``mirror``, ``cache``, or empty if they are to be fetched. Of timm's only where
    there is a pattern.
    """
    for name in torchvision.models.list_models(module=torchvision.models):
        for entry in torchvision.models.get_model_weights(name):
            full = name if entry.name == DEFAULT else f"torchvision:{name}:{entry.name}"
            if pattern.lower() in full.lower():
                costs = entry.meta["num_params"] / 1e6, entry.meta["_ops"]
                size = torchvision_preprocessing(name, entry.name).size
                yield full, *_costs(*costs, size), _place(entry.url)
    try:
        import timm
    except ImportError:
        return
    names = [f"timm:{name}" for name in timm.list_pretrained() if pattern.lower() in name.lower()]
    for name in names if pattern else []:
        row = ("", "", "") if len(names) > MEASURED else _measure_timm(name)
        yield name, *row, _place(timm_url(name, name))


def _measure_timm(name: str) -> tuple[str, ...]:
    """Return the costs of a network without memory for its weights."""
    with torch.device("meta"):
        network: Any = import_factory(name, name)().eval()
        size = preprocessing_from_network(network, name).size
        with FlopCounterMode(display=False) as flops:
            network(torch.zeros(1, 3, size, size))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return _costs(parameters / 1e6, flops.get_total_flops() / 2e9, size)


def _costs(millions: float, gmacs: float, size: int) -> tuple[str, ...]:
    return f"{millions:.1f} M", f"{gmacs:.2f}", str(size)


def _place(url: str) -> str:
    if (mirror := os.environ.get(MIRROR)) and Path(mirror, weights_filename(url)).exists():
        return "mirror"
    return "cache" if any(path.exists() for path in cached_files(url)) else ""
