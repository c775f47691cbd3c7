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

Tree = dict[str, Any]  # by name, some of them trees; those under ``inputs`` are digests


@contextlib.contextmanager
def unchanged(
    before: Tree, read: Callable[[], Tree], written: Path | None = None
) -> Iterator[None]:
    """Raise a UserError if `read` returns others than `before`, first or last; remove `written`."""
    for is_over in (False, True):
        if changed := differences(before, read()):
            if written and is_over:
                shutil.rmtree(written)
            text = f"Changed since this began:\n{bulleted(changed)}\nThe result is not recorded."
            raise UserError(f"{text} Finished runs are kept.\nRun again: dvc repro")
        if not is_over:
            yield


def dependencies(stage: str) -> Tree:
    """Return the parameters and digests of the code that DVC records for a stage when it ends."""
    pipeline = YAML(typ="safe").load(Path("dvc.yaml").read_text(encoding="utf-8"))
    entry, values = pipeline["stages"][stage], load().model_dump()
    (code,) = (variables["code"] for variables in pipeline["vars"])
    deps = [dep for dep in entry["deps"] if dep.startswith(("${code}", "networks"))]
    paths = [Path(dep.replace("${code}", code)) for dep in deps]
    files = sorted(file for path in paths for file in (path, *path.rglob("*.*")) if file.is_file())
    kept = [file for file in files if file.suffix != ".pyc" and not file.name.startswith(".")]
    params = {name: reduce(operator.getitem, name.split("."), values) for name in entry["params"]}
    return {**params, "inputs": {file.as_posix(): sha256(file) for file in kept}}


def differences(before: Tree, after: Tree, prefix: str = "") -> list[str]:
    """Return what differs, such as ``train.lr was 0.01, is 0.02``; of digests, ``other images``."""
    found = []
    for name in sorted({**before, **after}):
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            what = f"{prefix}{name} was {old}, is {new}"
            found.append(f"other {name}" if prefix == "inputs." else what)
    return found
