"""The weights that a network starts from: fetched, verified, and saved as safetensors."""

import hashlib
import importlib
import inspect
import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import packages_distributions, version
from modulefinder import ModuleFinder
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
from headswap.io import atomic_write, digest, read_tensors, sha256
from headswap.params import Params
from headswap.paths import WEIGHTS
from headswap.train.networks import build, find_head, reset_weights
from headswap.train.seeds import seeded

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""The auxiliary classifiers of googlenet and inception_v3, which `networks.build` leaves out."""


def write_weights(
    name: str,
    params: Params,
    destination: Path,
) -> None:
    """Write the weights of a network, pretrained or random, and their origin.

    The metadata of the safetensors file are the ``source``; the ``head``; the ``preprocessing``
    that the network was made for; the ``sha256`` of the tensors; unless they are torchvision's, the
    versions of the ``packages`` that made them; for a factory its name and the digest of its code,
    which is its module and what that imports from the same folder. torchvision's pretrained weights
    are not downloaded again if the file has them already.
    """
    pretrained = params.weights == "imagenet" and name not in params.factories
    url = _imagenet_url(name) if pretrained else None
    with seeded(0, "weights"):
        network = build(name, params.factories)
        if params.weights == "random" and name in params.factories:
            reset_weights(network, name)
    if name in params.factories:
        own = preprocessing_from_network(network, name)
    else:
        own = torchvision_preprocessing(name)
    origin: dict[str, Any] = {"preprocessing": asdict(own)}
    head = find_head(network, name, own.with_sides(params.image).size)
    if url:
        source = url
        state = _saved_state(destination, url) or _imagenet_state(name, url)
        load_tensors(network, state)
    else:
        source = "random" if params.weights == "random" else params.factories[name]
        origin["packages"] = {"torch": version("torch"), "torchvision": version("torchvision")}
    if name in params.factories:
        code, packages = _factory_code(params.factories[name].partition(":")[0])
        origin["packages"] |= {package: version(package) for package in packages}
        origin |= {"factory": params.factories[name], "code": code}
    state = network.state_dict()
    save_tensors(
        destination, state, source=source, head=head, sha256=_tensors_digest(state), **origin
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
    network = build(name, params.factories)
    try:
        load_tensors(network, tensors)
        return network, metadata["head"]
    except (RuntimeError, KeyError) as error:
        raise UserError(
            f"{path} does not fit {name}: {error}\n"
            f"If its factory was edited: dvc repro --force --single-item weights@{name}"
        ) from error


def load_tensors(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load all tensors of a network; raises RuntimeError if it has others, or others in shape."""
    network.load_state_dict(_with_metadata(tensors, network))


def _factory_code(name: str) -> tuple[str, set[str]]:
    """Return the digest of a module's code, and the installed packages that the code uses.

    The code is the module and all that it imports from the same folder. Of an installed module it
    is the module alone: the rest is known by its package's version.
    """
    module = importlib.import_module(name)
    file = Path(inspect.getfile(module))
    root = file.parents[name.count(".") + hasattr(module, "__path__")]
    files, imported = {file}, {name}
    if "site-packages" not in root.parts:
        finder = ModuleFinder([str(root)])
        finder.import_hook(name)
        paths = (getattr(found, "__file__", None) for found in finder.modules.values())
        files |= {Path(path) for path in paths if path}
        imported |= set(finder.any_missing())
    code = digest(sorted((path.relative_to(root).as_posix(), sha256(path)) for path in files))
    installed = packages_distributions()
    return code, {
        package for path in imported for package in installed.get(path.partition(".")[0], ())
    }


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


def _with_metadata(tensors: Mapping[str, torch.Tensor], network: nn.Module) -> OrderedDict:
    """Return tensors as a state dict with the layers' versions, which some networks ask for."""
    state = OrderedDict(tensors)
    state._metadata = getattr(network.state_dict(), "_metadata", None)  # type: ignore[attr-defined]
    return state


def check_digest(path: Path) -> None:
    """Raise ValueError unless a file's SHA-256 begins with the digits at the end of its name.

    torchvision names its weights so: ``resnet18-f37072fd.pth``.
    """
    expected = path.stem.rpartition("-")[2]
    found = sha256(path)
    if not found.startswith(expected):
        raise ValueError(f"has SHA-256 {found[:8]}…, not {expected}…; it is not the original file")
