"""Swap the head of a pretrained network, train it three ways, and compare them."""

from os import PathLike
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headswap.predict.model import Classifier


def load_model(folder: str | PathLike[str], seed: int | None = None) -> "Classifier":
    """Load a network that was trained (see `headswap.predict.model.load_model`)."""
    from headswap.predict import model  # only here: torch takes seconds to import

    return model.load_model(folder, seed)


def read_results(folder: str | PathLike[str] = ".") -> SimpleNamespace:
    """Read what a project found, as tables of pandas.

    ``comparison`` has a row per cell, ``predictions`` a row per run, epoch (best, last) and
    validation image, ``curves`` a row per run, epoch and split; their first column is ``cell``.
    A UserError says if `folder` has no comparison.
    """
    from headswap import io, paths
    from headswap.compare import results  # only here: pandas takes a second to import

    path = io.existing(Path(folder, paths.METRICS, "comparison.csv"))
    found = SimpleNamespace(comparison=results.read_table(path, ["cell"]))
    for name, kind in (("predictions", paths.PREDICTIONS), ("curves", paths.CURVES)):
        files = {cell: Path(folder, kind, f"{cell}.csv") for cell in found.comparison.cell}
        tables = {cell: results.read_table(file, ["seed"]) for cell, file in files.items()}
        setattr(found, name, results.stack_tables(tables))
    return found
