"""A cell's runs: what each depends on, which are finished, and the training of the others."""

from dataclasses import dataclass
from pathlib import Path

import torch

from . import embedding, networks, weights
from .files import digest, sha256, write_json
from .images import Photographs
from .params import Params, Recipe
from .provenance import code_digest, images_digest, versions
from .seeds import generator
from .training import moving, pick, train
from .workers import Job, side_by_side

RUNS = Path("runs")


@dataclass(frozen=True)
class Cell:
    """A backbone and a mode, with the parameters that it is trained by.

    Attributes
    ----------
    model : str
    mode : {"finetune", "frozen", "probe"}
    params : Params
    """

    model: str
    mode: str
    params: Params

    @property
    def name(self) -> str:
        """As files and tables call it."""
        return f"{self.model}-{self.mode}"

    @property
    def recipe(self) -> Recipe:
        """What it is trained by."""
        return self.params.probe if self.mode == "probe" else self.params.train

    def inputs(self):
        """Return the digests of the files it is trained from."""
        if self.mode == "probe":
            return {"embeddings": sha256(embedding.FOLDER / f"{self.model}.safetensors")}
        return {
            "images": images_digest(),
            "weights": sha256(weights.FOLDER / f"{self.model}.safetensors"),
        }

    def identity(self):
        """Return all that a run's result depends on but its seed, JSON-like."""
        parameters = {"precision": self.params.precision, "device": pick(self.params.device)}
        if self.mode != "probe":
            parameters["image"] = self.params.image.model_dump()
        return {
            "cell": self.name,
            "recipe": self.recipe.model_dump(),
            **parameters,
            "inputs": {**self.inputs(), "code": code_digest()},
            "versions": versions(),
        }

    def feed(self):
        """Open what it is trained on: `Photographs` or `Embeddings`."""
        if self.mode == "probe":
            return embedding.Embeddings(embedding.FOLDER / f"{self.model}.safetensors")
        return Photographs(self.params.image)

    def network(self, feed, seed):
        """Build the network of a run, its head new; in `probe` the head is all of it."""
        random = generator(seed, "head")
        if self.mode == "probe":
            return networks.new_head(feed.features, len(feed.classes), random)
        network, head = weights.pretrained(self.model, self.params)
        features = network.get_submodule(head).in_features
        networks.replace(network, head, networks.new_head(features, len(feed.classes), random))
        if self.mode == "frozen":
            networks.freeze(network, head)
        return network


def replicate(cell, tell):
    """Train the runs of a cell that are not finished yet, side by side.

    Parameters
    ----------
    cell : Cell
        Its seeds are those of its parameters.
    tell : callable
        Called with a run's name and a dict after each of its epochs.

    Returns
    -------
    list of pathlib.Path
        The folder of each seed's run, in the order of the seeds, sorted: ``run.json`` (all but
        clocks), ``timing.json``, ``probabilities.safetensors`` (of the validation images at the
        best and the last epoch), and ``best.safetensors`` and ``last.safetensors`` (the state
        that training moved; of `finetune` the best only).

    Raises
    ------
    Problem
        If a run fails; the others' finished epochs are kept.
    """
    folder = RUNS / cell.name / digest(cell.identity())
    folders = {seed: folder / f"seed-{seed}" for seed in sorted(cell.params.seeds)}
    side_by_side(
        [
            Job(f"{cell.name} seed {seed}", _run, (cell, seed, path))
            for seed, path in folders.items()
            if not (path / "run.json").exists()
        ],
        tell,
    )
    return list(folders.values())


def _run(cell, seed, folder, *, report):
    """Train one run to its end and keep its result; ``run.json`` comes last: then it is whole."""
    torch.set_num_threads(1)
    feed = cell.feed()
    network = cell.network(feed, seed)
    history = train(
        network,
        feed,
        cell.recipe,
        seed,
        precision=cell.params.precision,
        device=pick(cell.params.device),
        checkpoint=folder / "checkpoint.pt",
        report=report,
    )
    if history.best:
        weights.save(folder / "best.safetensors", history.best.pop("state"))
        if cell.mode != "finetune" and history.diverged is None:
            weights.save(folder / "last.safetensors", moving(network))
        epochs = {"best": history.best, "last": history.last}
        weights.save(
            folder / "probabilities.safetensors",
            {which: epoch.pop("probabilities") for which, epoch in epochs.items()},
        )
    write_json(folder / "timing.json", {"epochs": history.seconds})
    write_json(
        folder / "run.json",
        {
            **cell.identity(),
            "seed": seed,
            "diverged": history.diverged,
            "best": history.best or None,
            "last": history.last or None,
            "curves": history.curves,
        },
    )
    (folder / "checkpoint.pt").unlink(missing_ok=True)
