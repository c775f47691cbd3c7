"""What DVC says of the stages, and what it is told."""

import json
import subprocess
import sys
from pathlib import Path

from headswap.errors import UserError


def changed_stages(*targets: str) -> set[str] | None:
    """Return the names of changed stages, of all or of some; None where DVC is not used."""
    return set(json.loads(run("status", "--json", *targets))) if Path(".dvc").is_dir() else None


def run(*arguments: str) -> str:
    """Run a command of DVC, and return its output."""
    command = sys.executable, "-m", "dvc", *arguments
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"`dvc {arguments[0]}` failed:\n{done.stderr.strip()}")
    return done.stdout
