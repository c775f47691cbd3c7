"""Whether the packages that made the results are those that are installed."""

import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from headswap.io import read_json
from headswap.params import Cell
from headswap.paths import TIMING


def merge_versions(*timings: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return all versions of each package in some of the files ``metrics/timing/*.json``."""
    merged: dict[str, dict[str, None]] = {}  # a dict keeps the order, a set does not
    for timing in timings:
        for record in (timing["versions"], timing.get("weights_versions", {})):
            for package, its_version in record.items():
                merged.setdefault(package, {})[its_version] = None
    return {package: list(versions) for package, versions in merged.items()}


def outdated_cells(cells: Iterable[Cell]) -> dict[str, list[str]]:
    """Return the cells that other versions made, by what differs: ``pillow 11.3.0, not 12.0.0``."""
    differences: dict[str, list[str]] = {}
    for cell in cells:
        names = [cell.name, *[f"{cell.model}-embed"] * (cell.mode == "probe")]
        try:
            versions = merge_versions(*(read_json(TIMING / f"{name}.json") for name in names))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            continue  # not there yet, or damaged, which `compare` reports
        if others := [
            f"{package} {' and '.join(found)}, not {installed}"
            for package, found in versions.items()
            if found != [installed := _installed_version(package)]
        ]:
            differences.setdefault("; ".join(others), []).append(cell.name)
    return differences


def _installed_version(package: str) -> str:
    try:
        return platform.python_version() if package == "python" else version(package)
    except PackageNotFoundError:
        return "installed"
