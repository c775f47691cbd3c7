"""Backbones: which there are, how one is built, where its head is, and a new head for it."""

import difflib
import math
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.modules.module import register_module_forward_hook

from headswap.errors import UserError
from headswap.train.factories import factory_origin, import_factory
from headswap.train.speed.light_torchvision import torchvision

AUTOCAST_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Layers whose weights autocast casts and nothing else reads; subclasses may differ."""


def check_models(models: list[str], factories: dict[str, str]) -> None:
    """Raise a UserError unless every model exists and every factory can be imported."""
    errors = []
    for name in dict.fromkeys([*models, *factories]):
        try:
            if torchvision_source(name, factories):
                _check_torchvision(name, factories)
            else:
                factory_origin(name, factories[name])
        except UserError as error:
            errors.append(str(error))
    if errors:
        raise UserError("\n".join(errors) + "\nCorrect this, then: headswap check")


# With their auxiliary classifiers, the output in train mode would be a tuple; their pretrained
# weights expect inputs that the networks scale themselves.
OPTIONS: dict[str, dict[str, Any]] = {
    name: {"aux_logits": False, "init_weights": False, "transform_input": True}
    for name in ("googlenet", "inception_v3")
}
DEFAULT = "IMAGENET1K_V1"
"""The weights of a network that is named without any."""
APPENDED = "appended_head"
"""The name of the head of a `WithHead`."""


class WithHead(nn.Module):
    """A network that ends in features, and a linear layer after it."""

    def __init__(self, body: nn.Module, features: int):
        super().__init__()
        self.body, self.appended_head = body, new_head(features, 1, torch.Generator())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.appended_head(self.body(images))


def with_head(network: nn.Module, head: str, features: int) -> nn.Module:
    """Return a network that has the layer named `head`, which `find_head` found or appended."""
    return WithHead(network, features) if head == APPENDED else network


def torchvision_source(name: str, factories: dict[str, str]) -> tuple[str, str] | None:
    """Return the name and the weights of a network of torchvision's; None of any other."""
    library, _, source = factories.get(name, f"torchvision:{name}:{DEFAULT}").partition(":")
    network, _, weights = source.partition(":")
    return (network, weights) if library == "torchvision" else None


