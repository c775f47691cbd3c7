"""How complex a network is: parameters, multiply-accumulates, depth."""

from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def measure_complexity(network: nn.Module, size: int) -> dict[str, Any]:
    """Measure the complexity of a network for images of `size` pixels a side.

    ``parameters``; ``gmacs``, the multiply-accumulates of a forward pass of one image in 1e9;
    ``depth``, the number of weight layers on the longest path (18 for ResNet-18, after which the
    family is named). The network is left in eval mode, its tensors as they are.
    """
    network.eval()
    image = torch.zeros(1, 3, size, size, requires_grad=True).clone()  # it may be changed in place
    # The fused attention kernels are not counted; the plain one consists of counted products.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops:
        output = torch.func.functional_call(network, _trainable_copies(network), image)
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "gmacs": round(flops.get_total_flops() / 2e9, 6),
        "depth": _longest_path(output.grad_fn),
    }


def _trainable_copies(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return a network's parameters as ones that all require gradients, frozen or not."""
    return {
        name: nn.Parameter(parameter.detach()) for name, parameter in network.named_parameters()
    }


def _longest_path(last: Any) -> int:
    """Count the weight layers on the longest path that ends in a node of the autograd graph.

    A node counts if it is a convolution or a matrix product and one of its inputs comes from a
    parameter of two or more dimensions and from nothing else.
    """
    products = ("Convolution", "Addmm", "Mm", "Bmm", "Linear")
    from_weight: dict[Any, bool] = {}
    depth: dict[Any, int] = {}
    stack = [last]
    while stack:
        node = stack[-1]
        inputs = [child for child, _ in node.next_functions if child is not None]
        waiting = [child for child in inputs if child not in depth]
        if waiting:
            stack.extend(waiting)
            continue
        stack.pop()
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            from_weight[node], depth[node] = isinstance(leaf, nn.Parameter), 0
            continue
        weights = [child for child in inputs if from_weight[child]]
        from_weight[node] = len(weights) == len(inputs)
        counts = weights and len(weights) < len(inputs) and node.name().startswith(products)
        depth[node] = max((depth[child] for child in inputs), default=0) + bool(counts)
    return depth[last]
