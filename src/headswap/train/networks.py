"""Backbones: which there are, how one is built, where its head is, and a new head for it."""

import math
from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.modules.module import register_module_forward_hook

from headswap.errors import UserError
from headswap.train.factories import check_name, factory_origin, import_factory
from headswap.train.speed import torchvision

DEFAULT = "IMAGENET1K_V1"  # the weights of a network that is named without any
APPENDED = "appended_head"  # the name of the head of a network that ends in features


def check_models(models: list[str], factories: dict[str, str]) -> None:
    """Raise a UserError unless every model exists and every factory can be imported."""
    errors = []
    for name in dict.fromkeys([*models, *factories]):
        try:
            if not torchvision_source(name, factories):
                factory_origin(name, factories[name])
        except UserError as error:
            errors.append(str(error))
    if errors:
        raise UserError("\n".join([*errors, "Correct this, then: headswap check"]))


def torchvision_source(
    name: str, factories: dict[str, str], pretrained: bool = False
) -> tuple[str, str] | None:
    """Return the name and the weights of a network of torchvision's; None of any other."""
    library, _, source = factories.get(name, f"torchvision:{name}:{DEFAULT}").partition(":")
    if library != "torchvision":
        return None
    network, _, weights = source.partition(":")
    where = f"factories.{name}" if name in factories else "models"
    check_name(where, network, library, torchvision.models.list_models(torchvision.models))
    entries = [entry.name for entry in torchvision.models.get_model_weights(network)]
    if weights not in entries and (pretrained or name in factories):
        others = " or ".join(f"torchvision:{network}:{entry}" for entry in entries)
        text = f"torchvision has no {weights} weights for {network}."
        raise UserError(f"{text}\nName others, under factories: {name}: {others}")
    return network, weights


def build(name: str, factories: dict[str, str]) -> nn.Module:
    """Build a network: a library's without pretrained weights, an own factory's with its own."""
    if source := torchvision_source(name, factories):
        options: dict[str, Any] = {}
        if source[0] in ("googlenet", "inception_v3"):
            # Without these, the output in train mode is a tuple, and inputs are scaled otherwise.
            options = {"aux_logits": False, "init_weights": False, "transform_input": True}
        entry = torchvision.models.get_model_weights(source[0]).__members__.get(source[1])
        if entry and source[0].startswith("vit_"):  # its position embedding is made for one size
            options = {"image_size": entry.meta["min_size"][0]}
        network = torchvision.models.get_model(source[0], weights=None, **options)
        if isinstance(network, torchvision.models.SqueezeNet):
            network.classifier[1] = nn.Identity()  # instead of a convolution of 512 features
        return network
    factory = import_factory(name, factories[name])
    try:
        if not isinstance(network := factory(), nn.Module):
            raise TypeError(f"it returned {type(network)}, not a torch.nn.Module")
    except Exception as error:  # the user's code may fail in any way
        text = f"{factories[name]}() failed: {type(error).__name__}: {error}"
        raise UserError(f"factories.{name}: {text}") from error
    network.register_forward_hook(_take_logits)
    return network


def _take_logits(module: nn.Module, inputs: Any, output: Any) -> Any:
    """Return the tensor that is meant: the ``logits`` of an object, the first of a tuple."""
    output = getattr(output, "logits", output)
    return output[0] if isinstance(output, tuple | list) else output


