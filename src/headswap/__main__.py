"""The command line, run with the code of the project that it is called in."""

import os
import sys
from pathlib import Path


def use_code_of_project() -> None:
    """Start again with the package in the working folder, if another copy of it is running.

    DVC takes the digest of that one; an experiment, a worktree and a second clone have their own.
    """
    source, running = Path("src").resolve(), Path(__file__).resolve().parents[1]
    if source == running or not Path("dvc.yaml").exists() or not (source / "headswap").is_dir():
        return
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if path[0] == str(source):
        text = f"headswap: the code in {running} is running, but DVC looks at that in {source}."
        sys.exit(f"{text}\nInstall this folder's: pip install --editable .")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(source), *filter(None, path)])
    command = ["-m", "headswap"] if Path(sys.argv[0]).name == "__main__.py" else sys.argv[:1]
    os.execv(sys.executable, [sys.executable, *command, *sys.argv[1:]])


def main() -> None:
    """Run the command line."""
    use_code_of_project()
    from headswap import cli

    cli.main()


if __name__ == "__main__":
    main()
