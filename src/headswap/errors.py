"""The one exception that is meant for a person."""


class UserError(Exception):
    """A mistake or mishap that a person can mend.

    The message says what happened, where, and what to type next. The command line prints it
    and exits with code 1; any other exception is a defect of headswap itself.
    """


def bulleted(lines, limit=20):
    """Join lines for a message, the first of them where there are too many to read.

    Parameters
    ----------
    lines : list of str
        All there is to report.
    most : int
        How many of them are shown.

    Returns
    -------
    str
        The lines, indented by two spaces.

    Examples
    --------
    >>> print(bulleted(["a", "b", "c"], limit=2))
      a
      b
      … and 1 more
    """
    shown = [f"  {line}" for line in lines[:limit]]
    if len(lines) > limit:
        shown.append(f"  … and {len(lines) - limit} more")
    return "\n".join(shown)
