"""What networks cost: the complexity of one, and a list of those that params.yaml can name."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from headswap.download import MIRROR
from headswap.errors import UserError
from headswap.images.preprocessing import preprocessing_from_network
from headswap.train.factories import import_factory, timm_url
from headswap.train.networks import DEFAULT
from headswap.train.speed import torchvision
from headswap.train.weights import local_copies, torchvision_preprocessing


def measure_complexity(network: nn.Module, size: int) -> dict[str, Any]:
    """Measure the complexity of a network for images of `size` pixels a side.

    ``gmacs`` are the multiply-accumulates of a forward pass of one image in 1e9, ``depth`` is the
    number of weight layers on the longest path (18 for ResNet-18). It is left in eval mode.
    """
    network.eval()
    copies = {name: nn.Parameter(value.detach()) for name, value in network.named_parameters()}
    image = torch.zeros(1, 3, size, size, requires_grad=True).clone()  # it may be changed in place
    # The fused attention kernels are not counted; the plain one consists of counted products.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops:
        output = torch.func.functional_call(network, {**copies}, image)
    return {
        "parameters": sum(value.numel() for value in copies.values()),
        "gmacs": round(flops.get_total_flops() / 2e9, 6),
        "depth": _longest_path(output.grad_fn),
    }


def _longest_path(last: Any) -> int:
    """Count, on the longest path, the products of a weight alone and something else."""
    products = ("Convolution", "Addmm", "Mm", "Bmm", "Linear")
    from_weight: dict[Any, bool] = {}
    depth: dict[Any, int] = {}
    stack = [last]
    while stack:
        inputs = [child for child, _ in stack[-1].next_functions if child]
        if waiting := [child for child in inputs if child not in depth]:
            stack += waiting
            continue
        node = stack.pop()
        weights = [child for child in inputs if from_weight[child]]
        leaf = getattr(node, "variable", None)  # None of what is computed
        from_weight[node] = len(weights) == len(inputs) and isinstance(leaf, nn.Parameter | None)
        counts = weights and len(weights) < len(inputs) and node.name().startswith(products)
        depth[node] = max((depth[child] for child in inputs), default=0) + bool(counts)
    return depth[last]


def list_networks(pattern: str) -> Iterator[tuple[str, ...]]:
    """Yield the networks of torchvision and, if there is a pattern, of timm with it in their name.

    Each with parameters, multiply-accumulates, input size, and ``mirror``, ``cache`` or nothing for
    where its weights are. timm's are built to be measured if there are at most 40.
    """
    for name in torchvision.models.list_models(module=torchvision.models):
        for entry in torchvision.models.get_model_weights(name):
            full = name if entry.name == DEFAULT else f"torchvision:{name}:{entry.name}"
            if pattern.lower() in full.lower():
                parameters, gmacs = entry.meta["num_params"], entry.meta["_ops"]
                size = torchvision_preprocessing(name, entry.name).size
                yield _row(full, entry.url, parameters, gmacs, size)
    try:
        import timm
    except ImportError:
        return
    names = [f"timm:{name}" for name in timm.list_pretrained() if pattern.lower() in name.lower()]
    for name in names if pattern else []:
        parameters = gmacs = size = 0
        if len(names) <= 40:
            # On a device without memory; some networks see no square images.
            with torch.device("meta"), contextlib.suppress(UserError):
                network = import_factory(name, name)()
                size = preprocessing_from_network(network, name).size
                parameters, gmacs, _ = measure_complexity(network, size).values()
        yield _row(name, timm_url(name), parameters, gmacs, size)


def _row(name: str, url: str, parameters: int, gmacs: float, size: int) -> tuple[str, ...]:
    file, caches = local_copies(url)
    mirror, place = os.environ.get(MIRROR), "cache" * any(path.exists() for path in caches)
    place = "mirror" if mirror and Path(mirror, file).exists() else place
    costs = (f"{parameters / 1e6:.1f} M", f"{gmacs:.2f}", str(size)) if size else ("", "", "")
    return name, *costs, place
