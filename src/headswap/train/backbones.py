"""Networks: which there are, where their head is, a new head, and what a network costs."""

import difflib
import importlib
import math
import sys
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from headswap.errors import UserError


def known():
    """Return the names of torchvision's classification networks."""
    return torchvision.models.list_models(module=torchvision.models)


def check(models, factories):
    """Make sure that every model can be had and every factory can be imported.

    Parameters
    ----------
    models : list of str
        The models to train.
    factories : dict of str to str
        The models that are not torchvision's, as ``package.module:callable``.

    Raises
    ------
    UserError
        With a line for each name that will not do.
    """
    faults = []
    for name in [*models, *(name for name in factories if name not in models)]:
        try:
            factory(name, factories)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults) + "\nMend params.yaml, then: headswap check")


def factory(name, factories):
    """Return the callable that builds a network, pretrained or not yet.

    Parameters
    ----------
    name : str
        A name of torchvision's or of `factories`.
    factories : dict of str to str
        See `check`. Modules in the working folder can be named. **A factory is code and is run.**

    Returns
    -------
    callable
        Without arguments; returns a `torch.nn.Module`.

    Raises
    ------
    UserError
        If there is no such network, or its factory cannot be imported.
    """
    if name not in factories:
        if name not in known():
            close = difflib.get_close_matches(name.lower(), known(), 3)
            hint = f"did you mean {' or '.join(close)}? " if close else ""
            raise UserError(
                f"models: {name} is no network of torchvision's; {hint}"
                "allowed are its classification models and the names under factories"
            )
        return lambda: torchvision.models.get_model(name, weights=None, **_PLAIN.get(name, {}))
    module, _, attribute = factories[name].partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # the user's module may fail in any way
        raise UserError(
            f"factories.{name}: {factories[name]} cannot be imported: "
            f"{type(error).__name__}: {error}; allowed is package.module:callable of a module "
            "that is installed or lies in this folder"
        ) from error
    if not callable(found):
        raise UserError(f"factories.{name}: {factories[name]} is not callable")
    return found


# Their auxiliary classifiers would make the training output a tuple; their weights were trained
# on inputs that they scale themselves.
_PLAIN = {
    name: {"aux_logits": False, "init_weights": False, "transform_input": True}
    for name in ("googlenet", "inception_v3")
}


