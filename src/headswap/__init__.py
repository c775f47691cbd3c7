"""Swap the head of a pretrained network, train it three ways, and compare them."""

from os import PathLike
from types import SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headswap.predict.model import Classifier


def load_model(folder: str | PathLike[str], seed: int | None = None) -> "Classifier":
    """Load a network that was trained (see `headswap.predict.model.load_model`)."""
    from headswap.predict import model  # only here: torch takes seconds to import

    return model.load_model(folder, seed)


def read_results(folder: str | PathLike[str] = ".") -> SimpleNamespace:
    """Read the tables of a project (see `headswap.results.read_results`)."""
    from headswap import results  # only here: pandas takes a second to import

    return results.read_results(folder)
