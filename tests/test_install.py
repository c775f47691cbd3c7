"""The Makefile installs by uv, and by pip where uv is not to be had or fails."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

PROGRAM = """#!/bin/sh
echo "{name} $*" >> log
{code}
"""
PYTHON = """#!/bin/sh
[ "$1" = -m ] || exec {python} "$@"
mkdir -p .venv/bin
cp fakes/* .venv/bin
"""


def write_program(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.parametrize(("uv", "installs"), [("true", "uv"), ("false", "pip"), (None, "pip")])
def test_what_uv_cannot_install_pip_installs(tmp_path, uv, installs):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    write_program(tmp_path / "python", PYTHON.format(python=sys.executable))
    there_is_none = "false" if uv is None else "true"
    code = f'case "$*" in *constraints.txt\\ uv) {there_is_none};; esac'
    write_program(tmp_path / "fakes/pip", PROGRAM.format(name="pip", code=code))
    if uv:
        write_program(tmp_path / "fakes/uv", PROGRAM.format(name="uv", code=uv))
    environment = {**os.environ, "PATH": "/usr/bin:/bin", "PYTHON": str(tmp_path / "python")}
    for target, what in ((".venv/installed", "."), (".venv/tests-installed", ".[test]")):
        done = subprocess.run(
            ["make", target], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        last = (tmp_path / "log").read_text().splitlines()[-1]
        assert last.startswith(f"{installs} ")
        assert last.endswith(f"--constraint constraints.txt --editable {what}")
