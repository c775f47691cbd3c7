"""A cell: its runs, its outputs, what trains it again and what does not."""

import os
import re
import resource
import signal
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import copy_of, edit, headswap, project, results, train_all

from headswap import io as files
from headswap import params
from headswap.errors import UserError
from headswap.images.index import read_index
from headswap.images.preprocessing import preprocessing
from headswap.io import read_json
from headswap.runs.cells import write_outputs
from headswap.runs.store import is_locked
from headswap.train import training
from headswap.train.dataset import ImageDataset
from headswap.train.loop import History, save_checkpoint
from headswap.train.weights import save_tensors


def train(mode="frozen", model="tiny"):
    """Train a cell; return what is printed."""
    return headswap(*(("probe", model) if mode == "probe" else ("train", model, mode)))[0]


def trained_runs(printed):
    return set(re.findall(r"^(\S+ seed \d): epoch", printed, re.MULTILINE))


def test_a_cell_writes_its_five_outputs(prepared):
    train("finetune")
    metrics = read_json("metrics/cells/tiny-finetune.json")
    digests = {"images_digest", "weights_digest", "code_digest"}
    counts = {"parameters", "trainable_parameters", "gmacs", "depth", "seeds", "diverged"}
    assert set(metrics) >= digests | counts | {"preprocessing"}
    assert metrics["depth"] == 2
    assert metrics["parameters"] == metrics["trainable_parameters"]
    curves = pd.read_csv("plots/curves/tiny-finetune.csv")
    assert list(curves) == ["seed", "epoch", "split", "loss", "accuracy"]
    assert len(curves) == 2 * 3 * 2
    predictions = pd.read_csv("plots/predictions/tiny-finetune.csv")
    assert list(predictions)[-2:] == ["p_ants", "p_bees"]
    best = predictions[predictions["which"] == "best"]
    assert set(best["seed"]) == {0, 1}
    for seed, of_run in best.groupby("seed"):
        accuracy = (of_run["label"] == of_run["predicted"]).mean()
        assert read_json(f"models/tiny-finetune/run-{seed}.json")["best"]["accuracy"] == accuracy
    timing = read_json("metrics/timing/tiny-finetune.json")
    parts = [timing[name] for name in timing if name.endswith("_seconds_per_epoch_mean")]
    assert len(parts) >= 3 and min(parts) > 0
    assert sum(parts) == pytest.approx(timing["seconds_per_epoch_mean"], abs=1e-3)
    assert len(timing["seconds_per_run"]) == 2
    mean = sum(timing["seconds_per_run"]) / 2
    assert timing["seconds_per_run_mean"] == pytest.approx(mean, abs=1e-3)


