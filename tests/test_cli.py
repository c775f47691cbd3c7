"""The command line: one clear message for a mistake."""

import subprocess
from pathlib import Path

import pytest
from conftest import edit, headswap, sh
from PIL import Image


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "vgg11", "frozen"), "vgg11 is not under models in params.yaml: tiny."),
        (("train", "tiny", "probes"), "tiny-probes is not a cell of params.yaml"),
        (("probe", "tiny"), "data/embeddings/tiny.safetensors"),
        (("train", "tiny", "frozen"), "no data/images yet.\nMake it"),
        (("train", "Tiny", "frozen"), "params.yaml: tiny.\nDid you mean tiny?"),
        (("verify",), "There is no data/archive.zip.\nGet it with: dvc repro fetch"),
        (("compare",), "tiny-finetune, tiny-frozen, tiny-probe"),
        (("manifest", "nowhere"), "There is no folder nowhere"),
    ],
)
def test_a_mistake_gets_one_message_and_exit_code_1(workspace, arguments, message):
    printed = headswap(*arguments, code=1)[1]
    assert message in printed and len(printed.splitlines()) < 8


def test_no_line_of_the_commands_is_cut_at_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert "..." not in headswap("--help")[0].partition("Commands:")[2]


@pytest.mark.slow
def test_a_mistake_is_no_traceback(workspace):
    assert "probes is not a cell" in sh("headswap", "train", "tiny", "probes", code=1)


def test_training_before_images_are_fetched_says_what_to_type(workspace):
    headswap("weights", "tiny")
    message = headswap("train", "tiny", "frozen", code=1)[1]
    assert (
        "There is no data/images yet.\nMake it, and all that it needs, with: dvc repro" in message
    )


def test_a_missing_manifest_comes_with_the_command_that_restores_or_makes_it(workspace):
    Path("photos").mkdir()
    edit(dataset={"url": "photos"})
    for words in (["init", "-q"], ["add", "data"], ["-c", "user.name=a", "-c", "user.email=b",
                  "commit", "-qm", "Start"]):  # fmt: skip
        subprocess.run(["git", *words], check=True)
    Path("data/manifest.csv").unlink()
    message = headswap("check", code=1)[1]
    remedy = message.rstrip().rpartition("Restore it with: ")[2]
    subprocess.run(remedy.split(), check=True)
    assert Path("data/manifest.csv").exists()
    edit(dataset={"manifest": "data/photos.csv"})
    message = headswap("check", code=1)[1]
    assert "Make it with: headswap manifest FOLDER --output data/photos.csv" in message


def test_without_network_fetch_says_what_to_do(workspace):
    edit(dataset={"url": "http://127.0.0.1:9/hymenoptera_data.zip"})
    message = headswap("fetch", code=1)[1]
    for part in ("http://127.0.0.1:9/hymenoptera_data.zip", "HEADSWAP_MIRROR", "make demo"):
        assert part in message
    assert not list(Path("data").glob("*.zip"))


def test_check_counts_the_cells(workspace):
    assert "3 cells, 2 seeds, 5 runs" in headswap("check")[0]


def test_manifest_lists_the_files_that_it_left_out(workspace, no_heic):
    good = [
        f"{split}/{label}/{n}.png" for split in ("train", "val") for label in "ab" for n in "12"
    ]
    good += ["val/a/2.PNG", "val/a/more/3.png"]
    for name in (*good, "val/a/4.heic", "val/5.png"):
        Path("mine", name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(Path("mine", name), "png")
    Path("mine/train/.DS_Store").write_bytes(b"-")
    output = headswap("manifest", "mine")[0]
    assert "data/mine.csv lists 10 images." in output
    for told in ("val/5.png", "val/a/4.heic", "train/.DS_Store"):
        assert f"  {told}\n" in output
