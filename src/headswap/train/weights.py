"""The weights that a network starts from: fetched, verified, and saved as safetensors."""

import copy
import hashlib
import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from headswap.download import download_file
from headswap.errors import UserError
from headswap.images.preprocessing import Preprocessing, preprocessing_from_network
from headswap.io import atomic_write, read_tensors, sha256
from headswap.params import Params
from headswap.paths import WEIGHTS
from headswap.train.factories import check_code, factory_origin
from headswap.train.networks import build, check_layers, check_training, find_head, reset_weights
from headswap.train.seeds import seeded

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""The auxiliary classifiers of googlenet and inception_v3, which `networks.build` leaves out."""


def write_weights(name: str, params: Params, destination: Path) -> None:
    """Write the weights of a network, pretrained or random, and their origin.

    The metadata of the safetensors file are the ``source``; the ``head``; the ``preprocessing``
    that the network was made for; the ``sha256`` of the tensors; unless they are torchvision's, the
    versions of the ``packages`` that made them; of a factory also what `factory_origin` returns.
    torchvision's pretrained weights are not downloaded again if the file has them already.
    """
    factory, random = params.factories.get(name), params.weights == "random"
    url = None if factory or random else _imagenet_url(name)
    origin = factory_origin(name, factory) if factory else {}
    if random and not factory:
        origin["packages"] = {"torch": version("torch"), "torchvision": version("torchvision")}
    with seeded(0, "weights"):
        network = build(name, params.factories)
        if factory:
            check_layers(network, name)
            made_for = preprocessing_from_network(network, name)
        else:
            made_for = torchvision_preprocessing(name)
        if factory and random:
            reset_weights(network, name)
    size = made_for.with_image(params.image).size
    head = find_head(network, name, size)
    if url:
        load_tensors(network, _saved_state(destination, url) or _imagenet_state(name, url))
    state = network.state_dict()
    if factory:
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


def torchvision_preprocessing(name: str) -> Preprocessing:
    """Return the preprocessing of a network of torchvision's, that of its IMAGENET1K_V1 weights."""
    weights = torchvision.models.get_model_weights(name)
    if "IMAGENET1K_V1" not in weights.__members__:
        return Preprocessing()
    values = weights["IMAGENET1K_V1"].transforms()
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
        load_tensors(network, tensors)
        return network, metadata["head"]
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


def _imagenet_url(name: str) -> str:
    try:
        return torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
    except KeyError:
        raise UserError(
            f"torchvision has no IMAGENET1K_V1 weights for {name}.\nRemove it from models."
        ) from None


def _imagenet_state(name: str, url: str) -> dict[str, torch.Tensor]:
    """Load torchvision's weights with torchvision's own loader.

    The file comes from the mirror, torch's hub cache or `url`, and is verified before it is loaded
    from a temporary hub cache; code in it is not executed.
    """
    filename = url.rsplit("/", 1)[-1]
    cached = Path(torch.hub.get_dir(), "checkpoints", filename)
    with tempfile.TemporaryDirectory() as folder:
        # Its name has 8 of the 64 digits of its SHA-256, so plain HTTP is not safe.
        download_file(
            url, Path(folder, "hub/checkpoints", filename), check_digest, [cached], pinned=False
        )
        options = {"TORCH_HOME": folder, "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}
        try:
            with mock.patch.dict(os.environ, options):
                network = torchvision.models.get_model(name, weights="IMAGENET1K_V1")
        except Exception as error:  # a file whose digest matches may still have any content
            raise UserError(f"{filename} does not contain {name}'s weights: {error}") from error
    state = network.state_dict()
    return {key: state[key] for key in state if not key.startswith(AUXILIARY)}


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


def check_digest(path: Path) -> None:
    """Raise ValueError unless a file's SHA-256 begins with the digits at the end of its name.

    torchvision names its weights so: ``resnet18-f37072fd.pth``.
    """
    expected = path.stem.rpartition("-")[2]
    found = sha256(path)
    if not found.startswith(expected):
        raise ValueError(f"has SHA-256 {found[:8]}…, not {expected}…; it is not the original file")
