"""Fetching, the manifest and verification: only the manifest's images are unpacked."""

import contextlib
import functools
import hashlib
import http.server
import os
import re
import stat
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import IMAGES, ROOT, draw, edit, encode, sh, write_folder, write_zip
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from headswap import download, params
from headswap.data import changes, synthetic
from headswap.data.changes import check_dataset
from headswap.data.listing import list_images
from headswap.data.manifest import count_images, parse_manifest
from headswap.data.verify import fetch_archive, find_quality_issues, verify_images
from headswap.data.writing import write_manifest
from headswap.errors import UserError
from headswap.images.folders import find_images
from headswap.images.index import read_index
from headswap.images.reading import read_image
from headswap.io import read_json

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def photos(empty, monkeypatch):
    """Return a dataset of the folder ``photos`` and its manifest, in an empty working folder."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    write_folder(IMAGES, "photos")
    write_manifest(list_images("photos"), "photos.csv")
    return params.Dataset(folds=0, url="photos", manifest="photos.csv")


@pytest.fixture
def verify(photos):
    """Return a function that writes files to an archive and verifies it."""

    def write_and_verify(files, prefix="set/"):
        write_zip(files, "set.zip", prefix)
        return verify_images(photos, "set.zip", "images")

    return write_and_verify


# Archives that are verified


@pytest.mark.parametrize("prefix", ["", "set/", "a/b/"])
def test_parent_folders_and_other_files_in_an_archive_are_ignored(verify, prefix):
    others = {"train/ants/imageNotFound.gif": b"GIF89a", "README": b""}
    others |= {"__MACOSX/train/ants/._a.jpg": b"attributes"}
    assert list(verify({**IMAGES, **others}, prefix)) == sorted(IMAGES)
    written = {path.relative_to("images").as_posix() for path in Path("images").rglob("*.*")}
    assert written == {"index.csv", *IMAGES}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val/bees/d.jpg": None}, "missing: val/bees/d.jpg"),
        ({"val/bees/e.jpg": b"x"}, "extra: set/val/bees/e.jpg"),
        ({"val/bees/d.jpg": b"short"}, "changed: val/bees/d.jpg (5 bytes, not"),
        ({"val/bees/d.jpg": IMAGES["val/bees/d.jpg"][:-9] + b"123456789"}, "d.jpg (SHA-256"),
        ({"train/ants/a.jpg": IMAGES["val/bees/d.jpg"]}, "changed: train/ants/a.jpg"),
        ({"val/bees/d.jpg": b"\0" * 50_000_000}, "changed: val/bees/d.jpg (50000000 bytes"),
    ],
)
def test_wrong_images_are_named_and_the_previous_images_are_kept(verify, changes, message):
    verify(IMAGES)
    files = {name: content for name, content in {**IMAGES, **changes}.items() if content}
    with pytest.raises(UserError) as error:
        verify(files)
    assert message in str(error.value)
    assert "dvc repro --force --single-item fetch" in str(error.value)
    assert Path("images/val/bees/d.jpg").read_bytes() == IMAGES["val/bees/d.jpg"]
    names = {"data", "images", "photos", "photos.csv", "set.zip"}
    assert {path.name for path in Path().iterdir()} == names


def test_a_member_larger_than_its_entry_in_the_zip_says_is_refused(verify, photos):
    with zipfile.ZipFile("set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in IMAGES.items():
            archive.writestr(name, b"\0" * 50_000_000 if name == "val/bees/d.jpg" else content)
        archive.getinfo("val/bees/d.jpg").file_size = len(IMAGES["val/bees/d.jpg"])
    with pytest.raises(UserError, match=r"damaged: val/bees/d\.jpg"):
        verify_images(photos, "set.zip", "images")


def test_all_differences_are_listed_up_to_a_limit(verify):
    extras = {f"train/ants/{number:02d}.jpg": b"x" for number in range(40)}
    with pytest.raises(UserError) as error:
        verify({"val/bees/d.jpg": b"short", **extras})
    assert "extra: set/train/ants/00.jpg" in str(error.value)
    assert "… and 24 more" in str(error.value)
    assert len(str(error.value).splitlines()) < 30


def test_links_and_repeated_members_are_refused(verify):
    link = zipfile.ZipInfo("set/val/bees/d.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    others = [(name, content) for name, content in IMAGES.items() if name != "val/bees/d.jpg"]
    with pytest.raises(UserError, match=r"changed: val/bees/d\.jpg \(11 bytes"):
        verify([*others, (link, "/etc/passwd")])
    with pytest.raises(UserError, match=r"extra: set/train/ants/again\.jpg"):
        verify([*IMAGES.items(), ("train/ants/again.jpg", IMAGES["train/ants/a.jpg"])])


@pytest.mark.parametrize(
    "name", ["../../evil.jpg", "/tmp/train/ants/../../evil.jpg", "train/../x/y.jpg"]
)
def test_nothing_is_written_outside_the_folder(verify, tmp_path, name):
    with contextlib.suppress(UserError):
        verify([*IMAGES.items(), (zipfile.ZipInfo(name), b"evil")])
    assert not [path for path in tmp_path.parent.rglob("*") if path.name in ("evil.jpg", "y.jpg")]


@pytest.mark.parametrize(
    "damage", [lambda zip: zip[:300], lambda zip: zip.replace("ä".encode(), b"\xff\xff")]
)
def test_a_damaged_archive_is_reported_with_the_command_that_fetches_it(verify, photos, damage):
    verify({**IMAGES, "train/ants/ä.gif": b""})
    Path("set.zip").write_bytes(damage(Path("set.zip").read_bytes()))
    with pytest.raises(UserError, match="set.zip is damaged.*\n.*dvc repro --force"):
        verify_images(photos, "set.zip", "images")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_is_found_whatever_the_compression(photos, method):
    write_zip(IMAGES, "set.zip", method=method)
    with zipfile.ZipFile("set.zip") as archive:
        start = archive.getinfo("set/train/ants/a.jpg").header_offset + 60
    damaged = bytearray(Path("set.zip").read_bytes())
    damaged[start : start + 200] = bytes(200)
    Path("set.zip").write_bytes(damaged)
    with pytest.raises(UserError, match=r"damaged: train/ants/a\.jpg"):
        verify_images(photos, "set.zip", "images")


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(place=st.integers(min_value=0), byte=st.integers(min_value=0, max_value=255))
def test_any_changed_byte_of_an_archive_is_found_or_harmless(tmp_path_factory, place, byte):
    folder = tmp_path_factory.mktemp("flipped")
    write_zip([(zipfile.ZipInfo(name), content) for name, content in IMAGES.items()], folder / "z")
    write_folder(IMAGES, folder / "photos")
    write_manifest(list_images(folder / "photos"), folder / "photos.csv")
    content = bytearray((folder / "z").read_bytes())
    content[place % len(content)] = byte
    (folder / "z").write_bytes(content)
    dataset = params.Dataset(folds=0, url="photos", manifest=str(folder / "photos.csv"))
    try:
        verify_images(dataset, folder / "z", folder / "images")
    except UserError:
        assert not (folder / "images").exists()
    else:
        for name, image in IMAGES.items():
            assert (folder / "images" / name).read_bytes() == image


def test_an_archive_of_photographs_is_not_used_as_the_synthetic_one(verify):
    verify(IMAGES)
    dataset = params.Dataset(folds=0, url="generated", manifest="none")
    with pytest.raises(UserError, match="dvc repro"):
        verify_images(dataset, "set.zip", "images")


# Images that are read


RED = {
    "CMYK": encode(Image.new("CMYK", (30, 20), (0, 255, 255, 0)), "jpeg", quality=100),
    "palette": encode(Image.new("RGB", (30, 20), "red").quantize(4), "png"),
    "opaque, with alpha": encode(Image.new("RGBA", (30, 20), (255, 0, 0, 255)), "png"),
    "TIFF": draw("red", "tiff"),
    "a single pixel": encode(Image.new("RGB", (1, 1), "red"), "png"),
}


@pytest.mark.parametrize("kind", RED)
def test_a_red_image_of_any_kind_is_verified_and_read_as_red(verify, kind):
    write_folder({"val/bees/d.jpg": RED[kind]}, "photos")
    write_manifest(list_images("photos"), "photos.csv")
    verify({**IMAGES, "val/bees/d.jpg": RED[kind]})
    pixels = np.asarray(read_image("images/val/bees/d.jpg"))
    red, green, blue = pixels.mean((0, 1))
    assert red > 250 and green < 5 and blue < 5


def test_a_photograph_taken_with_a_turned_camera_is_read_upright(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise by 90 degrees
    upright = Image.new("RGB", (20, 40), "black")
    upright.paste("white", (0, 0, 20, 20))
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    pixels = np.asarray(read_image(tmp_path / "turned.png"))
    assert pixels.shape == (40, 20, 3)
    assert pixels[:20].min() == 255 and pixels[20:].max() == 0


def test_the_index_lists_the_verified_images_upright_with_their_sizes_and_digests(photos):
    fetch_archive(photos, "archive.zip")
    manifest = verify_images(photos, "archive.zip", "images")
    index = read_index("images")
    assert {row.path: (row.bytes, row.sha256, row.group, "") for row in index.rows} == manifest
    assert {(row.width, row.height) for row in index.rows} == {(30, 20)}
    assert {row.phash for row in index.rows} == {"8000000000000000"}  # of a single colour
    assert index.classes == ["ants", "bees"] and index.labels("val") == [0, 1]
    assert index.names == {
        "train": ["train/ants/a.jpg", "train/bees/b.jpeg"],
        "val": ["val/ants/c.png", "val/bees/d.jpg"],
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: image.unlink(), "missing: train/ants/a.jpg"),
        (lambda image: image.write_bytes(b"x"), "changed: train/ants/a.jpg (1 bytes, not"),
        (lambda image: image.with_name("x.png").write_bytes(b"x"), "extra: train/ants/x.png"),
        (lambda image: Path("images/index.csv").unlink(), "missing: index.csv"),
        (lambda image: Path("images/index.csv").write_text("path\na\n"), "changed: index.csv"),
    ],
)
def test_images_that_changed_since_they_were_verified_are_not_read(verify, change, message):
    verify(IMAGES)
    change(Path("images/train/ants/a.jpg"))
    with pytest.raises(UserError) as error:
        read_index("images")
    assert f"images is not as it was verified:\n  {message}" in str(error.value)
    assert str(error.value).endswith("Restore the images with: dvc repro verify")


UNREADABLE = {
    "not a known format": b"no picture",
    "16 or 32 bits": encode(Image.new("I;16", (30, 20), 40_000), "png"),
    "Truncated File Read": IMAGES["train/ants/a.jpg"][:-300],
    "image file is truncated": draw("green", "png")[:60],
    "20000 x 20000 pixels: to decode it": encode(Image.new("1", (20_000, 20_000)), "png"),
    "1 x 60000 pixels: to resize it": encode(Image.new("RGB", (1, 60_000)), "png"),
    "HEIC, damaged": b"\0\0\0\x18ftypheic" + bytes(99),
    "an empty file": b"",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    "a pointer of git-annex": b"/annex/objects/SHA256E-s9--00.jpg\n",
}


@pytest.mark.parametrize("why", UNREADABLE)
def test_an_image_that_cannot_be_read_correctly_is_named(verify, why):
    content = UNREADABLE[why]
    write_folder({"val/bees/d.jpg": content}, "photos")
    with pytest.raises(UserError, match=rf"val/bees/d\.jpg: .*({why})") as error:
        write_manifest(list_images("photos"), "photos.csv")
    assert "Replace or remove" in str(error.value)
    table = Path("photos.csv").read_text().splitlines()[:-1]
    table.append(f"val/bees/d.jpg,{len(content)},{hashlib.sha256(content).hexdigest()}")
    Path("photos.csv").write_text("\n".join(table))
    with pytest.raises(UserError, match=rf"cannot be read:\n  val/bees/d\.jpg: .*({why})") as error:
        verify({**IMAGES, "val/bees/d.jpg": content})
    # The archive is as the manifest says: to fetch it again would not help.
    assert "headswap manifest photos --output photos.csv" in str(error.value)
    assert "fetch" not in str(error.value)


# Manifests


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
def test_a_wrong_line_of_a_manifest_is_named(line):
    right = "train/ants/a.jpg,1," + "0" * 64
    with pytest.raises(UserError) as error:
        parse_manifest(f"path,bytes,sha256\n{right}\n{line}\n".encode(), "photos.csv", "")
    assert "photos.csv" in str(error.value)
    assert f"line 3: {line[:20]}" in str(error.value) and "line 2" not in str(error.value)


@pytest.mark.parametrize("text", ["", "path,bytes,sha256\n", "path,size\ntrain/ants/a.jpg,1\n"])
def test_a_manifest_without_images_or_columns_is_refused(text):
    with pytest.raises(UserError, match=r"photos\.csv is not a manifest"):
        parse_manifest(text.encode(), "photos.csv", "")


@pytest.mark.parametrize("content", [b"path,bytes,sha256\n\xff", b'path\n"' + b"x" * 200_000])
def test_a_manifest_that_is_not_a_table_is_refused(verify, content):
    Path("photos.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"photos\.csv"):
        verify(IMAGES)


def test_a_missing_manifest_is_reported_with_the_command_that_makes_it(verify):
    Path("photos.csv").unlink()
    with pytest.raises(UserError, match=r"there is no photos\.csv\.\n.*headswap manifest FOLDER"):
        verify(IMAGES)


def test_a_manifest_with_a_class_in_one_split_only_is_refused(verify):
    with Path("photos.csv").open("a") as file:
        file.write(f"train/wasps/e.jpg,1,{'0' * 64}\n")
    with pytest.raises(UserError, match=r"no images in val/wasps"):
        verify(IMAGES)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(UserError, match="Lay the images out as <class>/<image>"):
        write_manifest(list_images(tmp_path), tmp_path / "photos.csv")


def test_a_folder_with_a_class_in_one_split_only_is_refused(photos):
    write_folder({"val/wasps/e.jpg": draw("black")}, "photos")
    with pytest.raises(UserError, match="photos has no images in train/wasps"):
        write_manifest(list_images("photos"), "photos.csv")


def test_a_folder_with_a_single_class_is_refused(photos):
    for path in Path("photos").glob("*/bees/*"):
        path.unlink()
    with pytest.raises(UserError, match="single class, ants"):
        write_manifest(list_images("photos"), "photos.csv")


def test_near_duplicates_and_classes_of_one_image_are_quality_issues():
    hashes = {
        **{"train/a/1.jpg": "00ff", "train/a/2.jpg": "1111", "train/b/3.jpg": "1113"},
        **{"val/a/4.jpg": "00fe", "val/b/5.jpg": "2222", "val/b/6.jpg": "eeee"},
        **{"val/b/7.jpg": "ee11", "val/b/8.jpg": "ee15"},
    }
    assert list(find_quality_issues({n: h * 4 for n, h in hashes.items()}).items()) == [
        ("near-duplicates in two splits", ["train/a/1.jpg, val/a/4.jpg"]),
        ("near-duplicates in two classes", ["train/a/2.jpg, train/b/3.jpg"]),
        ("a class of one image", ["train/b", "val/a"]),
    ]


# Archives that are fetched


def test_a_folder_of_images_is_fetched_and_verified(photos):
    assert fetch_archive(photos, "archive.zip") == "photos"
    assert len(verify_images(photos, "archive.zip", "images")) == 4


def test_names_with_commas_quotes_and_accents_are_fetched_and_verified(photos):
    for name in ('ant, "red".jpg', "fourmi été 蟻.jpg", "a" * 250 + ".jpg"):
        write_folder({f"train/ants/{name}": IMAGES["train/ants/a.jpg"]}, "photos")
    write_manifest(list_images("photos"), "photos.csv")
    fetch_archive(photos, "archive.zip")
    assert len(verify_images(photos, "archive.zip", "images")) == 4 + 3


def test_a_file_that_is_not_a_zip_does_not_replace_the_archive(photos):
    write_zip(IMAGES, "archive.zip")
    before = Path("archive.zip").read_bytes()
    Path("page.html").write_text("<p>log in first</p>")
    with pytest.raises(UserError, match=r"page\.html: not a zip archive"):
        fetch_archive(photos.model_copy(update={"url": "page.html"}), "archive.zip")
    assert Path("archive.zip").read_bytes() == before


@pytest.mark.parametrize("url", ["photos", "photos.zip"])
def test_changed_local_images_are_fetched_again_and_differ_from_their_old_manifest(photos, url):
    dataset = photos.model_copy(update={"url": url})

    def fetch_and_verify():
        files = {name: Path(path).read_bytes() for name, path in find_images("photos").items()}
        write_zip(files, "photos.zip")
        assert fetch_archive(dataset, "archive.zip") == url
        return verify_images(dataset, "archive.zip", "images")

    assert len(fetch_and_verify()) == 4
    write_folder({"train/ants/a.jpg": draw("yellow")}, "photos")
    with pytest.raises(UserError, match=r"changed: train/ants/a\.jpg"):
        fetch_and_verify()
    write_manifest(list_images("photos"), "photos.csv")
    assert len(fetch_and_verify()) == 4


def test_synthetic_images_are_the_same_bytes_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "COUNTS", {"train": 3, "val": 2})
    dataset = params.Dataset(folds=0, url="generated", manifest="none")
    for name in ("first.zip", "second.zip"):
        fetch_archive(dataset, tmp_path / name)
    assert (tmp_path / "first.zip").read_bytes() == (tmp_path / "second.zip").read_bytes()
    manifest = verify_images(dataset, tmp_path / "first.zip", tmp_path / "images")
    assert count_images(manifest) == {
        **{"images": 10, "train": 6, "train_ants": 3, "train_bees": 3},
        **{"val": 4, "val_ants": 2, "val_bees": 2},
    }


@contextlib.contextmanager
def serve(folder):
    """Serve a folder over HTTP; yield its address."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def damage(path):
    content = bytearray(path.read_bytes())
    content[60:70] = bytes(10)
    path.write_bytes(content)