def test_a_probe_is_one_run_whose_penalty_is_recorded(prepared):
    printed = train("probe")
    record = read_json("models/tiny-probe/model.json")
    (run,) = record["runs"]
    assert run["seed"] == 0 and run["best"] == run["last"]
    tried = {step["C"]: step["log_loss"] for step in record["recipe"]["tried"]}
    C = record["recipe"]["C"]
    assert tried[C] == min(tried.values()) and len(tried) >= 3
    assert bool(record["recipe"]["warning"]) == ("is at an end" in printed) == (C in (1e-4, 1e3))
    assert Path("plots/curves/tiny-probe.csv").read_text() == "seed,epoch,split,loss,accuracy\n"
    predictions = pd.read_csv("plots/predictions/tiny-probe.csv").drop(columns="which")
    best, last = predictions[: len(predictions) // 2], predictions[len(predictions) // 2 :]
    assert (best.values == last.values).all()
    assert {"numpy", "scipy"} < set(read_json("metrics/timing/tiny-probe.json")["versions"])
    edit(seeds=[7, 8], train={"lr": 0.5})
    assert trained_runs(train("probe")) == set()


def test_a_further_seed_trains_one_run(prepared):
    assert trained_runs(train()) == {"tiny-frozen seed 0", "tiny-frozen seed 1"}
    edit(seeds=[0, 1, 2])
    assert trained_runs(train()) == {"tiny-frozen seed 2"}
    assert not list(Path("runs").rglob("*.pt"))
    assert len(list(Path("models/tiny-frozen").glob("run-*.json"))) == 3


def test_other_parameters_train_new_runs_and_one_line_says_which_differ(prepared):
    train()
    edit(train={"lr": 0.02, "momentum": 0.5})
    printed = train()
    (line,) = [line for line in printed.splitlines() if "not used" in line]
    assert "tiny-frozen" in line and "train.lr was 0.01, is 0.02" in line
    assert len(trained_runs(printed)) == 2
    assert "not used" not in train()
    edit(train={"lr": 0.01, "momentum": 0.9})
    assert trained_runs(train()) == set()


def test_results_do_not_depend_on_workers_folder_order_or_other_models(
    prepared, prepared_once, tmp_path, monkeypatch
):
    edit(seeds=[0, 1, 2])
    for mode in ("finetune", "probe"):
        train(mode)
    here = results()

    copy_of(prepared_once, tmp_path / "elsewhere", monkeypatch)
    monkeypatch.setenv("HEADSWAP_WORKERS", "2")
    edit(seeds=[2, 0, 1], models=["resnet18", "tiny"])
    for mode in ("probe", "finetune"):
        train(mode)
    there = results()
    assert here.keys() == there.keys()
    assert [name for name in here if here[name] != there[name]] == []


def test_without_workers_a_run_is_trained_in_this_process_and_is_locked(prepared, monkeypatch):
    seen, train_once = [], training.train

    def observed(*arguments, checkpoint, **options):
        lock = checkpoint.parent.with_suffix(".lock")
        seen.append((os.getpid(), is_locked(lock)))
        return train_once(*arguments, checkpoint=checkpoint, **options)

    monkeypatch.setattr(training, "train", observed)
    train()
    assert seen == [(os.getpid(), True)] * 2
    assert not any(is_locked(lock) for lock in Path("runs").rglob("*.lock"))


@pytest.mark.slow
def test_results_do_not_depend_on_what_was_made_before(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSWAP_WORKERS", "4")
    edit(seeds=[0, 1, 2, 3])
    for mode in ("finetune", "probe"):
        train(mode)
    here = results()
    monkeypatch.chdir(project(tmp_path / "elsewhere"))
    monkeypatch.setenv("HEADSWAP_WORKERS", "1")
    factories = {"neighbour": "my_networks:tiny", "tiny": "my_networks:tiny"}
    edit(seeds=[3, 1, 0, 2], models=["neighbour", "tiny"], factories=factories)
    train_all()
    there = {name: content for name, content in results().items() if name in here}
    assert here == there


def test_a_diverged_run_is_counted_and_no_nan_is_written(prepared):
    edit(train={"lr": 1e30})
    assert "diverged" in train("finetune")
    metrics = read_json("metrics/cells/tiny-finetune.json")
    assert (metrics["seeds"], metrics["diverged"]) == (2, 2)
    for path in Path().rglob("*-finetune*.*"):
        assert path.suffix == ".safetensors" or "NaN" not in path.read_text()


def test_pruning_removes_the_runs_that_the_parameters_no_longer_describe(prepared):
    for mode in ("finetune", "probe"):
        train(mode)
    old = set(Path("runs").glob("*/*/"))
    assert "0.0 of" in headswap("prune")[0]
    edit(train={"lr": 0.5})
    train("finetune")
    (stale,) = {folder for folder in old if folder.parent.name == "tiny-finetune"}
    assert str(stale) in headswap("prune", "--dry-run")[0] and stale.exists()
    assert str(stale) in headswap("prune")[0] and not stale.exists()
    assert len(list(Path("runs").glob("*/*/seed-*/run.json"))) == 3
    assert trained_runs(train("finetune") + train("probe")) == set()


def test_a_cell_with_one_run_diverged_keeps_the_time_and_weights_of_the_others(prepared):
    train("finetune")
    first, second = sorted(Path("runs/tiny-finetune").glob("*/seed-*/"))
    run, timing = read_json(first / "run.json"), read_json(first / "timing.json")
    run["best"]["accuracy"], run["diverged"] = 1.0, 2
    timing["epochs"][0] = dict.fromkeys(timing["epochs"][0], 1000.0)
    timing["revision"] = "another"
    files.write_json(first / "run.json", run)
    files.write_json(first / "timing.json", timing)
    write_outputs(params.Cell("tiny", "finetune"), params.load())
    written = read_json("metrics/timing/tiny-finetune.json")
    assert len(written["seconds_per_run"]) == 1 and written["seconds_per_run_mean"] < 900
    assert "another" in written["revision"] and len(written["revision"]) == 2
    kept = Path("models/tiny-finetune/run-1.safetensors").read_bytes()
    assert kept == (second / "trained.safetensors").read_bytes()


@pytest.fixture
def full_disk(monkeypatch):
    """Let no file grow beyond 64 kB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("what", ["checkpoint", "weights"])
def test_a_full_disk_is_reported_and_no_partial_file_remains(tmp_path, full_disk, what):
    network, path = torch.nn.Linear(300, 300), tmp_path / "full/file"
    optimizer = torch.optim.SGD(network.parameters())
    with pytest.raises(UserError, match="full/file could not be written"):
        if what == "weights":
            save_tensors(path, network.state_dict())
        else:
            save_checkpoint(path, network, {"optimizer": optimizer}, History())
    assert not list(path.parent.iterdir())


def test_random_numbers_of_a_run_leave_the_global_generator_unchanged(prepared):
    cell, chosen = params.Cell("tiny", "finetune"), params.load()
    data = ImageDataset(preprocessing("tiny", chosen.image))
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    training.build_network(cell, chosen, data, 0)
    list(data.train_batches(0, 0, 4))
    assert torch.rand(1).equal(expected)


def test_a_head_can_start_from_the_probe_of_the_runs_own_training_images(prepared):
    train("probe")
    edit(train={"head": "probe", "epochs": 1, "lr": 1e-12})
    train("frozen")
    (expected,) = ({**torch_tensors(path)} for path in Path("runs").glob("tiny-probe/*/*/trained*"))
    for path in Path("runs").glob("tiny-frozen/*/*/trained.safetensors"):
        found = torch_tensors(path)
        for name in ("weight", "bias"):
            torch.testing.assert_close(found[f"6.{name}"], expected[name], rtol=1e-3, atol=1e-3)
    cell, chosen = params.Cell("tiny", "frozen"), params.load()
    data = ImageDataset(preprocessing("tiny", chosen.image), read_index().hold_out(1))
    network = training.build_network(cell, chosen, data, 0)
    assert not network[6].weight.allclose(expected["weight"], rtol=1e-2)


def torch_tensors(path):
    return files.read_tensors(path, "pt")[0]
