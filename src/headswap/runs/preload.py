"""What the server process imports before workers are forked from it.

An error would end the server. The worker that imports the same again meets it, too, and reports it.
"""

import contextlib

with contextlib.suppress(Exception):
    import headswap.params
    import headswap.train.run  # noqa: F401
