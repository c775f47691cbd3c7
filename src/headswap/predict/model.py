"""A trained network, loaded from its model folder, with its classes and its preprocessing."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headswap.errors import UserError
from headswap.images.preprocessing import Preprocessing
from headswap.io import explain_damage, read_tensors, sha256
from headswap.paths import WEIGHTS
from headswap.predict.folders import read_record, restore
from headswap.train.dataset import decode, evaluation_transform, normalize
from headswap.train.factories import check_code
from headswap.train.loop import make_autocast
from headswap.train.networks import build, new_head, replace_layer, with_head
from headswap.train.weights import load_tensors

PROGRAM = "model.pt2"
"""The file of an exported folder that holds its network, code and weights."""


class Classifier(nn.Module):
    """A trained network in eval mode, with all that it needs to classify photographs.

    Its ``network`` returns logits in float32; ``classes`` are in the order of the outputs;
    ``record`` is the content of ``model.json``.
    """

    def __init__(self, network: nn.Module, record: Mapping[str, Any]):
        super().__init__()
        self.network, self.record = network, record
        self.classes: list[str] = record["classes"]
        self._preprocessing = Preprocessing(**record["preprocessing"])
        self._fit = evaluation_transform(self._preprocessing)
        self.requires_grad_(False).eval()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def crop(self, path: str | PathLike[str]) -> torch.Tensor:
        """Return what the network sees of a photograph: uint8, shape (3, size, size)."""
        return self._fit(decode(Path(path)))

    def normalize(self, crops: list[torch.Tensor]) -> torch.Tensor:
        """Return a batch of crops as the network takes it: float, shape (batch, 3, size, size)."""
        return normalize(crops, self._preprocessing)

    def preprocess(self, *paths: str | PathLike[str]) -> torch.Tensor:
        """Return a batch of photographs: float, shape (batch, 3, size, size)."""
        return self.normalize([self.crop(path) for path in paths])

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Return logits as when the cell was validated: float32, shape (batch, classes)."""
        with make_autocast(self.record["precision"], batch.device.type):
            return self.network(batch).float()


def load_model(folder: str | PathLike[str], seed: int | None = None) -> Classifier:
    """Load a network that was trained, or that was exported.

    Parameters
    ----------
    folder
        A cell's model folder, such as ``models/resnet18-frozen``, or one that `headswap export`
        wrote. For `frozen` and `probe` the former holds the trained tensors alone; the backbone's
        file is looked for in this folder, and in ``data/weights`` of the project that it is in.
        **A factory, and an exported network, is code that is run.**
    seed
        Of the run. None takes the one that the record keeps, the first.

    Raises
    ------
    UserError
        If a file is missing, damaged, or not the one that the record names.
    """
    folder = Path(folder)
    record = read_record(folder)
    file = _weights_file(folder, record, seed)
    load = _load_program if file.name == PROGRAM else _load_weights
    return Classifier(load(file, record), record)


def _load_program(file: Path, record: Mapping[str, Any]) -> nn.Module:
    remedy = (
        f"torch {record['torch']} wrote it; another may not read it. Install that one with: "
        f"pip install torch=={record['torch']}\nor export the network again."
    )
    with explain_damage(file, remedy):
        return torch.export.unflatten(torch.export.load(file))


def _load_weights(file: Path, record: Mapping[str, Any]) -> nn.Module:
    """Build the network, and load what was trained, from a cell's model folder."""
    folder = file.parent
    if not file.exists():
        raise UserError(f"{file} is missing.\n{restore(folder)}")
    trained, _ = read_tensors(file, "pt")
    backbone, mode = record["backbone"], record["mode"]
    name, head = backbone["name"], backbone["head"]
    if factory := backbone["factory"]:
        check_code(name, factory, backbone.get("code"))
    network = build(name, {name: factory} if factory else {})
    try:
        features = trained["weight" if mode == "probe" else f"{head}.weight"].shape[1]
        network = with_head(network, head, features)
        if mode != "finetune":
            load_tensors(network, read_tensors(_backbone_file(folder, record), "pt")[0])
        replace_layer(network, head, new_head(features, len(record["classes"]), torch.Generator()))
        if mode == "probe":
            trained = {f"{head}.{key}": tensor for key, tensor in trained.items()}
        load_tensors(network, trained if mode == "finetune" else network.state_dict() | trained)
    except (AttributeError, KeyError, RuntimeError) as error:
        raise UserError(
            f"{folder} does not fit {name}: {error}\n"
            "If the code of the network was edited since: dvc repro"
        ) from error
    return network


def _weights_file(folder: Path, record: Mapping[str, Any], seed: int | None) -> Path:
    """Return the file with a run's trained tensors."""
    if record["kept"] is None:
        raise UserError(
            f"{folder} has no weights: all runs of {record['cell']} diverged.\n"
            "Set a lower learning rate in params.yaml, then: dvc repro"
        )
    seed = record["kept"]["seed"] if seed is None else seed
    files = {run["seed"]: run["weights"] for run in record["runs"] if run["weights"]}
    if seed not in files:
        raise UserError(
            f"{folder} has no weights of seed {seed}.\n"
            f"It has those of: {', '.join(map(str, files))}."
        )
    return folder / files[seed]


def _backbone_file(folder: Path, record: Mapping[str, Any]) -> Path:
    """Return the file of the backbone's weights, which has the digest that the record names."""
    name, expected = record["backbone"]["file"], record["backbone"]["sha256"]
    stem = record["backbone"]["name"]
    places = [folder / name, folder.resolve().parent.parent / WEIGHTS / name]
    found = next((place for place in places if place.exists()), None)
    if found is None or sha256(found) != expected:
        what = f"{found} is another file" if found else f"there is no {places[1]}"
        raise UserError(
            f"{folder} holds what was trained, and needs the backbone's {name} "
            f"with SHA-256 {expected[:12]}…, but {what}.\n"
            f"Copy it into {folder}, or bring it into the project with: dvc repro weights@{stem}\n"
            f"or, if your DVC remote has it, with: dvc pull weights@{stem}"
        )
    return found
