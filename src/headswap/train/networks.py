"""Backbones: which there are, how one is built, where its head is, and a new head for it."""

import difflib
import importlib
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from headswap.errors import UserError
from headswap.io import refuse_outputs

Factories = dict[str, str]
"""The models that are not torchvision's, each with its factory as ``package.module:callable``."""


AUTOCAST_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Layers whose weights autocast casts and nothing else reads; subclasses may differ."""


def available() -> list[str]:
    """Return the names of torchvision's classification networks."""
    return torchvision.models.list_models(module=torchvision.models)


def check_models(models: list[str], factories: Factories) -> None:
    """Raise a UserError unless every model exists and every factory can be imported."""
    errors = []
    for name in [*models, *(name for name in factories if name not in models)]:
        try:
            find_factory(name, factories)
            if name in factories:
                module = sys.modules[factories[name].partition(":")[0]]
                if file := getattr(module, "__file__", None):
                    refuse_outputs(os.path.relpath(file), f"factories.{name}")
        except UserError as error:
            errors.append(str(error))
    if errors:
        raise UserError("\n".join(errors) + "\nCorrect params.yaml, then: headswap check")


def find_factory(name: str, factories: Factories) -> Callable[[], Any]:
    """Return the function that builds a network, without arguments.

    torchvision's networks come without pretrained weights. Factories in modules of the working
    folder are found, too. **A factory is code that is executed.**
    """
    if name not in factories:
        if name not in available():
            close = difflib.get_close_matches(name.lower(), available(), 3)
            hint = f"did you mean {' or '.join(close)}? " if close else ""
            raise UserError(
                f"models: {name} is not a network of torchvision; {hint}"
                "allowed are its classification models and the names under factories"
            )
        return lambda: torchvision.models.get_model(name, weights=None, **OPTIONS.get(name, {}))
    module, _, attribute = factories[name].partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # the user's module may fail in any way
        raise UserError(
            f"factories.{name}: {factories[name]} cannot be imported: "
            f"{type(error).__name__}: {error}; allowed is package.module:callable of a module "
            "that is installed or is in this folder"
        ) from error
    if not callable(factory):
        raise UserError(f"factories.{name}: {factories[name]} is not callable")
    return factory


# With their auxiliary classifiers, the output in train mode would be a tuple; their pretrained
# weights expect inputs that the networks scale themselves.
OPTIONS: dict[str, dict[str, bool]] = {
    name: {"aux_logits": False, "init_weights": False, "transform_input": True}
    for name in ("googlenet", "inception_v3")
}


def build(name: str, factories: Factories) -> nn.Module:
    """Build a network, with the weights that its factory gives it."""
    factory = find_factory(name, factories)
    try:
        network = factory()
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


def reset_weights(network: nn.Module, name: str) -> None:
    """Reset every layer of a network, which messages call `name`, to random weights.

    The numbers come from torch's default generator.
    """
    for path, module in network.named_modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if not own:
            continue
        if not hasattr(module, "reset_parameters"):
            raise UserError(
                f"weights: random is not possible for {name}: its {path or 'outermost'} layer, "
                f"a {type(module).__name__}, has no reset_parameters().\n"
                "Remove it from models, or set weights: imagenet."
            )
        module.reset_parameters()


def find_head(network: nn.Module, name: str, size: int = 224) -> str:
    """Return the name of the head: the linear layer whose output is the network's output.

    The network, which messages call `name`, is run once, in eval mode, on an image of `size` pixels
    a side.
    """
    calls: list[tuple[str, Any]] = []
    hooks = []
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
            "Set image.size and image.resize to what it was made for, correct its factory, or "
            "remove it from models."
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
            f"{name} does not end in a linear layer, so it has no head to replace.\n"
            "Remove it from models, or give a factory whose network ends in a torch.nn.Linear."
        )
    return calls[-1][0]


def replace_layer(network: nn.Module, path: str, layer: nn.Module) -> None:
    """Replace the layer named `path`."""
    parent, _, leaf = path.rpartition(".")
    setattr(network.get_submodule(parent), leaf, layer)


def new_head(features: int, classes: int, generator: torch.Generator) -> nn.Linear:
    """Return a linear layer that is initialised as PyTorch does, but from the given generator.

    Weights and biases are uniform in ±1/√features, as of ``torch.nn.Linear.reset_parameters``.
    """
    head = nn.utils.skip_init(nn.Linear, features, classes)
    assert isinstance(head, nn.Linear)
    bound = 1 / math.sqrt(features)
    nn.init.uniform_(head.weight, -bound, bound, generator=generator)
    nn.init.uniform_(head.bias, -bound, bound, generator=generator)
    return head


def freeze_all_but(network: nn.Module, head: str) -> None:
    """Let only the layer named `head` be trained."""
    network.requires_grad_(False)
    network.get_submodule(head).requires_grad_(True)


def cast_frozen_weights(network: nn.Module) -> None:
    """Cast the frozen weights that autocast would cast to bfloat16 in every step.

    Speed: saves 30 % of an epoch of AlexNet's `frozen` in bfloat16.
    """
    for module in network.modules():
        if type(module) in AUTOCAST_LAYERS:
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(torch.bfloat16)