def remove_an_image(path):
    write_zip(list(IMAGES.items())[1:], path)


def add_an_image(path):
    write_zip({**IMAGES, "train/ants/e.jpg": b"x"}, path)


def truncate(path):
    path.write_bytes(path.read_bytes()[:300])


def test_an_archive_that_fits_the_manifest_is_not_downloaded_again(photos):
    dataset = photos.model_copy(update={"url": f"{NOWHERE}/set.zip"})
    write_zip(IMAGES, "archive.zip")
    before = Path("archive.zip").stat()
    assert fetch_archive(dataset, "archive.zip") is None
    assert Path("archive.zip").stat() == before


@pytest.mark.parametrize("change", [damage, truncate, remove_an_image, add_an_image])
def test_an_archive_that_does_not_fit_the_manifest_is_downloaded_again(photos, monkeypatch, change):
    monkeypatch.setattr(download, "RETRIES", 0)
    write_zip(IMAGES, "archive.zip")
    Path("served").mkdir()
    write_zip(IMAGES, "served/set.zip")
    change(Path("archive.zip"))
    with pytest.raises(UserError):
        verify_images(photos, "archive.zip", "images")
    with pytest.raises(UserError, match="could not be downloaded"):
        fetch_archive(photos.model_copy(update={"url": f"{NOWHERE}/set.zip"}), "archive.zip")
    with serve("served") as address:
        dataset = photos.model_copy(update={"url": f"{address}/set.zip"})
        assert fetch_archive(dataset, "archive.zip") == f"{address}/set.zip"
    assert len(verify_images(dataset, "archive.zip", "images")) == 4


