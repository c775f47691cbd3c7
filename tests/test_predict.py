"""`headswap predict`: the validated classes again, for files, folders and patterns; messages."""

import copy
import csv
import hashlib
import os
import re
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
from conftest import edit, headswap
from PIL import Image
from ruamel.yaml import YAML
from scipy.special import softmax
from torch import nn

from headswap import params
from headswap.compare.outputs import write_comparison
from headswap.errors import UserError
from headswap.images.preprocessing import Preprocessing
from headswap.io import read_json, write_csv, write_json
from headswap.predict.folders import best_cell, describe
from headswap.predict.model import Classifier, logits_of_runs, share_backbone

VAL = "data/images/val"


def refused(*arguments):
    """Return the message of a command that fails."""
    output, message = headswap(*arguments, code=1)
    assert output == ""
    return message


def calibrated(cell, probabilities):
    """Return recorded probabilities as the cell's network gives them to users."""
    temperature = read_json(f"models/{cell}/model.json")["temperature"]
    return softmax(np.log(probabilities.to_numpy()) / temperature, axis=1)


@pytest.mark.parametrize("cell", ["tiny-finetune", "resnet18-probe"])
def test_the_validation_images_get_the_classes_that_were_recorded_for_the_run(
    trained, tmp_path, cell
):
    headswap("predict", cell, VAL, "--top", 2, "--csv", tmp_path / "found.csv")
    found = pd.read_csv(tmp_path / "found.csv")
    assert list(found) == ["path", "rank", "class", "probability"]
    kept = read_json(f"models/{cell}/model.json")["kept"]
    recorded = pd.read_csv(f"plots/predictions/{cell}.csv").query("which == 'last'")
    recorded = recorded[recorded["seed"] == kept["seed"]].set_index("image")
    assert len(found) == 2 * len(recorded)
    columns = recorded.filter(regex="^p_").columns
    recorded[columns] = calibrated(cell, recorded[columns])
    first = found[found["rank"] == 1].set_index("path")
    first.index = first.index.str.removeprefix(f"{VAL}/")
    assert (first["class"].reindex(recorded.index) == recorded["predicted"]).all()
    for row in found.itertuples():
        expected = recorded.loc[row.path.removeprefix(f"{VAL}/"), f"p_{row[3]}"]
        assert row.probability == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_all_seeds_average_the_probabilities_of_the_runs(trained, tmp_path):
    for name in ("tiny-frozen", "resnet18-probe"):
        headswap(
            "predict", name, VAL, "--seeds", "all", "--csv", tmp_path / "found.csv", "--top", 9
        )
        found = pd.read_csv(tmp_path / "found.csv").query("`class` == 'bees'")
        recorded = pd.read_csv(f"plots/predictions/{name}.csv").query("which == 'last'")
        recorded["p_bees"] = calibrated(name, recorded[["p_ants", "p_bees"]])[:, 1]
        means = recorded.groupby("image").p_bees.mean()
        images = found.path.str.removeprefix(f"{VAL}/")
        assert found.probability.to_numpy() == pytest.approx(means[images].to_numpy(), abs=1e-4)
    message = refused("predict", "tiny-finetune", VAL, "--seeds", "all")
    assert "does not have the weights of seed" in message and "or --seeds all" in message


def test_runs_that_differ_in_their_heads_alone_share_a_pass_of_the_backbone():
    record = {"classes": ["a", "b"], "preprocessing": vars(Preprocessing())}
    record |= {"precision": "float32", "backbone": {"head": "3"}}
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    runs = [Classifier(copy.deepcopy(body), record) for _ in range(3)]
    for run in runs:
        run.network[3].reset_parameters()
    batch, passes = torch.rand(5, 3, 8, 8), []
    expected = torch.stack([run(batch) for run in runs])
    shared = share_backbone(copy.deepcopy(runs))
    shared[0].network[0].register_forward_hook(lambda *_: passes.append(1))
    assert logits_of_runs(shared, batch).equal(expected)
    assert passes == [1]
    runs[2].network[1].running_mean += 1
    assert share_backbone(runs) == runs


