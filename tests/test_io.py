"""Files are replaced as a whole, by any number of writers, and killed ones leave nothing."""

import csv
import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import save_file

from headswap.errors import UserError
from headswap.io import atomic_write, digest, read_csv, write_csv, write_json, write_text

WRITER = """
import sys
from headswap.io import atomic_write
with atomic_write(sys.argv[1]) as temporary:
    temporary.write_text("from the other process")
    print("writing", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path):
    """Start a process that is writing ``file`` until its standard input is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, tmp_path / "file"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_two_processes_may_write_a_file_at_the_same_time(writer, tmp_path):
    write_text(tmp_path / "file", "from this process")
    assert (tmp_path / "file").read_text() == "from this process"
    writer.communicate("")
    assert writer.returncode == 0
    assert (tmp_path / "file").read_text() == "from the other process"
    assert names(tmp_path) == ["file"]


def test_the_next_writer_removes_what_a_killed_one_left(writer, tmp_path):
    writer.kill()
    writer.wait()
    assert len(names(tmp_path)) == 1 and not (tmp_path / "file").exists()
    write_text(tmp_path / "file", "from this process")
    assert names(tmp_path) == ["file"]


def test_many_threads_may_write_a_file_at_the_same_time(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda i: write_json(tmp_path / "file", [i] * 10_000), range(100)))
    assert len(set(json.loads((tmp_path / "file").read_text()))) == 1
    assert names(tmp_path) == ["file"]


def test_a_folder_is_replaced_as_a_whole_and_only_where_that_is_meant(tmp_path):
    for name in ("old", "new"):
        with atomic_write(tmp_path / "folder", replace_folder=True) as folder:
            folder.mkdir()
            (folder / name).touch()
    refused = pytest.raises(UserError, match="Directory not empty")
    with refused, atomic_write(tmp_path / "folder") as folder:
        folder.mkdir()
    with pytest.raises(UserError, match="Is a directory"):
        write_text(tmp_path / "folder", "a file")
    assert names(tmp_path) == ["folder"] and names(tmp_path / "folder") == ["new"]


def test_a_failure_keeps_the_file_and_leaves_nothing_beside_it(tmp_path):
    write_text(tmp_path / "file", "before")
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "file").read_text() == "before"
    assert names(tmp_path) == ["file"]


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/below could not be written: File exists"):
        write_text(tmp_path / "file/below", "")


def test_json_without_a_representation_is_refused(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "file", float("nan"))
    assert names(tmp_path) == []


def test_no_text_of_a_table_starts_a_formula_and_all_are_read_as_they_were(tmp_path):
    texts = ["=cmd()", "+1", "-1", "@a", "\ta", "\ra", "'=a", "''+a", "'tis", "a=b", "a\rb", "ä\n,"]
    write_csv(tmp_path / "t.csv", ["=x", "y"], [(text, -0.5) for text in texts])
    assert list(read_csv(tmp_path / "t.csv")) == [{"=x": text, "y": "-0.5"} for text in texts]
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        assert not [row for row in csv.reader(file) if row[0][0] in "=+-@\t\r"]


def test_a_digest_depends_on_values_not_on_the_order_of_keys():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})


@pytest.mark.parametrize("mask", [0o022, 0o007])
def test_files_of_any_library_get_the_permissions_that_the_user_gives_to_new_files(tmp_path, mask):
    before = os.umask(mask)
    try:
        with atomic_write(tmp_path / "a.safetensors") as temporary:
            save_file({"a": np.ones(1)}, temporary)
        write_json(tmp_path / "a.json", 1)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("a.safetensors", "a.json"), 0o666 & ~mask)
