"""An archive is good if every image of the manifest is in it, and nothing else is written."""

import io
import os
import stat
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headswap import dataset, params
from headswap.errors import Problem
from headswap.files import read_json


def picture(colour, form="jpeg"):
    file = io.BytesIO()
    Image.new("RGB", (30, 20), colour).save(file, form)
    return file.getvalue()


IMAGES = {
    "train/ants/a.jpg": picture("red"),
    "train/bees/b.jpeg": picture("blue"),
    "val/ants/c.png": picture("green", "png"),
    "val/bees/d.jpg": picture("white"),
}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return a function that writes an archive of the given files and verifies it."""
    monkeypatch.chdir(tmp_path)
    for name, content in IMAGES.items():
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    dataset.write_manifest("mine", "mine.csv")
    chosen = params.Dataset(url="http://127.0.0.1:9/set.zip", manifest="mine.csv")

    def verify(files, prefix="set/"):
        with zipfile.ZipFile("set.zip", "w") as archive:
            for name, content in files.items() if isinstance(files, dict) else files:
                if isinstance(name, str):
                    name = prefix + name
                archive.writestr(name, content)
        return dataset.verify(chosen, "set.zip", "images")

    return verify


@pytest.mark.parametrize("prefix", ["", "set/", "a/b/"])
def test_the_archives_own_folders_and_stray_files_do_not_matter(own, prefix):
    counts = own({**IMAGES, "train/ants/imageNotFound.gif": b"GIF89a", "README": b""}, prefix)
    assert counts["images"] == 4 and counts["train_ants"] == 1 and counts["val"] == 2
    assert {str(path.relative_to("images")) for path in Path("images").rglob("*.*")} == set(IMAGES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val/bees/d.jpg": None}, "missing: val/bees/d.jpg"),
        ({"val/bees/e.jpg": b"x"}, "extra: val/bees/e.jpg"),
        ({"val/bees/d.jpg": b"short"}, "changed: val/bees/d.jpg (5 bytes, not"),
        ({"val/bees/d.jpg": IMAGES["val/bees/d.jpg"][:-9] + b"123456789"}, "d.jpg (SHA-256"),
        ({"train/ants/a.jpg": IMAGES["val/bees/d.jpg"]}, "changed: train/ants/a.jpg"),
        ({"val/bees/d.jpg": b"\0" * 50_000_000}, "changed: val/bees/d.jpg (50000000 bytes"),
    ],
)
def test_what_is_wrong_is_named_and_the_images_of_before_stay(own, changes, message):
    own(IMAGES)
    files = {name: content for name, content in {**IMAGES, **changes}.items() if content}
    with pytest.raises(Problem) as problem:
        own(files)
    assert message in str(problem.value)
    assert Path("images/val/bees/d.jpg").read_bytes() == IMAGES["val/bees/d.jpg"]
    assert {path.name for path in Path().iterdir()} == {"images", "mine", "mine.csv", "set.zip"}


def test_all_faults_are_named_at_once_up_to_a_readable_number(own):
    extras = {f"train/ants/{number:02d}.jpg": b"x" for number in range(40)}
    with pytest.raises(Problem) as problem:
        own({"val/bees/d.jpg": b"short", **extras})
    assert "extra: train/ants/00.jpg" in str(problem.value)
    assert "… and 24 more" in str(problem.value)
    assert len(str(problem.value).splitlines()) < 30


def test_an_image_that_cannot_be_decoded_is_named(own):
    Path("mine/val/bees/d.jpg").write_bytes(b"no picture")
    dataset.write_manifest("mine", "mine.csv")
    with pytest.raises(Problem, match="no readable image: val/bees/d.jpg"):
        own({**IMAGES, "val/bees/d.jpg": b"no picture"})


def test_links_and_twins_are_refused(own):
    link = zipfile.ZipInfo("set/val/bees/d.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    others = [(name, content) for name, content in IMAGES.items() if name != "val/bees/d.jpg"]
    with pytest.raises(Problem, match=r"a link, not an image: val/bees/d\.jpg"):
        own([*others, (link, "/etc/passwd")])
    with pytest.raises(Problem, match=r"there 2 times: train/ants/a\.jpg"):
        own([*IMAGES.items(), (zipfile.ZipInfo("other/train/ants/a.jpg"), b"x")])


@pytest.mark.parametrize(
    "name", ["../../evil.jpg", "/tmp/train/ants/../../evil.jpg", "train/../x/y.jpg"]
)
def test_nothing_is_written_outside_the_folder(own, tmp_path, name):
    try:
        own([*IMAGES.items(), (zipfile.ZipInfo(name), b"evil")])
    except Problem as problem:
        assert "extra" in str(problem)
    assert not [path for path in tmp_path.parent.rglob("*") if path.name in ("evil.jpg", "y.jpg")]


def test_a_truncated_archive_is_named_with_what_to_type(own):
    own(IMAGES)
    archive = Path("set.zip")
    archive.write_bytes(archive.read_bytes()[:300])
    chosen = params.Dataset(url="x", manifest="mine.csv")
    with pytest.raises(Problem, match="set.zip is damaged.*\n.*dvc repro --force"):
        dataset.verify(chosen, "set.zip", "images")


@settings(max_examples=150, deadline=None)
@given(place=st.integers(min_value=0), byte=st.integers(min_value=0, max_value=255))
def test_any_byte_changed_in_an_archive_is_found_or_harmless(tmp_path_factory, place, byte):
    folder = tmp_path_factory.mktemp("flipped")
    with zipfile.ZipFile(folder / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in IMAGES.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
            path = folder / "mine" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    dataset.write_manifest(folder / "mine", folder / "mine.csv")
    content = bytearray((folder / "set.zip").read_bytes())
    content[place % len(content)] = byte
    (folder / "set.zip").write_bytes(content)
    chosen = params.Dataset(url="x", manifest=str(folder / "mine.csv"))
    try:
        dataset.verify(chosen, folder / "set.zip", folder / "images")
    except Problem:
        assert not (folder / "images").exists()
    else:
        for name, image in IMAGES.items():
            assert (folder / "images" / name).read_bytes() == image


@pytest.mark.parametrize(
    "line", ["train/ants/a.jpg,ten,00", "../a/b.jpg,1," + "0" * 64, "a.jpg,1," + "0" * 64, "x"]
)
def test_a_line_that_does_not_belong_into_a_manifest_is_named(line):
    with pytest.raises(Problem, match="line 2"):
        dataset.read_manifest(f"path,bytes,sha256\n{line}\n", "mine.csv")


def test_a_folder_of_ones_own_goes_through_fetch_and_verify(own):
    chosen = params.Dataset(url="mine", manifest="mine.csv")
    assert dataset.fetch(chosen, Path("got.zip")) == "mine"
    assert dataset.verify(chosen, "got.zip", "images")["images"] == 4


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(Problem, match="train/<class>/<image>"):
        dataset.write_manifest(tmp_path, tmp_path / "mine.csv")


def test_a_class_that_stands_in_one_split_only_is_named(own):
    Path("mine/val/wasps").mkdir()
    Path("mine/val/wasps/e.jpg").write_bytes(picture("black"))
    with pytest.raises(Problem, match="mine has no images in train/wasps"):
        dataset.write_manifest("mine", "mine.csv")


def test_what_a_killed_process_left_is_removed_by_the_next(own):
    Path(".images.partial/images").mkdir(parents=True)
    own(IMAGES)
    assert not list(Path().glob(".*"))


def test_generated_images_are_the_same_bytes_each_time(tmp_path):
    chosen = params.Dataset(url="generated", manifest="none")
    for name in ("first.zip", "second.zip"):
        dataset.fetch(chosen, tmp_path / name)
    assert (tmp_path / "first.zip").read_bytes() == (tmp_path / "second.zip").read_bytes()
    counts = dataset.verify(chosen, tmp_path / "first.zip", tmp_path / "images")
    assert counts["train_ants"] == counts["train_bees"] > 0


@pytest.mark.skipif("HEADSWAP_MIRROR" not in os.environ, reason="set HEADSWAP_MIRROR")
def test_the_real_photographs_are_those_of_the_manifest(tmp_path):
    chosen = params.load(ROOT / "params.yaml").dataset.model_copy(
        update={"manifest": str(ROOT / "data/manifest.csv")}
    )
    dataset.fetch(chosen, tmp_path / "set.zip")
    counts = dataset.verify(chosen, tmp_path / "set.zip", tmp_path / "images")
    assert counts == read_json(ROOT / "data/published/dataset.json")
    assert (counts["train_ants"], counts["val_bees"]) == (123, 83)