def dvc(*arguments, code=0):
    return sh("dvc", *arguments, code=code, no_proxy="127.0.0.1")


@pytest.mark.slow
def test_an_edit_of_code_downloads_nothing_and_a_damaged_archive_is_fetched_by_force(workspace):
    dvc("config", "core.no_scm", "true")
    write_folder(IMAGES, "photos")
    write_manifest(list_images("photos"), "data/photos.csv")
    Path("served").mkdir()
    write_zip(IMAGES, "served/set.zip")
    archive = Path("data/archive.zip")
    with serve("served") as address:
        edit(dataset={"url": f"{address}/set.zip", "manifest": "data/photos.csv"})
        dvc("repro", "verify")
        archive.unlink()  # DVC may have linked it
        archive.write_bytes(b"damaged")
        output = dvc("repro", "--force", "--single-item", "fetch")
        assert f"from {address}/set.zip" in output
    assert archive.read_bytes() == Path("served/set.zip").read_bytes()
    for module in Path("src/headswap").rglob("*.py"):
        module.write_text(module.read_text() + "# A comment.\n")
    output = dvc("repro", "verify")  # the server is gone
    assert "data/archive.zip already holds the images of data/photos.csv" in output
    assert archive.read_bytes() == Path("served/set.zip").read_bytes()
    archive.unlink()
    archive.write_bytes(b"damaged")
    assert "set.zip: no connection" in dvc("repro", "verify", code=255)


