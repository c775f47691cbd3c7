"""What DVC says of the stages, and what it is told."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from headswap.errors import UserError


def changed_stages(*targets: str) -> set[str] | None:
    """Return the names of changed stages, of all or of some; None where DVC is not used."""
    return set(json.loads(_run("status", "--json", *targets))) if Path(".dvc").is_dir() else None


def record_outputs(stages: Iterable[str]) -> None:
    """Record what was written as the outputs of stages, if DVC is used, as if it had run them."""
    if (names := [*stages]) and Path(".dvc").is_dir():
        _run("commit", "--force", *names)


def _run(*arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"`dvc {arguments[0]}` failed:\n{done.stderr.strip()}")
    return done.stdout
