"""Own photographs: listed as they lie, identified by content, split, and never lost."""

import itertools
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import IMAGES, ROOT, draw, edit, encode, headswap, write_folder, write_zip
from PIL import Image
from ruamel.yaml import YAML

from headswap import params
from headswap.data.changes import check_dataset, check_photographs
from headswap.data.listing import list_images
from headswap.data.manifest import parse_manifest, read_manifest
from headswap.data.synthetic import draw_insect
from headswap.data.verify import fetch_archive, verify_images
from headswap.data.writing import write_manifest
from headswap.errors import UserError
from headswap.images.index import read_index
from headswap.images.reading import read_image
from headswap.io import sha256

COLOURS = [(40 * i, 250 - 20 * i, 7 * i) for i in range(6)]
UNSPLIT = {
    f"{label}/{i}.png": encode(Image.new("RGB", (8, 8 + n), colour), "png")
    for n, label in enumerate(("ants", "bees"))
    for i, colour in enumerate(COLOURS)
}


# Nothing is lost


@pytest.mark.parametrize(
    "url", ["data/images", "data/archive.zip", "runs/../models/x", ".", "link", "Data/Images"]
)
def test_photographs_where_a_stage_writes_are_refused(empty, url):
    write_folder(IMAGES, "data/images")
    Path("link").symlink_to("data/images")
    write_folder(IMAGES, "models/x")
    write_folder(IMAGES, "Data/Images")  # which some file systems take for data/images
    write_zip(IMAGES, "data/archive.zip")
    write_manifest_elsewhere = Path("m.csv")
    write_manifest_elsewhere.write_text("path,bytes,sha256\n")
    with pytest.raises(UserError, match=r"dataset\.url: .* overlaps"):
        check_dataset(params.Dataset(folds=0, url=url, manifest="m.csv"))
    if Path(url).is_dir():
        with pytest.raises(UserError, match="overlaps"):
            write_manifest(list_images(url), "n.csv")
        assert not Path("n.csv").exists()


def test_the_shipped_manifest_is_not_overwritten_by_default(workspace):
    before = Path("data/manifest.csv").read_bytes()
    write_folder(IMAGES, "manifest")
    assert "data/photos.csv lists 4 images." in headswap("manifest", "manifest")[0]
    assert Path("data/manifest.csv").read_bytes() == before


# What is an image, what is a class


def test_leftovers_are_never_classes_or_images_and_are_reported(empty):
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX", "$RECYCLE.BIN"):
        for split in ("train", "val"):
            write_folder({f"{split}/{name}/a.jpg": IMAGES["train/ants/a.jpg"]}, "photos")
    write_folder({**IMAGES, "train/ants/Thumbs.db": b"x", "train/ants/._a.jpg": b"x"}, "photos")
    write_folder({"train/ants/.jpg": b"x", "train/ants/x.jpg/y": b"x", "x.jpg": b"x"}, "photos")
    Path("photos/train/wasps").mkdir()
    Path("photos/train/ants/gone.jpg").symlink_to("nowhere")
    Path("elsewhere").mkdir()
    Path("photos/train/bees").rename("elsewhere/bees")
    Path("photos/train/bees").symlink_to("../../elsewhere/bees")
    listing = list_images("photos")
    assert list(listing.photographs.index) == sorted(IMAGES)
    told = [name for names in listing.left_out.values() for name in names]
    for name in ("train/@eaDir/", "val/.ipynb_checkpoints/", "train/ants/Thumbs.db"):
        assert name in told
    for name in (
        "train/ants/.jpg",
        "train/ants/gone.jpg",
        "train/ants/x.jpg/y",
        "train/wasps/",
        "x.jpg",
    ):
        assert name in told


def test_links_are_followed_as_often_as_there_are_any_and_those_to_a_folder_above_end(empty):
    write_folder(IMAGES, "photos")
    Path("photos/train/ants/up").symlink_to("../..")
    for split in ("train", "val"):
        Path(f"photos/{split}/wasps").symlink_to("../train/bees")
    write_manifest(list_images("photos"), "photos.csv")
    dataset = params.Dataset(folds=0, url="photos", manifest="photos.csv")
    fetch_archive(dataset, "archive.zip")
    assert len(verify_images(dataset, "archive.zip", "images")) == 4 + 2


