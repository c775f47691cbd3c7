"""The weights that a network starts from: fetched, verified, and saved as safetensors."""

import copy
import hashlib
import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from headswap.download import download_file
from headswap.errors import UserError
from headswap.images.preprocessing import Preprocessing, preprocessing_from_network
from headswap.io import atomic_write, read_tensors, sha256
from headswap.params import Params
from headswap.paths import WEIGHTS
from headswap.train.factories import check_code, factory_origin, import_factory, is_timm, timm_url
from headswap.train.networks import (
    build,
    check_layers,
    check_training,
    find_head,
    reset_weights,
    torchvision_source,
    with_head,
)
from headswap.train.seeds import seeded
from headswap.train.speed.light_torchvision import torchvision


def write_weights(name: str, params: Params, destination: Path) -> str:
    """Write the weights of a network, pretrained or random, and their origin; return its head.

    The metadata of the safetensors file are the ``source``; the ``head``; the ``preprocessing``
    that the network was made for; the ``sha256`` of the tensors; unless they are torchvision's, the
    versions of the ``packages`` that made them; of a factory also what `factory_origin` returns.
    A library's pretrained weights are not downloaded again if the file has them already.
    """
    factory, random = params.factories.get(name), params.weights == "random"
    source = torchvision_source(name, params.factories)
    url = None if random else _pretrained_url(name, source, factory)
    origin: dict[str, Any] = {"factory": factory} if factory else {}
    if source is None:
        origin = factory_origin(name, factory or "")
    elif random:
        origin["packages"] = {"torch": version("torch"), "torchvision": version("torchvision")}
    with seeded(0, "weights"):
        network = build(name, params.factories)
        if source:
            made_for = torchvision_preprocessing(*source)
        else:
            check_layers(network, name)
            made_for = preprocessing_from_network(network, name)
            if random and not is_timm(factory):
                reset_weights(network, name)
    size = made_for.with_image(params.image).size
    body, (network, head) = network, find_head(network, name, size)
    if url and (saved := _saved_state(destination, url)):
        load_tensors(network, saved)
    elif url:
        pretrained = _pretrained_network(url, source, factory).state_dict()
        load_tensors(body, {key: pretrained[key] for key in body.state_dict()})
    state = network.state_dict()
    if source is None:
        state = copy.deepcopy(state)  # `check_training` changes it
        check_training(network, head, name, size)
    save_tensors(
        destination,
        state,
        source="random" if random else url or factory,
        head=head,
        preprocessing=asdict(made_for),
        sha256=_tensors_digest(state),
        **origin,
    )
    return head


def torchvision_preprocessing(name: str, weights: str) -> Preprocessing:
    """Return the preprocessing of a network of torchvision's, that of its weights."""
    found = torchvision.models.get_model_weights(name).__members__.get(weights)
    if found is None:
        return Preprocessing()
    values = found.transforms()
    (size,), (resize,) = values.crop_size, values.resize_size
    return Preprocessing(
        size, resize, values.interpolation.value, list(values.mean), list(values.std)
    )


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], **metadata: Any) -> None:
    """Write tensors and JSON-like metadata; the bytes depend on their content alone.

    All metadata go into one entry, because safetensors writes several in random order.
    `io.read_tensors` reads them.
    """
    contiguous = {
        name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()
    }
    text = json.dumps(metadata, sort_keys=True)
    with atomic_write(path, SafetensorError) as temporary:
        save_file(contiguous, temporary, metadata={"headswap": text})


def load_pretrained(name: str, params: Params, folder: Path = WEIGHTS) -> tuple[nn.Module, str]:
    """Return a network with the weights that `write_weights` wrote, and the name of its head."""
    path = folder / f"{name}.safetensors"
    tensors, metadata = read_tensors(path, "pt")
    if name in params.factories:
        check_code(name, params.factories[name], metadata.get("code"))
    network = build(name, params.factories)
    try:
        head = metadata["head"]
        network = with_head(network, head, tensors[f"{head}.weight"].shape[1])
        load_tensors(network, tensors)
        return network, head
    except (RuntimeError, KeyError) as error:
        raise UserError(
            f"{path} does not fit {name}: {error}\n"
            f"Write it again with: dvc repro --force --single-item weights@{name}"
        ) from error


