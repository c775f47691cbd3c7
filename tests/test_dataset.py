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
from PIL import ExifTags, Image

from headswap import params
from headswap.data import dataset
from headswap.data import synthetic as drawings
from headswap.errors import UserError
from headswap.io import read_json
from headswap.train import dataset as images


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def picture(colour, form="jpeg"):
    return encoded(Image.new("RGB", (30, 20), colour), form)


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
    monkeypatch.delenv("HEADSWAP_MIRROR", raising=False)
    for name, content in IMAGES.items():
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    dataset.write_manifest("mine", "mine.csv")
    chosen = params.Dataset(url="http://127.0.0.1:9/set.zip", manifest="mine.csv")

    def verify(files, prefix="set/", pretended=()):
        with zipfile.ZipFile("set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items() if isinstance(files, dict) else files:
                if isinstance(name, str):
                    name = prefix + name
                archive.writestr(name, content)
            for name, size in pretended:
                archive.getinfo(prefix + name).file_size = size
        return dataset.verify(chosen, "set.zip", "images")

    return verify


@pytest.mark.parametrize("prefix", ["", "set/", "a/b/"])
def test_the_archives_own_folders_and_stray_files_do_not_matter(own, prefix):
    found = own({**IMAGES, "train/ants/imageNotFound.gif": b"GIF89a", "README": b""}, prefix)
    assert list(found) == sorted(IMAGES)
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
    with pytest.raises(UserError) as error:
        own(files)
    assert message in str(error.value)
    assert Path("images/val/bees/d.jpg").read_bytes() == IMAGES["val/bees/d.jpg"]
    assert {path.name for path in Path().iterdir()} == {"images", "mine", "mine.csv", "set.zip"}


def test_a_member_that_pretends_to_be_small_is_refused(own):
    size = len(IMAGES["val/bees/d.jpg"])
    with pytest.raises(UserError, match=r"damaged: val/bees/d\.jpg"):
        own({**IMAGES, "val/bees/d.jpg": b"\0" * 50_000_000}, pretended=[("val/bees/d.jpg", size)])


def test_all_faults_are_named_at_once_up_to_a_readable_number(own):
    extras = {f"train/ants/{number:02d}.jpg": b"x" for number in range(40)}
    with pytest.raises(UserError) as error:
        own({"val/bees/d.jpg": b"short", **extras})
    assert "extra: train/ants/00.jpg" in str(error.value)
    assert "… and 24 more" in str(error.value)
    assert len(str(error.value).splitlines()) < 30


KINDS = {
    "CMYK": encoded(Image.new("CMYK", (30, 20), (0, 255, 255, 0)), "jpeg", quality=100),
    "palette": encoded(Image.new("RGB", (30, 20), "red").quantize(4), "png"),
    "transparent": encoded(Image.new("RGBA", (30, 20), (255, 0, 0, 9)), "png"),
    "TIFF": picture("red", "tiff"),
    "a single pixel": encoded(Image.new("RGB", (1, 1), "red"), "png"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_red_image_of_any_kind_is_red(own, kind):
    Path("mine/val/bees/d.jpg").write_bytes(KINDS[kind])
    dataset.write_manifest("mine", "mine.csv")
    own({**IMAGES, "val/bees/d.jpg": KINDS[kind]})
    red, green, blue = images.decode("images/val/bees/d.jpg").double().mean((1, 2))
    assert red > 250 and green < 5 and blue < 5
    (batch, _), *_ = images.Photographs(params.Image(size=32, resize=40), "images").val()
    assert batch.shape == (2, 3, 32, 32)


def test_a_photograph_taken_with_the_camera_turned_is_upright(tmp_path):
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6  # turn it by 90 degrees, clockwise, to see it upright
    above = Image.new("RGB", (20, 40), "black")
    above.paste("white", (0, 0, 20, 20))
    above.rotate(90, expand=True).save(tmp_path / "turned.png", exif=turned)
    upright = images.decode(tmp_path / "turned.png")
    assert upright.shape == (3, 40, 20)
    assert upright[:, :20].min() == 255 and upright[:, 20:].max() == 0


BAD = {
    "no known format": b"no picture",
    "16 or 32 bits": encoded(Image.new("I;16", (30, 20), 40_000), "png"),
    "Truncated File Read": IMAGES["train/ants/a.jpg"][:-300],
    "image file is truncated": picture("green", "png")[:60],
    "decompression bomb": encoded(Image.new("1", (20_000, 20_000)), "png"),
    "format": b"",
}


@pytest.mark.parametrize("why", BAD)
def test_an_image_that_would_be_seen_wrongly_is_named(own, why):
    Path("mine/val/bees/d.jpg").write_bytes(BAD[why])
    dataset.write_manifest("mine", "mine.csv")
    with pytest.raises(UserError, match=rf"no readable image: val/bees/d.jpg .*({why})"):
        own({**IMAGES, "val/bees/d.jpg": BAD[why]})


def test_identical_images_and_single_ones_are_remarked():
    entries = {
        **{"train/a/1.jpg": (9, "c0"), "train/a/2.jpg": (9, "c1"), "train/b/3.jpg": (9, "c1")},
        **{"val/a/4.jpg": (9, "c0"), "val/b/5.jpg": (9, "c2"), "val/b/6.jpg": (9, "c3")},
    }
    assert dataset.remarks(entries) == [
        "the same image twice or more: train/a/1.jpg, val/a/4.jpg",
        "the same image twice or more: train/a/2.jpg, train/b/3.jpg",
        "a class of one image: train/b",
        "a class of one image: val/a",
    ]
    assert dataset.counts(entries)["in_both_splits"] == 1


def test_links_and_twins_are_refused(own):
    link = zipfile.ZipInfo("set/val/bees/d.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    others = [(name, content) for name, content in IMAGES.items() if name != "val/bees/d.jpg"]
    with pytest.raises(UserError, match=r"a link, not an image: val/bees/d\.jpg"):
        own([*others, (link, "/etc/passwd")])
    with pytest.raises(UserError, match=r"there 2 times: train/ants/a\.jpg"):
        own([*IMAGES.items(), (zipfile.ZipInfo("other/train/ants/a.jpg"), b"x")])


@pytest.mark.parametrize(
    "name", ["../../evil.jpg", "/tmp/train/ants/../../evil.jpg", "train/../x/y.jpg"]
)
def test_nothing_is_written_outside_the_folder(own, tmp_path, name):
    try:
        own([*IMAGES.items(), (zipfile.ZipInfo(name), b"evil")])
    except UserError as error:
        assert "extra" in str(error)
    assert not [path for path in tmp_path.parent.rglob("*") if path.name in ("evil.jpg", "y.jpg")]


def test_a_truncated_archive_is_named_with_what_to_type(own):
    own(IMAGES)
    archive = Path("set.zip")
    archive.write_bytes(archive.read_bytes()[:300])
    chosen = params.Dataset(url="x", manifest="mine.csv")
    with pytest.raises(UserError, match="set.zip is damaged.*\n.*dvc repro --force"):
        dataset.verify(chosen, "set.zip", "images")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_is_named_whatever_the_compression(own, method):
    own(IMAGES)
    with zipfile.ZipFile("set.zip", "w", method) as archive:
        for name, content in IMAGES.items():
            archive.writestr(name, content)
        start = archive.getinfo("train/ants/a.jpg").header_offset + 60
    damaged = bytearray(Path("set.zip").read_bytes())
    damaged[start : start + 200] = bytes(200)
    Path("set.zip").write_bytes(damaged)
    chosen = params.Dataset(url="x", manifest="mine.csv")
    with pytest.raises(UserError, match=r"damaged: train/ants/a\.jpg"):
        dataset.verify(chosen, "set.zip", "images")


def test_a_damaged_name_in_an_archive_is_damage(own):
    own({**IMAGES, "train/ants/ä.gif": b""})
    damaged = Path("set.zip").read_bytes().replace("ä".encode(), b"\xff\xff")
    Path("set.zip").write_bytes(damaged)
    chosen = params.Dataset(url="x", manifest="mine.csv")
    with pytest.raises(UserError, match="set.zip is damaged"):
        dataset.verify(chosen, "set.zip", "images")


def test_what_macos_adds_to_an_archive_does_not_matter(own):
    assert len(own([*IMAGES.items(), ("__MACOSX/train/ants/._a.jpg", b"attributes")])) == 4


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
    except UserError:
        assert not (folder / "images").exists()
    else:
        for name, image in IMAGES.items():
            assert (folder / "images" / name).read_bytes() == image


@pytest.mark.parametrize(
    "line",
    [
        "train/ants/b.jpg,ten," + "0" * 64,
        "train/ants/b.jpg,1,00",
        "train/ants/a.jpg,1," + "0" * 64,
        "../a/b.jpg,1," + "0" * 64,
        "train/../b.jpg,1," + "0" * 64,
        "/train/ants/b.jpg,1," + "0" * 64,
        "b.jpg,1," + "0" * 64,
        "x",
    ],
)
def test_a_line_that_does_not_belong_into_a_manifest_is_named(line):
    right = "train/ants/a.jpg,1," + "0" * 64
    with pytest.raises(UserError) as error:
        dataset.read_manifest(f"path,bytes,sha256\n{right}\n{line}\n", "mine.csv")
    assert "mine.csv" in str(error.value)
    assert f"line 3: {line[:20]}" in str(error.value) and "line 2" not in str(error.value)


@pytest.mark.parametrize("text", ["", "path,bytes,sha256\n", "path,size\ntrain/ants/a.jpg,1\n"])
def test_a_manifest_without_images_or_columns_is_refused(text):
    with pytest.raises(UserError, match=r"mine\.csv is no manifest"):
        dataset.read_manifest(text, "mine.csv")


@pytest.mark.parametrize("content", [b"path,bytes,sha256\n\xff", b'path\n"' + b"x" * 200_000])
def test_a_manifest_that_is_no_table_is_refused(own, content):
    Path("mine.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"mine\.csv"):
        own(IMAGES)


def test_a_manifest_that_is_not_there_is_named_with_what_to_type(own):
    Path("mine.csv").unlink()
    with pytest.raises(UserError, match=r"there is no mine\.csv\.\n.*headswap manifest FOLDER"):
        own(IMAGES)


def test_a_file_that_is_no_zip_does_not_replace_the_archive(own):
    own(IMAGES)
    before = Path("set.zip").read_bytes()
    Path("page.html").write_text("<p>log in first</p>")
    with pytest.raises(UserError, match=r"page\.html: is no zip archive"):
        dataset.fetch(params.Dataset(url="page.html", manifest="mine.csv"), Path("set.zip"))
    assert Path("set.zip").read_bytes() == before


def test_a_folder_of_ones_own_goes_through_fetch_and_verify(own):
    chosen = params.Dataset(url="mine", manifest="mine.csv")
    assert dataset.fetch(chosen, Path("got.zip")) == "mine"
    assert len(dataset.verify(chosen, "got.zip", "images")) == 4


def test_names_with_commas_quotes_and_accents_go_through_the_manifest(own):
    for name in ('ant, "red".jpg', "fourmi été 蟻.jpg", "a" * 250 + ".jpg"):
        Path("mine/train/ants", name).write_bytes(IMAGES["train/ants/a.jpg"])
    dataset.write_manifest("mine", "mine.csv")
    chosen = params.Dataset(url="mine", manifest="mine.csv")
    dataset.fetch(chosen, Path("got.zip"))
    assert len(dataset.verify(chosen, "got.zip", "images")) == 4 + 3


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(UserError, match="train/<class>/<image>"):
        dataset.write_manifest(tmp_path, tmp_path / "mine.csv")


def test_a_class_that_stands_in_one_split_only_is_named(own):
    Path("mine/val/wasps").mkdir()
    Path("mine/val/wasps/e.jpg").write_bytes(picture("black"))
    with pytest.raises(UserError, match="mine has no images in train/wasps"):
        dataset.write_manifest("mine", "mine.csv")


def test_what_a_killed_process_left_is_removed_by_the_next(own):
    Path(".images.partial/images").mkdir(parents=True)
    own(IMAGES)
    assert not list(Path().glob(".*"))


def test_generated_images_are_the_same_bytes_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(drawings, "COUNTS", {"train": 3, "val": 2})
    chosen = params.Dataset(url="generated", manifest="none")
    for name in ("first.zip", "second.zip"):
        dataset.fetch(chosen, tmp_path / name)
    assert (tmp_path / "first.zip").read_bytes() == (tmp_path / "second.zip").read_bytes()
    drawn = dataset.verify(chosen, tmp_path / "first.zip", tmp_path / "images")
    assert dataset.counts(drawn) == {
        **{"images": 10, "train": 6, "train_ants": 3, "train_bees": 3},
        **{"val": 4, "val_ants": 2, "val_bees": 2, "in_both_splits": 0},
    }


def test_an_archive_of_photographs_is_not_taken_for_the_generated_one(own):
    own(IMAGES)
    chosen = params.Dataset(url="generated", manifest="none")
    with pytest.raises(UserError, match="dvc repro"):
        dataset.verify(chosen, "set.zip", "images")


@pytest.mark.skipif("HEADSWAP_MIRROR" not in os.environ, reason="set HEADSWAP_MIRROR")
def test_the_real_photographs_are_those_of_the_manifest(tmp_path):
    chosen = params.load(ROOT / "params.yaml").dataset.model_copy(
        update={"manifest": str(ROOT / "data/manifest.csv")}
    )
    dataset.fetch(chosen, tmp_path / "set.zip")
    counts = dataset.counts(dataset.verify(chosen, tmp_path / "set.zip", tmp_path / "images"))
    assert counts == read_json(ROOT / "data/published/dataset.json")
    assert (counts["train_ants"], counts["val_bees"]) == (123, 83)


def test_a_class_in_one_split_only_is_refused_before_anything_is_trained(own):
    with Path("mine.csv").open("a") as file:
        file.write(f"train/wasps/e.jpg,1,{'0' * 64}\n")
    with pytest.raises(UserError, match=r"no images in val/wasps"):
        own(IMAGES)


def test_a_missing_folder_archive_or_manifest_is_told_by_check(own):
    dataset.check(params.Dataset(url="mine", manifest="mine.csv"))
    for url, manifest, message in (
        ("main", "mine.csv", r"dataset\.url: there is no main here"),
        ("mine", "mien.csv", r"dataset\.manifest: there is no mien\.csv"),
    ):
        with pytest.raises(UserError, match=message):
            dataset.check(params.Dataset(url=url, manifest=manifest))


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser can read everything")
def test_an_image_that_cannot_be_read_is_named(own):
    Path("mine/train/ants/a.jpg").chmod(0)
    for act in (
        lambda: dataset.write_manifest("mine", "again.csv"),
        lambda: dataset.fetch(params.Dataset(url="mine", manifest="mine.csv"), Path("got.zip")),
    ):
        with pytest.raises(UserError, match=r"train/ants/a\.jpg cannot be read"):
            act()


def test_a_single_class_is_refused(own):
    for path in Path("mine").glob("*/bees/*"):
        path.unlink()
    with pytest.raises(UserError, match="single class, ants"):
        dataset.write_manifest("mine", "mine.csv")
