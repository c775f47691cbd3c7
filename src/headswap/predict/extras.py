"""Packages that only some commands need."""

from importlib.util import find_spec

from headswap.errors import UserError


def require(*packages: str) -> None:
    """Check that packages of an optional extra are installed; a UserError says what to type."""
    if missing := [package for package in packages if not find_spec(package)]:
        raise UserError(
            f"This needs {' and '.join(missing)}, which headswap otherwise does without.\n"
            f"In the project's folder: pip install --constraint constraints.txt {' '.join(missing)}"
        )
