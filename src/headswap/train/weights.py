"""The weights that a network starts from: fetched, verified, and saved as safetensors."""

import contextlib
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
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from headswap.download import download_file
from headswap.errors import UserError
from headswap.images.preprocessing import Preprocessing, preprocessing_from_network
from headswap.io import atomic_write, read_tensors, sha256
from headswap.params import Params
from headswap.paths import WEIGHTS
from headswap.train import networks
from headswap.train.factories import check_code, factory_origin, import_factory, timm_url
from headswap.train.seeds import seeded
from headswap.train.speed import torchvision


def write_weights(name: str, params: Params, destination: Path) -> str:
    """Write the weights of a network, pretrained or random, and their origin; return its head.

    The file's metadata say also what the network was made for, and of a factory `factory_origin`.
    A library's pretrained weights are not downloaded again if the file has them already.
    """
    factory, random = params.factories.get(name, ""), params.weights == "random"
    source = networks.torchvision_source(name, params.factories, pretrained=not random)
    origin: dict[str, Any] = {"factory": factory} if factory else {}
    url, of_timm = None, factory.startswith("timm:")
    if not source:
        origin = factory_origin(name, factory)
        url = timm_url(factory) if of_timm and not random else None
    elif random:
        origin["packages"] = {package: version(package) for package in ("torch", "torchvision")}
    else:
        url = torchvision.models.get_model_weights(source[0])[source[1]].url
    with seeded(0, "weights"):
        network = networks.build(name, params.factories)
        if source:
            made_for = torchvision_preprocessing(*source)
        else:
            networks.check_layers(network, name)
            made_for = preprocessing_from_network(network, name)
            if random and not of_timm:
                networks.reset_weights(network, name)
    size = made_for.with_image(params.image).size
    body, (network, head) = network, networks.find_head(network, name, size)
    if url:
        saved, about = dict[str, torch.Tensor](), dict[str, str]()
        with contextlib.suppress(UserError):
            saved, about = read_tensors(destination, "pt")
        if (about.get("source"), about.get("sha256")) == (url, _tensors_digest(saved)):
            load_tensors(network, saved)
        else:
            pretrained = _pretrained_network(url, source, factory).state_dict()
            load_tensors(body, {key: pretrained[key] for key in body.state_dict()})
    state = {key: value.clone() for key, value in network.state_dict().items()}
    if not source:
        networks.check_training(network, head, name, size)  # which changes it
    origin |= {"source": "random" if random else url or factory, "head": head}
    origin |= {"preprocessing": asdict(made_for), "sha256": _tensors_digest(state)}
    save_tensors(destination, state, **origin)
    return head


def torchvision_preprocessing(name: str, weights: str) -> Preprocessing:
    """Return the preprocessing of a network of torchvision's, that of its weights."""
    found = torchvision.models.get_model_weights(name).__members__.get(weights)
    if found is None:
        return Preprocessing()
    values = found.transforms()
    (size,), (resize,), method = values.crop_size, values.resize_size, values.interpolation.value
    return Preprocessing(size, resize, method, list(values.mean), list(values.std))


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], **metadata: Any) -> None:
    """Write torch's tensors and metadata as `io.write_tensors` does NumPy's."""
    contiguous = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
    with atomic_write(path, SafetensorError) as temporary:
        save_file(contiguous, temporary, {"headswap": json.dumps(metadata, sort_keys=True)})


def load_pretrained(name: str, params: Params, folder: Path = WEIGHTS) -> tuple[nn.Module, str]:
    """Return a network with the weights that `write_weights` wrote, and the name of its head."""
    path = folder / f"{name}.safetensors"
    tensors, metadata = read_tensors(path, "pt")
    if name in params.factories:
        check_code(name, params.factories[name], metadata.get("code"))
    network = networks.build(name, params.factories)
    try:
        head = metadata["head"]
        network = networks.with_head(network, head, tensors[f"{head}.weight"].shape[1])
        load_tensors(network, tensors)
    except (RuntimeError, KeyError) as error:
        text = f"{path} does not fit {name}: {error}"
        raise UserError(f"{text}\nRun: dvc repro --force --single-item weights@{name}") from error
    return network, head


def load_tensors(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load all tensors of a network; raises RuntimeError if it has others, or others in shape."""
    state = OrderedDict(tensors)  # with the layers' versions, which some networks ask for
    state._metadata = getattr(network.state_dict(), "_metadata", None)  # type: ignore[attr-defined]
    network.load_state_dict(state)


def _pretrained_network(url: str, source: tuple[str, str] | None, factory: str) -> nn.Module:
    """Let torchvision or timm load its own pretrained weights; code in them is not executed."""
    filename, caches = local_copies(url)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "hub/checkpoints", filename)
        check = _check_digest if source else lambda path: None
        # Its name has at most 8 of the 64 digits of its SHA-256, so plain HTTP is not safe.
        download_file(url, path, check, caches, pinned=False, name=filename)
        hub = {"TORCH_HOME": folder, "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}
        try:
            if not source:
                overlay = {"file": str(path), "custom_load": False}
                return import_factory("", factory)(pretrained=True, pretrained_cfg_overlay=overlay)
            with mock.patch.dict(os.environ, hub):
                return torchvision.models.get_model(source[0], weights=source[1])
        except Exception as error:  # a file whose digest matches may still have any content
            of = source[0] if source else factory
            raise UserError(f"{filename} does not contain {of}'s weights: {error}") from error


def local_copies(url: str) -> tuple[str, list[Path]]:
    """Return a file's name in a mirror (of the hub's, its repository's), and its cached copies."""
    repository, on_hub, file = url.partition("/resolve/main/")
    owner, name = repository.split("/")[-2:]
    if not on_hub:
        return name, [Path(torch.hub.get_dir(), "checkpoints", name)]
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(f"{owner}/{name}", file)
    return name + Path(file).suffix, [Path(cached)] if isinstance(cached, str) else []


def _tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    content = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        content.update(name.encode() + flat.numpy().tobytes())
    return content.hexdigest()


def _check_digest(path: Path) -> None:
    expected, found = path.stem.rpartition("-")[2], sha256(path)  # such as resnet18-f37072fd.pth
    if not found.startswith(expected):
        raise ValueError(f"has SHA-256 {found[:8]}…, not {expected}…; it is not the original file")
