"""A cell: its runs in parallel, its outputs, and what happens when something fails."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import copy_of, edit, enter, project

from headswap import io as files
from headswap import params
from headswap.data.fetch import fetch_archive
from headswap.data.verify import verify_images
from headswap.errors import UserError
from headswap.io import read_json, read_tensors
from headswap.paths import WEIGHTS
from headswap.runs.cells import train_cell, write_outputs
from headswap.train import run
from headswap.train.features import write_features
from headswap.train.loop import evaluate, make_autocast
from headswap.train.weights import write_weights

OUTPUTS = ("models", "metrics/cells", "plots/curves", "plots/predictions")


def prepare():
    """Write images, weights and features of the models into the working folder."""
    chosen = params.load()
    fetch_archive(chosen.dataset)
    verify_images(chosen.dataset)
    for model in chosen.models:
        write_weights(model, chosen, WEIGHTS / f"{model}.safetensors")
        write_features(model, chosen, lambda *_: None)


def train(mode="frozen", model="tiny"):
    """Train a cell; return the name of each run that reported progress, with its note."""
    messages = []

    def on_progress(name, done, figures=None, note=""):
        messages.append((name, note))

    train_cell(params.Cell(model, mode), params.load(), on_progress)
    return messages


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for output in OUTPUTS
        for path in sorted(Path(folder, output).rglob("*.*"))
    }


def prepared(folder, **changes):
    """Make a project in which all is ready for training."""
    project(folder)
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        edit(**changes)
        prepare()
    return folder


@pytest.fixture(scope="module")
def prepared_tiny(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("tiny") / "project")


@pytest.fixture
def ready(prepared_tiny, tmp_path, monkeypatch):
    return copy_of(prepared_tiny, tmp_path, monkeypatch)


def test_a_cell_writes_its_five_outputs(ready):
    train("finetune")
    metrics = read_json("metrics/cells/tiny-finetune.json")
    expected = {
        "parameters",
        "trainable_parameters",
        "gmacs",
    }
    expected |= {"images_digest", "weights_digest", "code_digest", "preprocessing"}
    assert set(metrics) == expected | {"depth", "seeds", "diverged"}
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
    phases = [timing[f"{phase}_seconds_per_epoch_mean"] for phase in ("train", "val", "checkpoint")]
    assert all(seconds > 0 for seconds in phases)
    assert sum(phases) == pytest.approx(timing["seconds_per_epoch_mean"], abs=1e-3)
    assert len(timing["seconds_per_run"]) == 2
    mean = sum(timing["seconds_per_run"]) / 2
    assert timing["seconds_per_run_mean"] == pytest.approx(mean, abs=1e-3)


@pytest.mark.parametrize("mode", ["frozen", "probe"])
def test_saved_weights_reproduce_the_predictions_of_a_run(ready, mode):
    train(mode)
    cell, chosen = params.Cell("tiny", mode), params.load()
    data = run.open_dataset(cell, chosen)
    predictions = pd.read_csv(f"plots/predictions/{cell.name}.csv")
    for seed in chosen.seeds:
        for which in ("best", "last"):
            network = run.build_network(cell, chosen, data, seed)
            kept, _ = read_tensors(f"models/{cell.name}/run-{seed}-{which}.safetensors", "pt")
            network.load_state_dict(kept, strict=False)
            autocast = make_autocast("float32", "cpu")
            _, _, probabilities = evaluate(network, data.val_batches(), autocast, "cpu")
            rows = predictions.query("seed == @seed and which == @which")
            expected = rows[["p_ants", "p_bees"]].to_numpy()
            np.testing.assert_allclose(probabilities.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_of_finetune_the_best_network_is_saved(ready):
    train("finetune")
    assert [path.name for path in Path("models/tiny-finetune").glob("*.safetensors")] == [
        "best.safetensors"
    ]
    kept, _ = read_tensors("models/tiny-finetune/best.safetensors", "pt")
    cell, chosen = params.Cell("tiny", "finetune"), params.load()
    run.build_network(cell, chosen, run.open_dataset(cell, chosen), 0).load_state_dict(kept)


def test_a_further_seed_trains_one_run(ready):
    train()
    edit(seeds=[0, 1, 2])
    assert {name for name, _ in train()} == {"tiny-frozen seed 2"}
    assert not list(Path("runs").rglob("*.pt"))
    assert len(list(Path("models/tiny-frozen").glob("run-*.json"))) == 3


def test_other_parameters_train_new_runs_and_one_line_says_which_differ(ready, capsys):
    train()
    capsys.readouterr()
    edit(train={"lr": 0.02, "momentum": 0.5})
    train()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert "tiny-frozen" in lines[0] and "train.lr was 0.01, is 0.02" in lines[0]
    train()
    assert capsys.readouterr().out == ""


def test_results_do_not_depend_on_workers_folder_order_or_other_models(
    ready, tmp_path, monkeypatch
):
    monkeypatch.setenv("HEADSWAP_WORKERS", "4")
    edit(seeds=[0, 1, 2, 3])
    for mode in ("finetune", "probe"):
        train(mode)
    here = contents(".")

    monkeypatch.chdir(project(tmp_path / "elsewhere"))
    monkeypatch.setenv("HEADSWAP_WORKERS", "1")
    factories = {"neighbour": "my_networks:tiny", "tiny": "my_networks:tiny"}
    edit(seeds=[3, 1, 0, 2], models=["neighbour", "tiny"], factories=factories)
    prepare()
    train("probe", "neighbour")
    for mode in ("probe", "finetune"):
        train(mode)
    there = {name: content for name, content in contents(".").items() if "tiny-" in name}
    assert here.keys() == there.keys()
    assert [name for name in here if here[name] != there[name]] == []

    monkeypatch.setenv("HEADSWAP_WORKERS", "2")
    shutil.rmtree("runs")
    train("probe")
    assert all(contents(".")[name] == here[name] for name in here if "tiny-probe" in name)


def test_a_diverged_run_is_counted_and_no_nan_is_written(ready):
    edit(train={"lr": 1e30})
    messages = train("finetune")
    assert any("diverged" in note for _, note in messages)
    metrics = read_json("metrics/cells/tiny-finetune.json")
    assert (metrics["seeds"], metrics["diverged"]) == (2, 2)
    for path in Path().rglob("*-finetune*.*"):
        assert path.suffix == ".safetensors" or "NaN" not in path.read_text()


def headswap(*arguments):
    command = [sys.executable, "-m", "headswap", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path.cwd()
    )


def wait_for(process, text):
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f"{text!r} never came: {process.stderr.read()}")


def descendants(pid):
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children] + [
        pid for child in children for pid in descendants(child)
    ]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def prepared_slow(tmp_path_factory):
    return prepared(
        tmp_path_factory.mktemp("slow") / "project",
        models=["slow"],
        factories={"slow": "my_networks:slow"},
        train={"epochs": 6, "batch_size": 2},
        embed={"views": 1},
    )


@pytest.fixture
def slow(prepared_slow, tmp_path, monkeypatch):
    return copy_of(prepared_slow, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_stage_leaves_no_process_and_continues_to_the_same_bytes(
    slow, prepared_slow, tmp_path, monkeypatch
):
    monkeypatch.setenv("HEADSWAP_WORKERS", "2")
    stage = headswap("train", "slow", "finetune")
    wait_for(stage, "epoch 2/6")
    workers = descendants(stage.pid)
    assert workers
    stage.kill()
    stage.wait()
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in workers)
    assert not Path("models/slow-finetune").exists()

    resumed = headswap("train", "slow", "finetune")
    output, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0
    assert "epoch 1/6" not in output
    interrupted = contents(".")

    copy_of(prepared_slow, tmp_path / "undisturbed", monkeypatch)
    train("finetune", "slow")
    assert contents(".") == interrupted


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_stage_ends_with_the_process_that_started_it():
    stage = "import os, time; from headswap.cli import stop_with_parent; stop_with_parent(); "
    stage += "print(os.getpid(), flush=True); time.sleep(60)"
    dvc = "import os, subprocess, sys; environment = {**os.environ, 'DVC_STAGE': 'a stage'}; "
    dvc += f"subprocess.run([sys.executable, '-c', {stage!r}], env=environment)"
    parent = subprocess.Popen([sys.executable, "-c", dvc], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    time.sleep(1)
    assert alive(child)
    parent.kill()
    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(child)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_run_goes_on_twice_and_is_then_named(slow, monkeypatch):
    monkeypatch.setenv("HEADSWAP_WORKERS", "1")
    edit(train={"epochs": 200}, seeds=[0])
    stage = headswap("train", "slow", "finetune")
    for kill in range(3):
        wait_for(stage, f"epoch {2 * kill + 2}/200")
        os.kill(max(descendants(stage.pid)), signal.SIGKILL)
        if kill < 2:
            wait_for(stage, "was killed by SIGKILL; it goes on from its checkpoint")
    _, complaint = stage.communicate(timeout=60)
    assert stage.returncode == 1
    assert "slow-finetune seed 0 was killed by SIGKILL" in complaint
    assert "HEADSWAP_WORKERS=1" in complaint and "Traceback" not in complaint


@pytest.mark.slow
def test_of_two_stages_that_train_the_same_cell_one_waits_for_the_other(slow):
    edit(train={"epochs": 30})
    first = headswap("train", "slow", "finetune")
    wait_for(first, "epoch 1/30")
    second = headswap("train", "slow", "finetune")
    waiting, complaint = second.communicate(timeout=120)
    assert second.returncode == 0, complaint
    assert "waits for another process" in waiting and "epoch" not in waiting
    first.communicate(timeout=120)
    assert first.returncode == 0
    assert len(list(Path("runs/slow-finetune").glob("*/seed-*/run.json"))) == 2


def test_an_invalid_number_of_workers_is_refused(ready, monkeypatch):
    monkeypatch.setenv("HEADSWAP_WORKERS", "many")
    with pytest.raises(UserError, match="HEADSWAP_WORKERS is 'many'"):
        train()


def test_damaged_weights_are_named(ready):
    path = Path("data/weights/tiny.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="tiny.safetensors cannot be read"):
        train()


def test_pruning_removes_the_runs_that_the_parameters_no_longer_describe(ready):
    def prune(*options):
        done = subprocess.run(
            [sys.executable, "-m", "headswap", "prune", *options], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    for mode in ("finetune", "probe"):
        train(mode)
    old = set(Path("runs").glob("*/*/"))
    assert "0.0 of" in prune()
    edit(train={"lr": 0.5})
    train("finetune")
    (stale,) = {folder for folder in old if folder.parent.name == "tiny-finetune"}
    assert str(stale) in prune("--dry-run") and stale.exists()
    assert str(stale) in prune() and not stale.exists()
    assert len(list(Path("runs").glob("*/*/seed-*/run.json"))) == 4
    assert not train("finetune") and not train("probe")


def test_edited_code_of_a_factory_changes_its_weights(ready):
    chosen = params.load()
    before = files.sha256("data/weights/tiny.safetensors")
    write_weights("tiny", chosen, WEIGHTS / "tiny.safetensors")
    assert files.sha256("data/weights/tiny.safetensors") == before
    module = Path("my_networks.py")
    module.write_text(module.read_text().replace("nn.ReLU()", "nn.GELU()"))
    script = (
        "from headswap import params, paths; from headswap.train.weights import write_weights; "
        "write_weights('tiny', params.load(), paths.WEIGHTS / 'tiny.safetensors')"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert files.sha256("data/weights/tiny.safetensors") != before


def test_a_cell_with_one_run_diverged_keeps_the_time_and_weights_of_the_others(ready):
    cell, chosen = params.Cell("tiny", "finetune"), params.load()
    train("finetune")
    first, second = sorted(Path("runs/tiny-finetune").glob("*/seed-*/"))
    run, timing = read_json(first / "run.json"), read_json(first / "timing.json")
    run["best"]["accuracy"], run["diverged"] = 1.0, 2
    timing["epochs"][0]["train"], timing["revision"] = 1000.0, "another"
    files.write_json(first / "run.json", run)
    files.write_json(first / "timing.json", timing)
    write_outputs(cell, chosen, [first, second])
    written = read_json("metrics/timing/tiny-finetune.json")
    assert len(written["seconds_per_run"]) == 1 and written["seconds_per_run_mean"] < 900
    assert "another" in written["revision"] and len(written["revision"]) == 2
    kept = Path("models/tiny-finetune/best.safetensors").read_bytes()
    assert kept == (second / "best.safetensors").read_bytes()


@pytest.mark.parametrize("what", ["checkpoint", "weights"])
def test_a_full_disk_is_reported_and_no_partial_file_remains(ready, what):
    script = f"""
import resource, signal, torch
from pathlib import Path
from headswap.train.checkpoint import History, save_checkpoint
from headswap.train.speed.low_rank import LowRankUpdates
from headswap.train.weights import save_tensors
from headswap.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
network = torch.nn.Linear(300, 300)
try:
    if {what!r} == "weights":
        save_tensors(Path("full/file"), network.state_dict())
    else:
        optimizer = torch.optim.SGD(network.parameters())
        low_rank = LowRankUpdates(network, optimizer, 4)
        save_checkpoint(Path("full/file"), network, optimizer, low_rank, History())
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "full/file could not be written" in done.stdout, done.stderr
    assert not list(Path("full").iterdir())


def test_random_numbers_of_a_run_leave_the_global_generator_unchanged(ready):
    cell, chosen = params.Cell("tiny", "finetune"), params.load()
    data = run.open_dataset(cell, chosen)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    run.build_network(cell, chosen, data, 0)
    list(data.train_batches(0, 0, 4))
    assert torch.rand(1).equal(expected)