def test_files_folders_and_patterns_are_taken_in_order_and_each_image_once(trained, tmp_path):
    images = [f"{VAL}/bees/003.png", *sorted(map(str, Path(VAL, "ants").iterdir()))]
    headswap(
        *("predict", "tiny-probe", images[0], f"{VAL}/ants", f"{VAL}/**/003.png"),
        *("--json", tmp_path / "found.json"),
    )
    found = read_json(tmp_path / "found.json")
    assert [row["path"] for row in found] == images
    assert set(found[0]) == {"path", "rank", "class", "probability"}
    folder = tmp_path / "photos/deeper/still"
    folder.mkdir(parents=True)
    (tmp_path / "photos/notes.txt").write_text("no image")
    (tmp_path / "photos/._a.jpg").write_text("macOS")
    for hidden in (".trash", "@eaDir"):
        (tmp_path / "photos/deeper" / hidden).mkdir()
        (tmp_path / "photos/deeper" / hidden / "c.jpg").write_text("no image")
    for path in (folder / "b.JPG", tmp_path / "photos/a[1].png"):
        Image.new("RGB", (90, 80)).save(path, "png")
    output, _ = headswap("predict", "tiny-probe", tmp_path / "photos")
    assert [line.split(": ")[0] for line in output.splitlines()] == [
        str(tmp_path / "photos/a[1].png"),
        str(folder / "b.JPG"),
    ]
    output, _ = headswap("predict", "tiny-probe", tmp_path / "photos/a[1].png")
    assert len(output.splitlines()) == 1


def test_a_line_gives_the_classes_and_their_probabilities(trained):
    output, _ = headswap("predict", "tiny-probe", f"{VAL}/bees/003.png", "--top", 2)
    path, first, second = re.fullmatch(r"(\S+): (\w+ [\d.]+)%, (\w+ [\d.]+)%\n", output).groups()
    assert path == f"{VAL}/bees/003.png"
    assert {first.split()[0], second.split()[0]} == {"ants", "bees"}
    shares = [float(text.split()[1]) for text in (first, second)]
    assert shares[0] >= shares[1] and sum(shares) == pytest.approx(100, abs=0.11)


def test_unreadable_files_are_named_and_the_others_are_classified(trained, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    output, message = headswap(
        *("predict", "tiny-probe", broken, f"{VAL}/ants/003.png", "missing.png"),
        *("--csv", tmp_path / "found.csv"),
        code=1,
    )
    assert len(output.splitlines()) == 1
    with open(tmp_path / "found.csv") as file:
        assert len(list(csv.DictReader(file))) == 1
    assert "2 of 3 files could not be read" in message
    assert f"  {broken} cannot be read as an image: not a known format" in message
    assert "  missing.png cannot be read: No such file" in message


def test_rows_are_written_as_they_are_known_and_the_same_command_goes_on_after_them(
    trained, tmp_path, monkeypatch
):
    csv, broken = tmp_path / "found.csv", tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    command = ("predict", "tiny-probe", broken, VAL, "--csv", csv)
    headswap(*command, code=1)
    whole = csv.read_bytes()

    def interrupt():
        with monkeypatch.context() as patch:
            crop = Classifier.crop
            late = max(Path(VAL, "bees").iterdir())

            def interrupted(network, path):
                if path == late:
                    raise KeyboardInterrupt
                return crop(network, path)

            patch.setattr(Classifier, "crop", interrupted)
            assert "Stopped." in headswap(*command, code=1)[1]
        assert whole.startswith(csv.read_bytes()) and len(pd.read_csv(csv)) == 31

    interrupt()
    output, message = headswap(*command, code=1)
    assert len(output.splitlines()) == 9 and "has the first 32 photographs" in message
    assert f"{broken}: has no row in {csv}" in message
    assert csv.read_bytes() == whole
    for other in (("resnet18-probe",), ("tiny-probe", "--top", 2)):
        interrupt()
        output, message = headswap(*command[:1], *other, *command[2:], code=1)
        assert len(output.splitlines()) == 40 and "has the first" not in message
        assert len(pd.read_csv(csv)) == 40 * (1 + (len(other) > 1))


def test_a_table_whose_last_photograph_has_no_row_is_complete(trained, tmp_path):
    csv, broken = tmp_path / "found.txt", tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    command = ("predict", "tiny-probe", f"{VAL}/ants/003.png", broken, "--csv", csv)
    assert headswap(*command, code=1) == headswap(*command, code=1)


def test_nobody_needs_to_read_the_output(trained, tmp_path):
    csv = tmp_path / "found.csv"
    command = [sys.executable, "-m", "headswap", "predict", "tiny-probe", VAL, "--csv", csv]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 0 and "ipe" not in done.stderr, done.stderr
    assert len(pd.read_csv(csv)) == 40


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("resnet18-frozn", VAL), "image or folder resnet18-frozn; did you mean resnet18-frozen?"),
        (
            ("new/",),
            "There is no cell, image or folder new/.\nName images or folders that are there",
        ),
        (("new/photos",), "There is no cell, image or folder new/photos."),
        (("tiny-probe",), "such as: headswap predict tiny-probe data/images/val"),
        (("tiny-probe", "empty"), "There is no image in empty.\nImages end in ."),
        (("tiny-probe", "empty/*.jpg"), "There is no image in empty/*.jpg"),
        (("--misclassified", "tiny-probe"), "There is no metrics/misclassified.csv yet.\nMake"),
        (("--misclassified", "tiny-probe", VAL), "--misclassified takes a cell and no images"),
        (("vgg11-frozen", VAL), "vgg11-frozen is not trained yet"),
        (("vgg11-frozen", VAL), "dvc repro train@vgg11-frozen\nor get it"),
        (("vgg11-probe", VAL), "dvc pull probe@vgg11"),
    ],
)
def test_a_mistake_gets_a_message_with_what_to_type(own_trained, arguments, expected):
    Path("empty").mkdir()
    edit(models=["tiny", "resnet18", "vgg11"])
    assert expected in refused("predict", *arguments)


