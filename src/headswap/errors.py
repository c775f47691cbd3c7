"""The one exception that is meant for a person."""


class Problem(Exception):
    """A mistake or mishap that a person can mend.

    The message says what happened, where, and what to type next. The command line prints it
    and exits with code 1; any other exception is a defect of headswap itself.
    """


def some_of(lines, most=20):
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
    >>> print(some_of(["a", "b", "c"], most=2))
      a
      b
      … and 1 more
    """
    shown = [f"  {line}" for line in lines[:most]]
    if len(lines) > most:
        shown.append(f"  … and {len(lines) - most} more")
    return "\n".join(shown)
