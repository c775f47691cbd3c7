"""Train all cells of a project, in place of the pipeline."""

from headswap import params
from headswap.data.fetch import fetch_archive
from headswap.data.manifest import write_counts
from headswap.data.verify import verify_images
from headswap.paths import WEIGHTS
from headswap.runs.cells import train_cell
from headswap.train.features import write_features
from headswap.train.weights import write_weights

CELLS = [
    f"{model}-{mode}" for model in ("tiny", "resnet18") for mode in ("finetune", "frozen", "probe")
]


def train_all():
    """Write images, weights, features and all cells of params.yaml into the working folder."""
    chosen = params.load()
    fetch_archive(chosen.dataset)
    write_counts(verify_images(chosen.dataset))
    for model in chosen.models:
        write_weights(model, chosen, WEIGHTS / f"{model}.safetensors")
        write_features(model, chosen, lambda name, message: None)
    for cell in chosen.cells():
        train_cell(cell, chosen, lambda name, message: None)