def test_a_moved_folder_is_used_by_its_path_and_outside_of_the_project(
    trained, tmp_path, monkeypatch
):
    folder = shutil.copytree("models/resnet18-finetune", tmp_path / "mine")
    image = Path(VAL, "ants/003.png").absolute()
    expected, _ = headswap("predict", "resnet18-finetune", image)
    assert headswap("predict", folder, image)[0] == expected
    monkeypatch.chdir(tmp_path)
    assert headswap("predict", "mine", image)[0] == expected


def test_a_model_folder_of_other_versions_is_told_or_refused_in_words(trained, tmp_path):
    folder = shutil.copytree("models/resnet18-finetune", tmp_path / "mine")
    record = read_json(folder / "model.json")
    write_json(folder / "model.json", {**record, "versions": {"torch": "1.0"}})
    said = headswap("predict", folder, f"{VAL}/ants/003.png")[1]
    assert "It was trained with torch 1.0; with " in said
    for values in ({**record["preprocessing"], "shape": "round"}, ["size"], None):
        write_json(folder / "model.json", {**record, "preprocessing": values})
        message = refused("predict", folder, f"{VAL}/ants/003.png")
        assert f"{folder}/model.json does not say how images are prepared" in message
        assert "Another version wrote it.\n" in message


def test_the_interval_of_the_comparison_is_reported_where_it_is_of_these_runs(own_trained):
    _, alone = headswap("predict", "tiny-probe", f"{VAL}/ants/003.png")
    assert "seed 0" in alone and "of 40 validation images" in alone and "interval" not in alone
    edit(models=["tiny"])
    write_comparison(params.load())
    table = pd.read_csv("metrics/comparison.csv").set_index("cell")
    row = table.loc["tiny-probe"]
    _, said = headswap("predict", "tiny-probe", f"{VAL}/ants/003.png")
    low, high = row["last_val_accuracy_ci_low"], row["last_val_accuracy_ci_high"]
    assert f"95% interval of {low:.1%} to {high:.1%}" in said
    table["last_val_accuracy_mean"] -= 0.01
    table.to_csv("metrics/comparison.csv")
    assert headswap("predict", "tiny-probe", f"{VAL}/ants/003.png")[1] == alone


