"""Where runs are computed: in processes of their own or, without workers, in the command's."""

import os
import shutil
from pathlib import Path

import pytest
from conftest import headswap

from headswap.errors import UserError
from headswap.runs.workers import worker_count
from headswap.train import run

OUTPUTS = ("models", "metrics/cells", "plots/curves", "plots/predictions")


def contents():
    paths = [path for output in OUTPUTS for path in Path(output).rglob("*.*") if path.is_file()]
    return {path: path.read_bytes() for path in paths}


def test_without_workers_the_command_trains_in_its_own_process_to_the_same_bytes(
    prepared, monkeypatch
):
    headswap("train", "tiny", "finetune")
    expected = contents()
    for folder in ("runs", "models", "plots/curves", "plots/predictions"):
        shutil.rmtree(folder)
    processes, train = [], run.train

    def observed(*arguments, **options):
        processes.append(os.getpid())
        return train(*arguments, **options)

    monkeypatch.setattr(run, "train", observed)
    monkeypatch.setenv("HEADSWAP_WORKERS", "0")
    assert "tiny-finetune seed 1: epoch 3/3" in headswap("train", "tiny", "finetune")[0]
    assert processes == [os.getpid()] * 2
    assert contents() == expected


def test_a_number_of_workers_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("HEADSWAP_WORKERS", "many")
    with pytest.raises(UserError, match="HEADSWAP_WORKERS is 'many'"):
        worker_count()