def build(name, factories):
    """Return a network with the weights that its factory gives it.

    Raises
    ------
    UserError
        If the factory fails or gives something that is no network.
    """
    make = factory(name, factories)
    try:
        network = make()
    except Exception as error:  # the user's code may fail in any way
        if name not in factories:
            raise
        raise UserError(
            f"factories.{name}: {factories[name]}() failed: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(network, nn.Module):
        raise UserError(
            f"factories.{name}: {factories[name]}() returned {type(network)}, not a torch.nn.Module"
        )
    return network


def randomise(network, name):
    """Give every layer of a network new random weights from torch's default generator.

    Parameters
    ----------
    network : torch.nn.Module
        Changed in place.
    name : str
        For the message.

    Raises
    ------
    UserError
        If a layer with parameters of its own does not know how to reset them.
    """
    for path, module in network.named_modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if own and not hasattr(module, "reset_parameters"):
            raise UserError(
                f"weights: random cannot be had for {name}: its {path or 'outermost'} layer, "
                f"a {type(module).__name__}, has no reset_parameters().\n"
                "Take it out of models, or set weights: imagenet."
            )
        if own:
            module.reset_parameters()


def find_head(network, name, size=224):
    """Return the name of the head: the linear layer whose output is the network's.

    Parameters
    ----------
    network : torch.nn.Module
        It is run once, in eval mode, on one image.
    name : str
        For the message.
    size : int
        Side of that image in pixels.

    Returns
    -------
    str
        The layer's name as in ``network.get_submodule``.

    Raises
    ------
    UserError
        If the last layer is not linear, or the network does not take such images.
    """
    calls, hooks = [], []
    for path, module in network.named_modules():
        if isinstance(module, nn.Linear):
            hooks.append(
                module.register_forward_hook(
                    lambda _module, _inputs, output, path=path: calls.append((path, output))
                )
            )
    network.eval()
    try:
        with torch.no_grad():
            output = network(torch.linspace(-2, 2, 3 * size * size).reshape(1, 3, size, size))
    except Exception as error:
        raise UserError(
            f"{name} fails on an image of {size} x {size} pixels: {error}.\n"
            "Set image.size to what it was made for, mend its factory, or take it out of models."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    is_head = (
        calls
        and isinstance(output, torch.Tensor)
        and output.ndim == 2
        and torch.equal(calls[-1][1], output)
    )
    if not is_head:
        raise UserError(
            f"{name} does not end in a linear layer, so it has no head to swap.\n"
            "Take it out of models, or give a factory whose network ends in a torch.nn.Linear."
        )
    return calls[-1][0]


def replace(network, path, layer):
    """Put `layer` where the layer named `path` was; return the old one."""
    parent, _, leaf = path.rpartition(".")
    old = network.get_submodule(path)
    setattr(network.get_submodule(parent), leaf, layer)
    return old


def new_head(features, classes, generator):
    """Return a linear layer, initialised as PyTorch does but from a generator of its own.

    Parameters
    ----------
    features, classes : int
        Number of inputs and outputs.
    generator : torch.Generator
        Where the random numbers come from.

    Returns
    -------
    torch.nn.Linear
        Weights and biases uniform in ±1/√features [1]_.

    References
    ----------
    .. [1] ``torch.nn.Linear.reset_parameters``, whose bounds these are.
    """
    head = nn.utils.skip_init(nn.Linear, features, classes)
    bound = 1 / math.sqrt(features)
    nn.init.uniform_(head.weight, -bound, bound, generator=generator)
    nn.init.uniform_(head.bias, -bound, bound, generator=generator)
    return head


def freeze(network, head):
    """Let nothing train but the layer named `head`."""
    network.requires_grad_(False)
    network.get_submodule(head).requires_grad_(True)


def describe(network, size):
    """Say what a network costs.

    Parameters
    ----------
    network : torch.nn.Module
        Its tensors are left as they were; it comes back in eval mode.
    size : int
        Side of the image in pixels.

    Returns
    -------
    dict
        ``parameters``; ``gmacs``, the multiply-accumulates of one forward pass of one image in
        1e9; ``activations``, the numbers that its convolutions and matrix products put out [1]_;
        ``depth``, the weight layers on the longest path (18 for ResNet-18, by which the family is
        named).

    References
    ----------
    .. [1] I. Radosavovic et al., "Designing Network Design Spaces", CVPR 2020, section 3.
    """
    network.eval()
    image = torch.zeros(1, 3, size, size, requires_grad=True).clone()  # it may be changed in place
    # The fused attention kernels are not counted; the plain one is made of counted products.
    with (
        torch.enable_grad(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as products,
        _Outputs() as outputs,
    ):
        output = torch.func.functional_call(network, _all_training(network), image)
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "gmacs": round(products.get_total_flops() / 2e9, 6),
        "activations": outputs.numbers,
        "depth": _longest_path(output.grad_fn),
    }


class _Outputs(TorchDispatchMode):
    """Counts the numbers in the outputs of the products that have FLOPs to count."""

    numbers = 0

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if function.overloadpacket in flop_registry:
            self.numbers += output.numel()
        return output


def _all_training(network):
    """Return a network's parameters as ones that all require gradients, frozen or not."""
    return {
        name: nn.Parameter(parameter.detach()) for name, parameter in network.named_parameters()
    }


def _longest_path(last):
    """Count the products with weights on the longest path that ends in an autograd node.

    A node counts when it multiplies (convolution or matrix product) and one of its inputs comes
    from a parameter of two or more dimensions and from nothing else.
    """
    products = ("Convolution", "Addmm", "Mm", "Bmm", "Linear")
    from_weight, depth, stack = {}, {}, [last]
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
