"""The exception whose message is for the user, and what its messages are made of."""

from collections.abc import Sequence


class UserError(Exception):
    """A mistake or failure that the user can correct; any other exception is headswap's defect.

    The message, which the command line prints, says what happened, where, and what to type next.
    """


def bulleted(lines: Sequence[str], limit: int = 20) -> str:
    """Join lines for a message, indented; of those beyond `limit`, give the number."""
    more = [f"… and {len(lines) - limit} more"] * (len(lines) > limit)
    return "\n".join(f"  {line}" for line in [*lines[:limit], *more])


def pluralize(number: int, noun: str) -> str:
    """Return a number with its noun, such as ``1,200 runs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def os_error_text(error: OSError) -> str:
    """Format an OSError as ``file: reason``."""
    if error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def printable(name: object) -> str:
    """Return a file's name as it can be printed, whatever bytes it is made of."""
    text = str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
