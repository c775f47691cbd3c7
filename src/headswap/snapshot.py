"""A result is refused if what it depends on was edited while it was computed."""

import contextlib
import operator
import shutil
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from headswap.errors import UserError, bulleted
from headswap.io import sha256
from headswap.params import load
from headswap.paths import NETWORKS

Tree = dict[str, Any]
"""Values by name, some of them trees; those under ``inputs`` are digests."""


@contextlib.contextmanager
def unchanged(
    before: Tree, read: Callable[[], Tree], written: Path | None = None
) -> Iterator[None]:
    """Raise a UserError if `read` returns other values than `before`; then remove `written`."""
    _compare(before, read())
    yield
    try:
        _compare(before, read())
    except UserError:
        if written:
            shutil.rmtree(written)
        raise


def _compare(before: Tree, after: Tree) -> None:
    if changed := differences(before, after):
        raise UserError(
            f"Changed since this began:\n{bulleted(changed)}\n"
            "The result is not recorded, because it would be for what there is now. "
            "Finished runs are kept.\nRun again: dvc repro"
        )


def dependencies(stage: str) -> Tree:
    """Return the parameters and digests of the code that DVC records for a stage when it ends."""
    pipeline = YAML(typ="safe").load(Path("dvc.yaml").read_text(encoding="utf-8"))
    entry, values = pipeline["stages"][stage], load().model_dump()
    (code,) = (variables["code"] for variables in pipeline["vars"])
    deps = [dep for dep in entry["deps"] if dep.startswith(("${code}", NETWORKS.name))]
    paths = [Path(dep.replace("${code}", code)) for dep in deps]
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*.*"))]
    return {
        **{name: reduce(operator.getitem, name.split("."), values) for name in entry["params"]},
        "inputs": {
            file.as_posix(): sha256(file)
            for file in sorted(files)
            if file.is_file() and file.suffix != ".pyc" and not file.name.startswith(".")
        },
    }


def differences(before: Tree, after: Tree) -> list[str]:
    """Return what differs, such as ``train.lr was 0.01, is 0.02``; of digests, ``other images``."""
    old, new = _leaves(before), _leaves(after)
    return [
        f"other {name.removeprefix('inputs.')}"
        if name.startswith("inputs.")
        else f"{name} was {old.get(name)}, is {new.get(name)}"
        for name in sorted({**old, **new})
        if old.get(name) != new.get(name)
    ]


def _leaves(tree: Tree, prefix: str = "") -> Tree:
    """Return the leaves of a tree by their dotted names."""
    leaves: Tree = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            leaves |= _leaves(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = value
    return leaves
