"""The weights a network starts from: fetched, checked, and kept as safetensors."""

import json
import re
import sys
import tempfile
from collections import OrderedDict
from modulefinder import ModuleFinder
from pathlib import Path

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import save_file

from headswap.download import download_file
from headswap.errors import UserError
from headswap.io import atomic_write, digest, read_tensors, sha256
from headswap.paths import WEIGHTS
from headswap.train import backbones as networks
from headswap.train.seeds import seeded

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""The auxiliary classifiers of googlenet and inception_v3, which `networks.build` leaves out."""


def write_weights(name, params, destination):
    """Write the state of a network, pretrained or random, and where it came from.

    Parameters
    ----------
    name : str
        A model of ``params.yaml``.
    params : Params
        Of which ``weights``, ``factories`` and ``image.size`` matter.
    destination : path-like
        The safetensors file to write. Its metadata tell the ``source``, the ``head``, and of a
        factory its name and the digest of its module and of what that imports beside it.

    Raises
    ------
    UserError
        If the network has no head, or its weights cannot be had.
    """
    with seeded(0, "weights"):
        network = networks.build(name, params.factories)
        if params.weights == "random" and name in params.factories:
            networks.randomise(network, name)
    head = networks.find_head(network, name, params.image.size)
    if params.weights == "random":
        source = "random"
    elif name in params.factories:
        source = params.factories[name]
    else:
        source = _load_imagenet(network, name)
    made_by = {}
    if name in params.factories:
        module = params.factories[name].partition(":")[0]
        made_by = {"factory": params.factories[name], "code": _code(module)}
    save(destination, network.state_dict(), source=source, head=head, **made_by)


def _code(name):
    """Return the digest of an imported module, and of all that it imports from the same folder."""
    module = sys.modules[name]
    file = Path(module.__file__)
    root = file.parents[name.count(".") + hasattr(module, "__path__")]
    files = {file}
    if "site-packages" not in root.parts:
        finder = ModuleFinder([str(root)])
        finder.import_hook(name)
        files |= {Path(found.__file__) for found in finder.modules.values() if found.__file__}
    return digest(sorted((path.relative_to(root).as_posix(), sha256(path)) for path in files))


def pretrained(name, params, folder=WEIGHTS):
    """Build a network with the weights that `provide` kept.

    Parameters
    ----------
    name : str
        A model of ``params.yaml``.
    params : Params
        Of which ``factories`` matters.
    folder : path-like
        Where the weights are.

    Returns
    -------
    network : torch.nn.Module
    head : str
        The name of its last linear layer.

    Raises
    ------
    UserError
        If the weights are missing, damaged, or another network's.
    """
    path = Path(folder) / f"{name}.safetensors"
    tensors, metadata = read_tensors(path, "pt")
    network = networks.build(name, params.factories)
    tensors = _state(tensors, network.state_dict())
    try:
        network.load_state_dict(tensors)
        return network, metadata["head"]
    except (RuntimeError, KeyError) as error:
        raise UserError(
            f"{path} does not fit {name}: {error}\n"
            f"If its factory was edited: dvc repro --force --single-item weights@{name}"
        ) from error


def _load_imagenet(network, name):
    """Load torchvision's IMAGENET1K_V1 weights into `network`; return their address."""
    try:
        url = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
    except KeyError:
        raise UserError(
            f"torchvision has no IMAGENET1K_V1 weights of {name}.\nTake it out of models."
        ) from None
    filename = url.rsplit("/", 1)[-1]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / filename
        cache = Path(torch.hub.get_dir(), "checkpoints", filename)
        download_file(url, file, check_digest, [cache], pinned=False)  # its name has 8 digits of 64
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            ours = {_renamed(key): state[key] for key in state if not key.startswith(AUXILIARY)}
            network.load_state_dict(_state(ours, state))
        except Exception as error:  # any content can stand behind a right digest's first digits
            raise UserError(f"{filename} does not hold {name}'s weights: {error}") from error
    return url


def _state(tensors, original):
    """Return tensors as a state dict of the layers' versions in `original`, which some ask for."""
    state = OrderedDict(tensors)
    state._metadata = getattr(original, "_metadata", None)
    return state


def _renamed(key):
    """Translate the names of old DenseNet files, as torchvision's own loader does."""
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", key)


def check_digest(path):
    """Raise ValueError unless a file's SHA-256 begins with the digits that its name ends in.

    Parameters
    ----------
    path : pathlib.Path
        Named as torchvision names its weights, ``resnet18-f37072fd.pth``.
    """
    expected = path.stem.rpartition("-")[2]
    found = sha256(path)
    if not found.startswith(expected):
        raise ValueError(f"has SHA-256 {found[:8]}…, not {expected}…; not the original file")


def save(path, tensors, **metadata):
    """Write tensors and their metadata (JSON-like) as safetensors.

    The bytes depend on nothing else: the format's own metadata come in random order where there
    is more than one, so all are in one.
    """
    contiguous = {
        name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()
    }
    with atomic_write(path, SafetensorError) as temporary:
        save_file(
            contiguous, temporary, metadata={"headswap": json.dumps(metadata, sort_keys=True)}
        )