def test_an_unsplit_folder_is_split_by_class_reproducibly_and_twins_stay_together(empty):
    twins = {"ants/twin.png": UNSPLIT["ants/0.png"], "bees/twin.png": UNSPLIT["bees/1.png"]}
    write_folder({**UNSPLIT, **twins}, "photos")
    with pytest.raises(UserError, match="headswap manifest photos --val 0.3 --seed 0"):
        write_manifest(list_images("photos"), "a.csv")
    first = write_manifest(list_images("photos"), "a.csv", 0.3, 0)
    assert write_manifest(list_images("photos"), "b.csv", 0.3, 0) == first
    assert any(
        write_manifest(list_images("photos"), "b.csv", 0.3, seed) != first for seed in (1, 2, 3)
    )
    sides = {}
    for name, entry in first.items():
        sides.setdefault(entry.sha256, set()).add(name.split("/")[0])
    assert all(len(side) == 1 for side in sides.values())
    for label in ("ants", "bees"):
        assert sum(name.startswith(f"val/{label}/") for name in first) in (1, 2)
    write_folder({"ants/new.png": draw("white")}, "photos")
    for seed in range(4):
        before = write_manifest(list_images("photos"), "c.csv", 0.3, seed)
        Path("photos/ants/new.png").unlink(missing_ok=True)
        write_folder({"bees/newer.png": draw("black")}, "photos")
        again = write_manifest(list_images("photos"), "c.csv")
        kept = {name: entry for name, entry in before.items() if "ants/new.png" not in name}
        assert kept.items() <= again.items()


def test_other_names_of_the_splits_are_taken_and_said(empty):
    renamed = {
        n.replace("train/", "Train/").replace("val/", "valid/"): c for n, c in IMAGES.items()
    }
    write_folder(renamed, "photos")
    listing = list_images("photos")
    assert {*listing.photographs["split"]} == {"train", "val"}
    assert listing.notes == ["Train/ is taken for train/", "valid/ is taken for val/"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train/ants/b\\c.jpg": b"x"}, "or has a backslash"),
        ({"train/ants/b\rc.jpg": b"x"}, "or a control character"),
        ({"train/ants/b\udcff.jpg": b"x"}, r"b\\xff\.jpg is not UTF-8"),
        ({"train/wasps/a.heic": b"x"}, "train/wasps/: 1 of 1 photographs are HEIC: save them"),
        ({"train/Ants/a.jpg": b"x"}, "in case only: Ants, ants"),
    ],
)
def test_what_cannot_be_listed_is_reported_with_what_to_do(empty, no_heic, files, message):
    write_folder({**IMAGES, **files}, "photos")
    with pytest.raises(UserError, match=message):
        write_manifest(list_images("photos"), "photos.csv")


def test_a_missing_folder_and_an_archive_are_no_folders(empty):
    write_zip(IMAGES, "set.zip")
    for name in ("nowhere", "set.zip"):
        with pytest.raises(UserError, match=rf"There is no folder {name}(.|\n)*unpacked"):
            list_images(name)


# Images by content


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"top/folder/{name}",
        lambda name: name.replace("/", "\\"),
        lambda name: name.split("/")[-1],
        lambda name: f"{name.split('/')[1]}/ö{name.split('/')[2]}",
    ],
)
def test_an_archive_with_the_right_bytes_is_right_whatever_its_names(empty, rename):
    write_folder(IMAGES, "photos")
    write_manifest(list_images("photos"), "photos.csv")
    with zipfile.ZipFile("set.zip", "w") as archive:
        for name, content in IMAGES.items():
            archive.writestr(rename(name), content)
    verify_images(
        params.Dataset(folds=0, url="set.zip", manifest="photos.csv"), "set.zip", "images"
    )
    for name, content in IMAGES.items():
        assert Path("images", name).read_bytes() == content


def test_a_manifest_in_capitals_with_semicolons_and_dots_is_read():
    lines = [
        f"./{split}/{label}/1.jpg;5;{'AB' * 32}" for split in ("train", "val") for label in "ab"
    ]
    manifest = parse_manifest("\n".join(["path;bytes;sha256", *lines]).encode(), "m.csv", "")
    assert manifest["train/a/1.jpg"] == (5, "ab" * 32, "", "")


