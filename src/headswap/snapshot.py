"""Detect that parameters or code changed while a stage was running."""

import operator
from functools import reduce
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from headswap.errors import UserError, bulleted
from headswap.io import sha256
from headswap.params import Params, load


class Snapshot:
    """The parameters and the code that a stage started with.

    DVC records parameters and code as they are when a stage has ended. If they were edited in the
    meantime, it would record a result for parameters or code that did not make it.

    Parameters
    ----------
    params
        The parameters that the stage was started with.
    stage
        Its name in ``dvc.yaml``, where the parameters are listed that DVC records for it.
    wing
        The folder of the package that its code is in, besides ``images`` and the base.
    """

    def __init__(self, params: Params, stage: str, wing: str):
        pipeline = YAML(typ="safe").load(Path("dvc.yaml").read_text(encoding="utf-8"))
        self._names: list[str] = pipeline["stages"][stage]["params"]
        self._values = self._values_of(params)
        package = Path(__file__).parent
        paths = [path for part in ("*", "images/*", f"{wing}/**/*") for path in package.glob(part)]
        self._digests = {
            path: sha256(path)
            for path in sorted(paths)
            if path.is_file() and path.suffix != ".pyc" and not path.name.startswith(".")
        }

    def _values_of(self, params: Params) -> dict[str, Any]:
        values = params.model_dump()
        return {name: reduce(operator.getitem, name.split("."), values) for name in self._names}

    def check(self) -> None:
        """Compare parameters and code with the snapshot. To be called before writing outputs.

        Raises
        ------
        UserError
            If something changed. Finished runs stay, so that the next try takes little time.
        """
        values = self._values_of(load())
        changed = [
            f"{name} in params.yaml" for name in values if values[name] != self._values[name]
        ]
        changed += [
            str(path)
            for path, digest in self._digests.items()
            if not path.exists() or sha256(path) != digest
        ]
        if changed:
            raise UserError(
                f"Edited while this stage was running:\n{bulleted(changed)}\n"
                "Nothing is written, because the result would be recorded for the edited version. "
                "Finished runs are kept.\nRun again: dvc repro"
            )
