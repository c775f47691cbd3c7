"""The command line: one clear message for a mistake, and no torch where none is needed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, edit
from PIL import Image

BIN = Path(sys.executable).parent


def headswap(*arguments):
    return subprocess.run([BIN / "headswap", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "vgg11", "frozen"), "vgg11 is not under models in params.yaml: tiny."),
        (("train", "tiny", "probe"), "probe is not under modes"),
        (("probe", "tiny"), "data/embeddings/tiny.safetensors"),
        (("train", "tiny", "frozen"), "no data/weights/tiny.safetensors yet.\nMake it"),
        (("train", "Tiny", "frozen"), "params.yaml: tiny.\nDid you mean tiny?"),
        (("verify",), "There is no data/archive.zip.\nGet it with: dvc repro fetch"),
        (("compare",), "tiny-finetune, tiny-frozen, tiny-probe"),
        (("manifest", "nowhere"), "There is no folder nowhere"),
    ],
)
def test_a_mistake_gets_one_message_and_exit_code_1(workspace, arguments, message):
    done = headswap(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) < 8


def test_training_before_images_are_fetched_says_what_to_type(workspace):
    assert headswap("weights", "tiny").returncode == 0
    done = headswap("train", "tiny", "frozen")
    assert (
        "There is no data/images yet.\nMake it, and all that it needs, with: dvc repro"
        in done.stderr
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr


def test_a_missing_manifest_comes_with_the_command_that_restores_or_makes_it(workspace):
    Path("photos").mkdir()
    edit(dataset={"url": "photos"})
    for words in (["init", "-q"], ["add", "data"], ["-c", "user.name=a", "-c", "user.email=b",
                  "commit", "-qm", "Start"]):  # fmt: skip
        subprocess.run(["git", *words], check=True)
    Path("data/manifest.csv").unlink()
    done = headswap("check")
    assert done.returncode == 1
    remedy = done.stderr.rstrip().rpartition("Restore it with: ")[2]
    subprocess.run(remedy.split(), check=True)
    assert Path("data/manifest.csv").exists()
    edit(dataset={"manifest": "data/photos.csv"})
    assert (
        "Make it with: headswap manifest FOLDER --output data/photos.csv"
        in headswap("check").stderr
    )


def test_without_network_fetch_says_what_to_do(workspace):
    edit(dataset={"url": "http://127.0.0.1:9/hymenoptera_data.zip"})
    done = headswap("fetch")
    assert done.returncode == 1
    for part in ("http://127.0.0.1:9/hymenoptera_data.zip", "HEADSWAP_MIRROR", "make demo"):
        assert part in done.stderr
    assert not list(Path("data").glob("*.zip"))


def test_a_network_without_a_head_is_refused_before_anything_is_written(workspace):
    edit(models=["squeezenet1_0"])
    done = headswap("weights", "squeezenet1_0")
    assert done.returncode == 1
    assert "squeezenet1_0 does not end in a linear layer" in done.stderr
    assert not Path("data/weights").exists()


def test_check_counts_the_cells(workspace):
    assert "3 cells, 2 seeds each" in headswap("check").stdout


def test_manifest_lists_the_files_that_it_left_out(workspace):
    good = ("train/a/1.png", "val/a/2.PNG", "train/b/1.png", "val/b/2.png")
    for name in (*good, "train/a/more/3.png", "val/a/4.heic", "val/5.png"):
        Path("mine", name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(Path("mine", name), "png")
    Path("mine/train/.DS_Store").write_bytes(b"-")
    output = headswap("manifest", "mine").stdout
    assert "data/mine.csv lists 4 images." in output
    for told in ("train/a/more/", "val/5.png", "val/a/4.heic", "train/.DS_Store"):
        assert f"  {told}\n" in output


def test_stages_that_need_no_torch_do_not_import_it():
    modules = ("cli", "data.fetch", "data.verify", "compare.comparison", "train.cell")
    imports = ", ".join(f"headswap.{module}" for module in modules)
    script = f"import {imports}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_every_stage_is_a_command_and_is_called_by_its_name():
    pipeline = (ROOT / "dvc.yaml").read_text()
    stages = re.findall(
        r"^  (\w+):\n(?:    matrix:(?:\n      .*)+\n)?    cmd: sh scripts/headswap (\w+)",
        pipeline,
        re.M,
    )
    assert [stage for stage, _ in stages] == [command for _, command in stages]
    commands = headswap("--help").stdout
    assert len(stages) == 8
    assert all(f"  {stage} " in commands for stage, _ in stages)


def test_the_readme_names_commands_that_exist():
    readme = (ROOT / "README.md").read_text()
    commands = headswap("--help").stdout
    typed = re.findall(r"`headswap (\w+)", readme)
    assert typed and all(f"  {name} " in commands for name in typed)
    targets = set(re.findall(r"^(\w+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^    )make (?:[A-Z]+=\S+ )*([a-z]\w*)", readme, re.MULTILINE))
    assert len(named) > 3 and named <= targets