def test_a_local_archive_is_not_shadowed_by_the_mirrors(empty, monkeypatch):
    write_folder(IMAGES, "photos")
    write_manifest(list_images("photos"), "photos.csv")
    Path("mirror").mkdir()
    Path("mirror/set.zip").write_bytes(b"x")
    write_zip(IMAGES, "set.zip")
    monkeypatch.setenv("HEADSWAP_MIRROR", str(empty / "mirror"))
    dataset = params.Dataset(folds=0, url="set.zip", manifest="photos.csv")
    assert fetch_archive(dataset, "archive.zip") == "set.zip"


@pytest.mark.parametrize(
    "url", ["file:///x.zip", "s3://b/x.zip", "ftp://x/x.zip", "x.tar.gz", "~nosuchuser/x"]
)
def test_an_address_that_cannot_be_fetched_is_refused_with_a_remedy(empty, url):
    with pytest.raises(UserError, match="Fetch and unpack it, set|there is no ~nosuch"):
        check_dataset(params.Dataset(folds=0, url=url, manifest="m.csv"))


# What is read


def test_transparent_pixels_are_laid_over_white_and_avif_is_read(empty):
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save("x.png")
    assert np.asarray(read_image("x.png")).min() == 255
    Image.new("RGB", (9, 9), "red").save("x.avif")
    assert np.asarray(read_image("x.avif"))[..., 0].min() > 200


def test_files_of_many_frames_or_pages_are_counted_and_those_of_cameras_are_not(workspace):
    frames = [draw_insect("ants", np.random.default_rng(number)) for number in range(2)]
    forms = {"a.jpg": "gif", "b.webp": "webp", "c.tif": "tiff", "d.png": "png", "e.jpg": "mpo"}
    write_folder(IMAGES, "photos")
    for name, form in forms.items():
        frames[0].save(f"photos/train/ants/1{name}", form, save_all=True, append_images=frames[1:])
    said = "Of 4 animated or many-page files the first frame or page is used.\n"
    assert said in headswap("manifest", "photos", "--use")[0]
    headswap("fetch")
    assert said in headswap("verify")[0]
    first = np.asarray(read_image("photos/train/ants/1d.png"))
    assert (first == np.asarray(frames[0])).all()


def test_photographs_that_git_annex_did_not_bring_are_named_as_such(empty):
    write_folder(IMAGES, "photos")
    Path("photos/train/ants/x.jpg").symlink_to("../../.git/annex/objects/aa/bb/SHA256E-s9--x.jpg")
    (why,) = list_images("photos").left_out.keys() - {"not directly in a class's folder"}
    assert why == "of git-annex: bring them with git annex get"


def test_a_postscript_file_named_as_a_photograph_is_not_opened(empty):
    Image.new("RGB", (9, 9)).save("x.eps")
    Path("x.eps").rename("x.jpg")
    with pytest.raises(UserError, match="x.jpg cannot be read as an image: not a known format"):
        read_image("x.jpg")


# The command


def test_manifest_use_writes_the_parameters_and_keeps_comments(workspace):
    write_folder(UNSPLIT, "my photos")
    edit(dataset={"url": "https://example.org/a/long/address/of/photographs.zip"})
    text = Path("params.yaml").read_text().replace("photographs.zip", "photographs.zip # whence")
    Path("params.yaml").write_text("# A comment.\n" + text)
    printed = headswap("manifest", "my photos", "--val", "0.3", "--use")[0]
    assert "Always answering" in printed and "ants" in printed
    assert params.load().dataset.url == "my photos"
    assert Path("params.yaml").read_text().startswith("# A comment.\n")
    assert "\n  url: my photos # whence\n" in Path("params.yaml").read_text()
    last = "params.yaml names my photos and data/my photos.csv. Next: dvc repro"
    assert printed.splitlines()[-1] == last
    assert headswap("manifest", "my photos")[0].splitlines()[-1] == last
    printed = headswap("manifest", "my photos", "--val", "0.3", "--output", "data/other.csv")[0]
    read = YAML(typ="safe").load("\n".join(printed.splitlines()[-2:]))
    assert read == {"url": "my photos", "manifest": "data/other.csv"}
    assert len(read_manifest("data/my photos.csv")) == 12