def reset_weights(network: nn.Module, name: str) -> None:
    """Reset every layer to random weights from torch's default generator."""
    for path, module in network.named_modules():
        if not [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            continue
        if not hasattr(module, "reset_parameters"):
            layer = f"its {path or 'outermost'} layer, a {type(module).__name__},"
            text = f"weights: random is not possible for {name}: {layer} has no reset_parameters()."
            raise UserError(f"{text}\nSet weights: imagenet.")
        module.reset_parameters()


def find_head(network: nn.Module, name: str, size: int = 224) -> tuple[nn.Module, str]:
    """Return a network with a head, and its name: the linear layer of its output, or a new one."""
    try:
        with torch.no_grad():
            output, calls = _run(network.eval(), 1, size, nn.Linear)
        if not isinstance(output, torch.Tensor) or output.ndim != 2:
            kind, shape = type(output).__name__, getattr(output, "shape", "no tensor")
            raise TypeError(f"it returns a {kind} ({shape}), not one vector for each image")
    except Exception as error:
        text = f"{name} fails on an image of {size} x {size} pixels: {error}."
        remedy = "Set image.size and image.resize to what it was made for, let its factory return "
        remedy += "a network that makes one vector of each image, or remove it from models."
        raise UserError(f"{text}\n{remedy}") from error
    if calls and output.equal(calls[-1][1]):
        last = calls[-1][0]
        return network, next(path for path, module in network.named_modules() if module is last)
    return with_head(network, APPENDED, output.shape[1]), APPENDED


def with_head(network: nn.Module, head: str, features: int) -> nn.Module:
    """Return a network that has the layer named `head`, which `find_head` found or appended."""
    layers = OrderedDict({"body": network, APPENDED: new_head(features, 1, torch.Generator())})
    return nn.Sequential(layers) if head == APPENDED else network


def check_layers(network: nn.Module, name: str) -> None:
    """Raise a UserError if a factory's network has layers that cannot be trained."""
    for module in network.modules():
        if isinstance(module, LazyModuleMixin):
            remedy = "show it an image: network.eval()(torch.zeros(1, 3, 224, 224))"
            raise _refusal(name, "has lazy layers, whose sizes are not known yet", remedy)
        if isinstance(module, nn.DataParallel):
            raise _refusal(name, "is wrapped in DataParallel", "return network.module")
    if others := {value.dtype for value in network.parameters()} - {torch.float32}:
        raise _refusal(name, f"has weights in {others.pop()}", "add: network.float()")


def check_training(network: nn.Module, head: str, name: str, size: int) -> None:
    """Raise a UserError unless a factory's network, which is changed, trains with another head."""
    old: Any = network.get_submodule(head)
    new = new_head(old.in_features, old.out_features + 1, torch.Generator())
    network.requires_grad_(True)
    for mode, layer in (("eval", new), ("eval", nn.Identity()), ("train", new)):
        network.set_submodule(head, layer)
        try:
            output, calls = _run(network.train(mode == "train"), 2, size, type(layer))
            shapes = [given.shape for module, given in calls if module is layer]
            if shapes != [output.shape]:
                raise ValueError(f"calls of {head}: {len(shapes)}, output: {tuple(output.shape)}")
            if mode == "train":
                output.sum().backward()
                named = network.named_parameters()
                grads = [value.grad for path, value in named if not path.startswith(f"{head}.")]
                if grads and all(grad is None for grad in grads):
                    raise ValueError(f"no gradient reaches what is before {head}")
        except Exception as error:
            remedy = (
                f"let its forward call {head}, by that name, once, return what that returns (no "
                f"view, reshape or index), and use nothing else of {head}, in both modes; take "
                "torch.no_grad(), torch.inference_mode() and .detach() out of it"
            )
            what = f"fails in {mode} mode with {layer} in place of {head}: {error}"
            raise _refusal(name, what, remedy) from error


def _run(
    network: nn.Module, images: int, size: int, kind: type[nn.Module]
) -> tuple[Any, list[tuple[nn.Module, Any]]]:
    """Return the output of a network, and each call of a layer of a kind with its output."""
    calls: list[tuple[nn.Module, Any]] = []

    def record(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(module, kind):
            calls.append((module, output))

    with register_module_forward_hook(record):
        batch = torch.linspace(-2, 2, images * 3 * size * size).reshape(images, 3, size, size)
        return network(batch), calls


def _refusal(name: str, what: str, remedy: str) -> UserError:
    text = f"factories.{name}: its network cannot be trained, because it {what}."
    return UserError(f"{text}\nIn the factory, {remedy}")


def new_head(features: int, classes: int, generator: torch.Generator) -> nn.Linear:
    """Return a linear layer, initialised as ``torch.nn.Linear`` is: uniform in ±1/√features."""
    with torch.random.fork_rng(devices=[]):  # to_empty() from "meta" would import SymPy: 0.3 s
        head = nn.Linear(features, classes)
    bound = 1 / math.sqrt(features)
    for values in (head.weight, head.bias):
        nn.init.uniform_(values, -bound, bound, generator)
    return head


def cast_frozen_weights(network: nn.Module) -> None:
    """Cast what autocast would. Speed: saves 30 % of AlexNet's `frozen` in bfloat16."""
    for module in network.modules():
        if type(module) in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear):  # subclasses may differ
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(torch.bfloat16)
