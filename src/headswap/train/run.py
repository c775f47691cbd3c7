"""One run: what it depends on, and its training to the end, in a process of its own."""

import torch

from headswap.io import digest, sha256, write_json
from headswap.paths import EMBEDDINGS, RUNS, WEIGHTS
from headswap.train import backbones as networks
from headswap.train import features as embedding
from headswap.train import pretrained as weights
from headswap.train.dataset import Photographs
from headswap.train.loop import moving, pick, train
from headswap.train.provenance import code_digest, images_digest, machine, versions
from headswap.train.seeds import generator

CODE = code_digest()
"""Of the code that this process runs: what is edited from here on is for another one."""


def unused(params):
    """Return the folders under ``runs/`` that no cell of the parameters would take a run from."""
    used = {RUNS / cell.name / digest(cache_key(cell, params)) for cell in params.cells()}
    return sorted(folder for folder in RUNS.glob("*/*/") if folder not in used)


def cache_key(cell, params):
    """Return all that the results of a cell's runs depend on but the seed, JSON-like."""
    if cell.mode == "probe":
        parameters = {}
        inputs = {"embeddings": sha256(EMBEDDINGS / f"{cell.model}.safetensors")}
    else:
        parameters = {"image": params.image.model_dump()}
        inputs = {
            "images": images_digest(),
            "weights": sha256(WEIGHTS / f"{cell.model}.safetensors"),
        }
    return {
        "cell": cell.name,
        "recipe": params.recipe(cell).model_dump(),
        "precision": params.precision,
        "device": pick(params.device),
        **parameters,
        "inputs": {**inputs, "code": CODE},
        "versions": versions(),
    }


def open_dataset(cell, params):
    """Open what a cell is trained on: `Photographs` or `Embeddings`."""
    if cell.mode == "probe":
        return embedding.Embeddings(EMBEDDINGS / f"{cell.model}.safetensors")
    return Photographs(params.image)


def network(cell, params, feed, seed):
    """Build the network of a run, its head new; in `probe` the head is all of it."""
    random = generator(seed, "head")
    if cell.mode == "probe":
        return networks.new_head(feed.features, len(feed.classes), random)
    network, head = weights.pretrained(cell.model, params)
    features = network.get_submodule(head).in_features
    networks.replace(network, head, networks.new_head(features, len(feed.classes), random))
    if cell.mode == "frozen":
        networks.freeze(network, head)
    return network


def costs(cell, params, feed, network):
    """Return the number of trained parameters, and what `networks.describe` says of the whole."""
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    if cell.mode != "probe":
        return {
            "trainable_parameters": trained,
            **networks.describe(network, params.image.size),
        }
    products = network.in_features * network.out_features
    return {
        "trainable_parameters": trained,
        "parameters": feed.backbone["parameters"] + trained,
        "gmacs": round(feed.backbone["gmacs"] + products / 1e9, 6),
        "activations": feed.backbone["activations"] + network.out_features,
        "depth": feed.backbone["depth"] + 1,
    }


def train_run(cell, params, seed, *, on_progress):
    """Train one run to its end, from its last finished epoch, and keep its result.

    Parameters
    ----------
    cell : params.Cell
    seed : int
    on_progress : callable
        Called after each epoch (see `training.train`).

    Returns
    -------
    pathlib.Path
        The folder of the run, named after all that its result depends on: ``timing.json``,
        ``probabilities.safetensors`` (of the validation images at the best and the last epoch),
        ``best.safetensors`` and ``last.safetensors`` (the state that training moved; of
        `finetune` the best only), and ``run.json`` (all but clocks), which comes last: with it,
        the run is whole, and is not trained again.
    """
    made_of = cache_key(cell, params)
    folder = RUNS / cell.name / digest(made_of) / f"seed-{seed}"
    if (folder / "run.json").exists():
        _forget_epochs(folder)
        return folder
    torch.set_num_threads(1)
    data = open_dataset(cell, params)
    trained = network(cell, params, data, seed)
    counted = costs(cell, params, data, trained)
    history = train(
        trained,
        data,
        params.recipe(cell),
        seed,
        precision=params.precision,
        device=pick(params.device),
        checkpoint=folder / "checkpoint.pt",
        on_progress=on_progress,
    )
    if history.best:
        weights.save(folder / "best.safetensors", history.best.pop("state"))
        if cell.mode != "finetune" and history.diverged is None:
            weights.save(folder / "last.safetensors", moving(trained))
        epochs = {"best": history.best, "last": history.last}
        weights.save(
            folder / "probabilities.safetensors",
            {which: epoch.pop("probabilities") for which, epoch in epochs.items()},
        )
    clocks = {"epochs": history.seconds, **machine(made_of["device"]), **versions()}
    write_json(folder / "timing.json", clocks)
    write_json(
        folder / "run.json",
        {
            **made_of,
            "seed": seed,
            "costs": counted,
            "diverged": history.diverged,
            "best": history.best or None,
            "last": history.last or None,
            "curves": history.curves,
        },
    )
    _forget_epochs(folder)
    return folder


def _forget_epochs(folder):
    """Remove what `train` kept for the case that it was interrupted."""
    for path in folder.glob("*.pt"):
        path.unlink()