def build(name: str, factories: dict[str, str]) -> nn.Module:
    """Build a network: a library's without pretrained weights, an own factory's with its own."""
    if source := torchvision_source(name, factories):
        _check_torchvision(name, factories)
        options = OPTIONS.get(source[0], {})
        entry = torchvision.models.get_model_weights(source[0]).__members__.get(source[1])
        if entry and source[0].startswith("vit_"):  # its position embedding is made for one size
            options = {"image_size": entry.meta["min_size"][0]}
        network = torchvision.models.get_model(source[0], weights=None, **options)
        if isinstance(network, torchvision.models.SqueezeNet):
            # Its head is a convolution before a ReLU and a mean; the mean of what that reads is
            # 512 features, after which a head is appended.
            network.classifier[1] = nn.Identity()
        return network
    factory = import_factory(name, factories[name])
    try:
        network = factory()
    except Exception as error:  # the user's code may fail in any way
        raise UserError(
            f"factories.{name}: {factories[name]}() failed: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(network, nn.Module):
        raise UserError(
            f"factories.{name}: {factories[name]}() returned {type(network)}, not a torch.nn.Module"
        )
    network.register_forward_hook(_take_logits)
    return network


def _take_logits(module: nn.Module, inputs: Any, output: Any) -> Any:
    """Return the tensor that is meant: the ``logits`` of an object, the first of a tuple."""
    if isinstance(output, torch.Tensor):
        return output
    output = getattr(output, "logits", output)
    return output[0] if isinstance(output, tuple | list) else output


def _check_torchvision(name: str, factories: dict[str, str]) -> None:
    source = torchvision_source(name, factories)
    assert source
    network, weights = source
    known = torchvision.models.list_models(module=torchvision.models)
    if network not in known:
        close = difflib.get_close_matches(network.lower(), known, 3)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise UserError(
            f"models: {network} is not a network of torchvision; {hint}"
            "allowed are its classification models (`headswap networks`) and the names under "
            "factories"
        )
    allowed = [entry.name for entry in torchvision.models.get_model_weights(network)]
    if name in factories and weights not in allowed:
        raise UserError(
            f"factories.{name}: torchvision has no weights {weights!r} for {network}; allowed are "
            f"torchvision:{network}: and {' or '.join(allowed)}"
        )


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


def check_layers(network: nn.Module, name: str) -> None:
    """Raise a UserError if a factory's network has layers that cannot be trained."""
    if any(isinstance(module, LazyModuleMixin) for module in network.modules()):
        raise _refusal(
            name,
            "has lazy layers, whose sizes are not known yet",
            "show it an image: network.eval()(torch.zeros(1, 3, 224, 224))",
        )
    if any(isinstance(module, nn.DataParallel) for module in network.modules()):
        raise _refusal(name, "is wrapped in DataParallel", "return network.module")
    if others := {value.dtype for value in network.parameters()} - {torch.float32}:
        raise _refusal(name, f"has weights in {others.pop()}", "add: network.float()")


def find_head(network: nn.Module, name: str, size: int = 224) -> tuple[nn.Module, str]:
    """Return a network with a head, and the head's name.

    The head is the linear layer whose output is the network's output; where there is no such layer,
    the output are features, after which one is appended (`WithHead`). The network, which messages
    call `name`, is run once, in eval mode, on an image of `size` pixels a side.
    """
    calls: list[tuple[nn.Module, Any]] = []

    def record(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(module, nn.Linear):
            calls.append((module, output))

    network.eval()
    try:
        with torch.no_grad(), register_module_forward_hook(record):
            output = network(_images(1, size))
    except Exception as error:
        raise UserError(
            f"{name} fails on an image of {size} x {size} pixels: {error}.\n"
            "Set image.size and image.resize to what it was made for, correct its factory, or "
            "remove it from models."
        ) from error
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        shape = f" of shape {tuple(output.shape)}" if isinstance(output, torch.Tensor) else ""
        raise _refusal(
            name,
            f"returns a {type(output).__name__}{shape}, not one vector for each image",
            "take that out: network.register_forward_hook(lambda module, inputs, output: …)",
        )
    if calls and output.equal(calls[-1][1]):
        last = calls[-1][0]
        return network, next(path for path, module in network.named_modules() if module is last)
    return with_head(network, APPENDED, output.shape[1]), APPENDED


def check_training(network: nn.Module, head: str, name: str, size: int) -> None:
    """Raise a UserError unless a factory's network can be trained with another head.

    It is changed: run on two images of `size` pixels a side, and backwards.
    """
    old: Any = network.get_submodule(head)
    identity, new = (
        nn.Identity(),
        new_head(old.in_features, old.out_features + 1, torch.Generator()),
    )
    calls: list[torch.Size] = []
    for layer in (identity, new):
        layer.register_forward_hook(lambda _, inputs, output: calls.append(output.shape))
    network.requires_grad_(True)
    for training, layer in ((False, new), (False, identity), (True, new)):
        calls.clear()
        replace_layer(network, head, layer)
        network.train(training)
        try:
            output = network(_images(2, size))
            if calls != [output.shape]:
                raise ValueError(f"calls of {head}: {len(calls)}, output: {tuple(output.shape)}")
        except Exception as error:
            mode = "train" if training else "eval"
            raise _refusal(
                name,
                f"fails in {mode} mode with {layer} in place of {head}: {error}",
                f"let its forward call {head}, by that name, once, return what that returns (no "
                f"view, reshape or index), and use nothing else of {head}, in both modes",
            ) from error
    rest = [value for path, value in network.named_parameters() if not path.startswith(f"{head}.")]
    try:
        output.sum().backward()
        if rest and all(value.grad is None for value in rest):
            raise RuntimeError(f"none reaches what is before {head}")
    except RuntimeError as error:
        raise _refusal(
            name,
            f"computes no gradients: {error}",
            "take torch.no_grad(), torch.inference_mode() and .detach() out of its forward",
        ) from error


def _images(number: int, size: int) -> torch.Tensor:
    return torch.linspace(-2, 2, number * 3 * size * size).reshape(number, 3, size, size)


def _refusal(name: str, what: str, remedy: str) -> UserError:
    return UserError(
        f"factories.{name}: its network cannot be trained, because it {what}.\n"
        f"In the factory, {remedy}"
    )


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
