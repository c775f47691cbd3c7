"""The exception whose message is for the user."""

from collections.abc import Sequence


class UserError(Exception):
    """A mistake or failure that the user can correct.

    The message says what happened, where, and what to type next. The command line prints it
    and exits with code 1; any other exception is a defect of headswap itself.
    """


def bulleted(lines: Sequence[str], limit: int = 20) -> str:
    """Join lines for a message, indented by two spaces; of those beyond `limit`, give the number.

    >>> print(bulleted(["a", "b", "c"], limit=2))
      a
      b
      … and 1 more
    """
    shown = [f"  {line}" for line in lines[:limit]]
    if len(lines) > limit:
        shown.append(f"  … and {len(lines) - limit} more")
    return "\n".join(shown)


def os_error_text(error: OSError) -> str:
    """Format an OSError as ``file: reason``."""
    if error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def printable(name: object) -> str:
    r"""Return a file's name as it can be printed, whatever bytes it is made of.

    >>> print(printable("b\udcfcg.jpg"), printable("a\rb.jpg"))
    b\xfcg.jpg a\rb.jpg
    """
    text = str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