def load_tensors(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load all tensors of a network; raises RuntimeError if it has others, or others in shape."""
    state = OrderedDict(tensors)  # with the layers' versions, which some networks ask for
    state._metadata = getattr(network.state_dict(), "_metadata", None)  # type: ignore[attr-defined]
    network.load_state_dict(state)


def _pretrained_url(name: str, source: tuple[str, str] | None, factory: str | None) -> str | None:
    """Return where a library's pretrained weights are; None of an own factory's network."""
    if source is None:
        return timm_url(name, factory) if factory and is_timm(factory) else None
    network, weights = source
    known = torchvision.models.get_model_weights(network)
    if weights not in known.__members__:
        others = " or ".join(f"torchvision:{network}:{entry.name}" for entry in known)
        raise UserError(
            f"torchvision has no {weights} weights for {network}.\n"
            f"Name others, under factories: {network}: {others}"
        )
    return known[weights].url


def _pretrained_network(url: str, source: tuple[str, str] | None, factory: str | None) -> nn.Module:
    """Let torchvision or timm load its own pretrained weights.

    The file comes from the mirror, the library's cache or `url`; code in it is not executed.
    torchvision's is verified, and loaded from a temporary hub cache.
    """
    filename = weights_filename(url)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "hub/checkpoints", filename)
        # Its name has at most 8 of the 64 digits of its SHA-256, so plain HTTP is not safe.
        check = check_digest if source else _check_size
        download_file(url, path, check, [*cached_files(url)], pinned=False, name=filename)
        options = {"TORCH_HOME": folder, "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}
        try:
            if source is None:
                return import_factory("", factory or "")(
                    pretrained=True,
                    pretrained_cfg_overlay={"file": str(path), "custom_load": False},
                )
            with mock.patch.dict(os.environ, options):
                return torchvision.models.get_model(source[0], weights=source[1])
        except Exception as error:  # a file whose digest matches may still have any content
            of = source[0] if source else factory
            raise UserError(f"{filename} does not contain {of}'s weights: {error}") from error


def weights_filename(url: str) -> str:
    """Return the name of a file of weights in a mirror; on Hugging Face's hub all are alike.

    >>> weights_filename("https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/a.safetensors")
    'resnet18.a1_in1k.safetensors'
    """
    repository, on_hub, file = url.partition("/resolve/")
    name = file.rsplit("/", 1)[-1] or url.rsplit("/", 1)[-1]
    return f"{repository.rsplit('/', 1)[-1]}{Path(name).suffix}" if on_hub else name


def cached_files(url: str) -> Iterator[Path]:
    """Yield where a library's own cache may have a file of weights."""
    repository, on_hub, file = url.partition("/resolve/main/")
    if on_hub:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache("/".join(repository.rsplit("/", 2)[-2:]), file)
        if isinstance(found, str):
            yield Path(found)
    else:
        yield Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[-1])


def _saved_state(path: Path, url: str) -> dict[str, torch.Tensor] | None:
    """Return the weights that were fetched from `url` earlier, None if `path` has no such."""
    try:
        tensors, metadata = read_tensors(path, "pt")
    except UserError:
        return None
    same = metadata.get("source") == url and metadata.get("sha256") == _tensors_digest(tensors)
    return tensors if same else None


def _tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of tensors and their names."""
    content = hashlib.sha256()
    for name in sorted(tensors):
        flat = tensors[name].detach().cpu().contiguous().flatten()
        content.update(name.encode())
        content.update(flat.view(torch.uint8).numpy().tobytes())
    return content.hexdigest()


def _check_size(path: Path) -> None:
    if path.stat().st_size < 1000:
        raise ValueError("is no file of weights")


def check_digest(path: Path) -> None:
    """Raise ValueError unless a file's SHA-256 begins with the digits at the end of its name.

    torchvision names its weights so: ``resnet18-f37072fd.pth``.
    """
    expected = path.stem.rpartition("-")[2]
    found = sha256(path)
    if not found.startswith(expected):
        raise ValueError(f"has SHA-256 {found[:8]}…, not {expected}…; it is not the original file")
