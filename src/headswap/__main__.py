"""Run the command line as `python -m headswap`."""

from headswap.cli import main

main()
