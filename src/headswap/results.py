"""The tables of a project, for notebooks."""

from os import PathLike
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from headswap.compare.results import read_table, stack_tables
from headswap.errors import UserError
from headswap.paths import CURVES, METRICS, PREDICTIONS


def read_results(folder: str | PathLike[str] = ".") -> SimpleNamespace:
    """Read what a project found, as tables of pandas.

    ``comparison`` has a row per cell, ``predictions`` a row per run, epoch (best, last) and
    validation image, ``curves`` a row per run, epoch and split; their first column is ``cell``.
    A UserError says if `folder` has no comparison.
    """
    path = Path(folder, METRICS, "comparison.csv")
    if not path.exists():
        raise UserError(f"There is no {path}.\nIn the project's folder, run: dvc repro")
    comparison = read_table(path, ["cell"])

    def stack(kind: Path) -> pd.DataFrame:
        files = {cell: Path(folder, kind, f"{cell}.csv") for cell in comparison.cell}
        return stack_tables({cell: read_table(file, ["seed"]) for cell, file in files.items()})

    return SimpleNamespace(
        comparison=comparison, predictions=stack(PREDICTIONS), curves=stack(CURVES)
    )
