"""Run the command line as `python -m headswap`."""

from .cli import main

main()