@pytest.mark.parametrize(("count", "others"), [(1, "images"), (2, "images and runs")])
def test_the_interval_of_one_run_is_for_other_images_alone(empty, count, others):
    Path("metrics").mkdir()
    names = ("mean", "ci_low", "ci_high")
    columns = ["cell", *(f"last_val_accuracy_{name}" for name in names)]
    write_csv("metrics/comparison.csv", columns, [["a-probe", 0.9, 0.8, 0.95]])
    run = {"seed": 0, "diverged": None, "last": {"accuracy": 0.9}}
    record = {"cell": "a-probe", "kept": run, "counts": {"val": 40}, "versions": {"torch": "2"}}
    said = describe(Path("models/a-probe"), record | {"runs": [run] * count}, "kept")
    assert f"interval of 80.0% to 95.0% for other {others}." in said


def test_the_best_cell_is_the_one_that_the_comparison_ranks_first(empty):
    with pytest.raises(UserError, match="metrics/comparison.csv in .*\nGo to the project's folder"):
        best_cell()
    Path("dvc.yaml").touch()
    with pytest.raises(UserError, match="no metrics/comparison.csv yet.\nMake it"):
        best_cell()
    Path("metrics").mkdir()
    Path("metrics/comparison.csv").write_text("<<<<<<< main\ncell,rank\na-probe,1\n")
    with pytest.raises(UserError, match="csv cannot be read: .*\nMake it anew with: dvc repro"):
        best_cell()
    Path("metrics/comparison.csv").write_text(
        "cell,rank,last_val_accuracy_mean\na-frozen,2,0.9\na-probe,1,0.9\nb-probe,,\n"
    )
    assert best_cell() == "a-probe"


def test_the_most_misclassified_images_are_those_that_the_comparison_lists(own_trained):
    edit(models=["tiny"])
    write_comparison(params.load())
    listed = pd.read_csv("metrics/misclassified.csv")
    assert len(listed) and (listed.wrong.diff().dropna() <= 0).all()
    output, message = headswap("predict", "--misclassified", "tiny-finetune")
    assert f"The {len(listed.image[:12])} images that most runs of all cells got wrong" in message
    assert [line.split(": ")[0] for line in output.splitlines()] == [
        f"{VAL}/{image}" for image in listed.image[:12]
    ]
    output, message = headswap("predict", f"{VAL}/ants/003.png")
    best = pd.read_csv("metrics/comparison.csv").sort_values("rank")
    assert f"The best cell of the comparison is {best.cell.iloc[0]}." in message and output


@pytest.mark.slow
def test_ctrl_c_says_what_is_true_of_a_command_that_is_no_stage(trained, tmp_path):
    predict = ["predict", "tiny-probe", "data/images/val", "--explain", tmp_path / "why"]
    export = ["export", "tiny-probe", tmp_path / "exported", "--onnx"]
    for command, started in ((predict, "why/*/*.png"), (export, ".exported.*.partial/exported/*")):
        with subprocess.Popen(
            [sys.executable, "-m", "headswap", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            while not list(tmp_path.glob(started)):
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            assert process.wait() == 1
            said = "\nStopped. No row is half written. Run the same command again"
            assert said in process.stderr.read()
        assert not list(tmp_path.rglob("*.partial"))
    assert not (tmp_path / "exported").exists()


def test_a_model_of_another_branch_than_dvc_lock_is_refused(own_trained):
    path = Path("plots/predictions/tiny-frozen.csv")
    image = next(Path("data/images/val/ants").iterdir())
    output = {"path": path.as_posix(), "md5": hashlib.md5(path.read_bytes()).hexdigest()}
    stages = {"train@tiny-frozen": {"outs": [output]}}
    YAML().dump({"schema": "2.0", "stages": stages}, Path("dvc.lock"))
    headswap("predict", "tiny-frozen", image)
    output["md5"] = "0" * 32  # as after `git checkout` of a branch with another learning rate
    YAML().dump({"schema": "2.0", "stages": stages}, Path("dvc.lock"))
    message = headswap("predict", "tiny-frozen", image, code=1)[1]
    assert "models/tiny-frozen is not what dvc.lock records" in message
    assert "dvc checkout" in message and "dvc repro" in message