@pytest.mark.slow
def test_after_a_change_of_local_images_their_new_manifest_is_enough(workspace):
    dvc("config", "core.no_scm", "true")
    edit(dataset={"url": "photos", "manifest": "data/photos.csv"})
    for colour in ("red", "yellow"):
        write_folder({**IMAGES, "train/ants/a.jpg": draw(colour)}, "photos")
        write_manifest(list_images("photos"), "data/photos.csv")
        dvc("repro", "verify")
        assert Path("data/images/train/ants/a.jpg").read_bytes() == draw(colour)


@pytest.mark.skipif("HEADSWAP_MIRROR" not in os.environ, reason="set HEADSWAP_MIRROR")
def test_the_published_photographs_fit_the_manifest(tmp_path):
    dataset = params.load(ROOT / "params.yaml").dataset.model_copy(
        update={"manifest": str(ROOT / "data/manifest.csv")}
    )
    fetch_archive(dataset, tmp_path / "set.zip")
    counts = count_images(verify_images(dataset, tmp_path / "set.zip", tmp_path / "images"))
    assert counts == read_json(ROOT / "data/published/dataset.json")
    assert (counts["train_ants"], counts["val_bees"]) == (123, 83)


def test_check_names_a_missing_folder_and_a_missing_manifest(photos):
    check_dataset(photos)
    for change, message in (
        ({"url": "fotos"}, r"dataset\.url: there is no fotos here"),
        ({"manifest": "fotos.csv"}, r"dataset\.manifest: there is no fotos\.csv"),
    ):
        with pytest.raises(UserError, match=message):
            check_dataset(photos.model_copy(update=change))


def test_photographs_and_a_manifest_that_nobody_touched_are_not_read_again(photos, monkeypatch):
    check_dataset(photos)
    with monkeypatch.context() as patch:
        patch.setattr(changes, "read_manifest", None)
        patch.setattr(changes, "read_bytes", None)
        check_dataset(photos)
    manifest = Path(photos.manifest)
    manifest.write_text(re.sub("[0-9a-f]{64}", 64 * "0", manifest.read_text(), count=1))
    for _ in range(2):
        with pytest.raises(UserError, match="changed: "):
            check_dataset(photos)
