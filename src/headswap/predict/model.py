"""A trained network, loaded from its model folder, with its classes and its preprocessing."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from headswap.errors import UserError
from headswap.images.preprocessing import Preprocessing
from headswap.io import StrPath, explain_damage, read_tensors, sha256
from headswap.paths import WEIGHTS
from headswap.predict.folders import read_record
from headswap.runs.workers import worker_count
from headswap.train import dataset, factories, loop, networks
from headswap.train.weights import load_tensors

PROGRAM = "model.pt2"  # of an exported folder: its network, code and weights


class Classifier(torch.nn.Module):
    """A trained network in eval mode, with all that it needs to classify photographs.

    Its ``network`` returns logits in float32; ``classes`` are in the order of the outputs;
    ``record`` is the content of ``model.json``.
    """

    def __init__(self, network: torch.nn.Module, record: dict[str, Any]):
        super().__init__()
        self.network, self.record = network, record
        self.classes: list[str] = record["classes"]
        self._preprocessing = Preprocessing(**record["preprocessing"])
        self._fit = dataset.evaluation_transform(self._preprocessing)
        self.requires_grad_(False).eval()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def crop(self, path: StrPath) -> torch.Tensor:
        """Return what the network sees of a photograph: uint8, shape (3, size, size)."""
        return self._fit(dataset.decode(Path(path)))

    def normalize(self, crops: list[torch.Tensor]) -> torch.Tensor:
        """Return a batch of crops as the network takes it: float, shape (batch, 3, size, size)."""
        return dataset.normalize(crops, self._preprocessing)

    def preprocess(self, *paths: StrPath) -> torch.Tensor:
        """Return a batch of photographs: float, shape (batch, 3, size, size)."""
        return self.normalize([self.crop(path) for path in paths])

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Return logits as when the cell was validated: float32, shape (batch, classes)."""
        with loop.make_autocast(self.record["precision"], batch.device.type):
            return self.network(batch).float()


class _Heads(torch.nn.Module):
    def __init__(self, heads: list[torch.nn.Module]):
        super().__init__()
        self.heads = torch.nn.ModuleList(heads)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.stack([head(features) for head in self.heads])


def share_backbone(runs: list[Classifier]) -> list[Classifier]:
    """Return the runs of a cell as one network with all heads if they differ in these alone.

    Speed: then `logits_of_runs` takes one pass. Batch norm, where it was trained, makes others.
    """
    first, name = runs[0], runs[0].record["backbone"]["head"]
    states = [run.network.state_dict() for run in runs]
    rest = [key for key in states[0] if not key.startswith(f"{name}.")]
    if len(runs) == 1 or any(not torch.equal(s[k], states[0][k]) for k in rest for s in states):
        return runs
    heads = _Heads([run.network.get_submodule(name) for run in runs])
    first.network.set_submodule(name, heads)
    return [first]


def logits_of_runs(runs: Sequence[Classifier], batch: torch.Tensor) -> torch.Tensor:
    """Return logits, shape (runs, batch, classes)."""
    shape = (-1, len(batch), len(runs[0].classes))
    return torch.cat([run(batch).reshape(shape) for run in runs])


def threads_of_torch() -> ThreadPoolExecutor:
    """Return a thread for each core, in which torch takes no others: they wait for each other."""
    return ThreadPoolExecutor(max(1, worker_count()), "", torch.set_num_threads, (1,))


def load_model(folder: StrPath, seed: int | None = None) -> Classifier:
    """Load a network that was trained, or that was exported.

    `folder` is a cell's model folder, such as ``models/resnet18-frozen``, or one that `headswap
    export` wrote; `seed` is the run's, None the one that the record keeps. The backbone's file, of
    `frozen` and `probe`, is looked for beside it and in ``data/weights`` of its project. **A
    factory, and an exported network, is code that is run.**
    """
    folder = Path(folder)
    record = read_record(folder)
    if record["kept"] is None:
        text = f"{folder} has no weights: all runs of {record['cell']} diverged."
        raise UserError(f"{text}\nSet a lower learning rate in params.yaml, then: dvc repro")
    seed = record["kept"]["seed"] if seed is None else seed
    files = {run["seed"]: run["weights"] for run in record["runs"] if run["weights"]}
    if seed not in files:
        text = f"{folder} does not have the weights of seed {seed}, but of: {[*files]}. Where the "
        text += "whole network is trained, only those of the first seed are kept."
        raise UserError(f"{text}\nLeave out the seed, or --seeds all.")
    file = folder / files[seed]
    if file.name != PROGRAM:
        return Classifier(_load_weights(file, record), record)
    remedy = "Export the network again, or install the torch that wrote it: "
    remedy += f"pip install torch=={record['torch']}"
    with explain_damage(file, remedy):
        return Classifier(torch.export.unflatten(torch.export.load(file)), record)


def _load_weights(file: Path, record: dict[str, Any]) -> torch.nn.Module:
    trained, _ = read_tensors(file, "pt")
    backbone, mode = record["backbone"], record["mode"]
    name, head = backbone["name"], backbone["head"]
    if factory := backbone["factory"]:
        factories.check_code(name, factory, backbone.get("code"))
    network = networks.build(name, {name: factory} if factory else {})
    pretrained = None if mode == "finetune" else _read_backbone(file.parent, backbone)
    remedy = f"{name} may be other code than when it was trained. If it is: dvc repro"
    with explain_damage(file, remedy):
        if mode == "probe":
            trained = {f"{head}.{key}": tensor for key, tensor in trained.items()}
        features = trained[f"{head}.weight"].shape[1]
        network = networks.with_head(network, head, features)
        if pretrained:
            load_tensors(network, pretrained)
        layer = networks.new_head(features, len(record["classes"]), torch.Generator())
        network.set_submodule(head, layer)
        load_tensors(network, network.state_dict() | trained if pretrained else trained)
    with torch.no_grad():  # divide the logits by the temperature
        for parameter in layer.parameters():
            parameter.div_(record.get("temperature", 1.0))
    return network


def _read_backbone(folder: Path, backbone: dict[str, Any]) -> dict[str, torch.Tensor]:
    name, expected = backbone["file"], backbone["sha256"]
    weights = folder.resolve().parent.parent / WEIGHTS
    for path in (folder / name, weights / name):
        if path.exists() and sha256(path) == expected:
            return read_tensors(path, "pt")[0]
    stage = f"weights@{backbone['name']}"
    needs = f"{name} with SHA-256 {expected[:12]}…, which is neither there nor in {weights}"
    text = f"{folder} holds what was trained, and needs the backbone's {needs}.\nCopy it into "
    text += f"{folder}, or bring it into the project with: dvc repro {stage}\n"
    raise UserError(f"{text}or, if your DVC remote has it, with: dvc pull {stage}")