# A change is noticed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: Path("photos/ants/1.png").unlink(), "missing: "),
        (lambda: Path("photos/ants/n.png").write_bytes(draw("white", "png")), "extra: "),
        (lambda: Path("photos/ants/1.png").write_bytes(draw("white", "png")), "changed: "),
        (lambda: Path("photos/ants/1.png").rename("photos/bees/9.png"), "is in bees now"),
    ],
)
def test_a_change_of_the_photographs_is_noticed_and_taken_in_by_one_command(empty, change, message):
    write_folder(UNSPLIT, "photos")
    write_manifest(list_images("photos"), "photos.csv", 0.3)
    dataset = params.Dataset(folds=0, url="photos", manifest="photos.csv")
    check_photographs(dataset)
    change()
    with pytest.raises(UserError, match=message) as error:
        check_photographs(dataset)
    assert "headswap manifest photos --output photos.csv" in str(error.value)
    write_manifest(list_images("photos"), "photos.csv")
    check_photographs(dataset)


def test_a_clone_without_the_photographs_is_no_error(empty):
    write_folder(IMAGES, "photos")
    write_manifest(list_images("photos"), "photos.csv")
    Path("photos").rename("moved")
    dataset = params.Dataset(folds=0, url="photos", manifest="photos.csv")
    with pytest.raises(UserError, match="there is no photos here"):
        check_dataset(dataset)
    lock = {"stages": {"fetch": {"params": {"params.yaml": {"dataset.url": "photos"}}}}}
    YAML().dump(lock, Path("dvc.lock"))
    check_dataset(dataset)
    check_photographs(dataset)


@pytest.mark.parametrize("packed", [True, False])
def test_large_photographs_are_stored_reduced_beside_the_originals_digests(workspace, packed):
    random = np.random.default_rng(0)
    turned = Image.Exif()
    turned[0x0112] = 6
    sizes = {"large.jpg": (1600, 1200), "large.png": (1000, 800), "small.jpg": (900, 768)}
    stored_sizes = {"large.jpg": (768, 1024), "large.png": (960, 768), "small.jpg": (900, 768)}
    for split, label, name in itertools.product(("train", "val"), ("a", "b"), sizes):
        path = Path("photos", split, label, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = random.integers(0, 256, (15, 20, 3), np.uint8)
        exif = {"exif": turned} if name == "large.jpg" else {}
        Image.fromarray(noise).resize(sizes[name], Image.Resampling.BICUBIC).save(path, **exif)
    originals = {
        path.relative_to("photos").as_posix(): path for path in Path("photos").rglob("*.*")
    }
    headswap("manifest", "photos", "--use")
    if not packed:  # an archive that another program wrote
        write_zip({name: path.read_bytes() for name, path in originals.items()}, "photos.zip")
        edit(dataset={"url": "photos.zip"})
    headswap("fetch")
    headswap("verify")
    rows = {row.path: row for row in read_index().rows}
    assert rows.keys() == originals.keys()
    for name, path in originals.items():
        row, stored = rows[name], Path("data/images", name)
        assert (row.bytes, row.sha256) == (path.stat().st_size, sha256(path))
        assert (row.stored_bytes, row.stored_sha256) == (stored.stat().st_size, sha256(stored))
        with Image.open(stored) as image:
            assert image.size == stored_sizes[path.name]
            assert image.format == {".jpg": "JPEG", ".png": "PNG"}[path.suffix]
        assert (row.sha256 == row.stored_sha256) == (path.name == "small.jpg")
        small = [np.asarray(read_image(one).resize((64, 64)), float) for one in (path, stored)]
        assert abs(small[0] - small[1]).mean() < 1.5
    edit(image={"shrink": False})
    headswap("fetch")
    headswap("verify")
    for name, path in originals.items():
        assert Path("data/images", name).read_bytes() == path.read_bytes()


def test_a_clone_has_shrunk_photographs_in_its_archive_and_the_published_stay(workspace):
    for split, label in itertools.product(("train", "val"), ("a", "b")):
        path = Path("photos", split, label, "1.jpg")
        path.parent.mkdir(parents=True)
        Image.new("RGB", (900, 800), (len(split) * 20, 90, ord(label))).save(path)
    headswap("manifest", "photos", "--use")
    headswap("fetch")
    Path("photos").rename("elsewhere")
    assert "nothing to download" in headswap("fetch")[0]
    headswap("verify")
    assert {min(row.width, row.height) for row in read_index().rows} == {768}
    edit(image={"shrink": False})
    assert "does not hold the images" in headswap("verify", code=1)[1]
    assert not params.load(ROOT / "params.yaml").shrinks
