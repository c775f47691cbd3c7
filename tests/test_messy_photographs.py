"""Three folders as people have them, from a phone, the web and a laboratory; and odd files."""

import contextlib
import os
import re
import shutil
import struct
import subprocess
import unicodedata
import zlib
from pathlib import Path

import conftest
import numpy as np
import pytest
from conftest import IMAGES, draw, edit, encode, sh, write_folder, write_zip
from PIL import ExifTags, Image

from headswap import params
from headswap.data.listing import list_images
from headswap.data.manifest import read_manifest
from headswap.data.synthetic import draw_insect
from headswap.data.verify import verify_images
from headswap.data.writing import write_manifest
from headswap.errors import UserError
from headswap.images.reading import read_image

HEIC = b"\0\0\0\x18ftypheic" + bytes(99)
JPEG = draw("red")


def headswap(*arguments, code=0):
    """Run a command; return all that it printed."""
    return "".join(conftest.headswap(*arguments, code=code))


def photograph(number, form="jpeg", mode="RGB", **options):
    image = draw_insect("ants" if number % 2 else "bees", np.random.default_rng(number))
    return encode(image.convert(mode), form, **options)


def prepare(*arguments):
    """Write the manifest of ``photos`` and use it; fetch and verify; return what was printed."""
    printed = headswap("manifest", "photos", *arguments, "--use")
    assert "Next: dvc repro" in printed
    for command in ("check", "fetch", "verify"):
        headswap(command)
    unpacked = {p.relative_to("data/images").as_posix() for p in Path("data/images").glob("*/*/*")}
    unpacked |= {p.relative_to("data").as_posix() for p in Path("data/test").glob("*/*")}
    listed = read_manifest("data/photos.csv").items()
    assert unpacked == {name for name, entry in listed if not entry.left_out}
    return printed


# Three folders


def test_the_photographs_of_a_phone(workspace, no_heic):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for number, label in enumerate(("Ameisen im Garten 🐜", unicodedata.normalize("NFD", "Größe"))):
        for i in range(4):
            write_folder({f"{label}/IMG_{i:04d}.jpg": photograph(2 * i + number)}, "photos")
        twin = Path(f"photos/{label}/IMG_0001.jpg").read_bytes()
        others = ("IMG_3.HEIC", "IMG_4.MOV", ".trash/1.jpg", ".thumbnails/1.jpg")
        write_folder({f"{label}/IMG_0001(1).jpg": twin}, "photos")
        write_folder({f"{label}/{name}": HEIC for name in others}, "photos")
    turned = encode(Image.new("RGB", (90, 60), "green"), "jpeg", exif=exif)
    write_folder({"Ameisen im Garten 🐜/🐝 groß.jpg": turned, ".nomedia": b""}, "photos")
    write_folder({"Screenshots/a.heic": HEIC}, "photos")
    refused = headswap("manifest", "photos", "--val", "0.3", code=1)
    assert "Screenshots/: 1 of 1 photographs are HEIC: save them as JPEG" in refused
    Path("photos/Screenshots").rename("Screenshots")  # "or move them out"
    printed = prepare("--val", "0.3")
    assert "data/photos.csv lists 11 images." in printed
    assert "4 photographs count as of one group" in printed
    for name in (".nomedia", "Ameisen im Garten 🐜/.trash/", "Ameisen im Garten 🐜/IMG_3.HEIC"):
        assert f"\n  {name}\n" in printed
    (found,) = Path("data/images").rglob("🐝 groß.jpg")
    image = read_image(found)
    assert image.width < image.height


def test_what_a_script_collected_on_the_web(workspace):
    kinds = [("jpeg", "JPG"), ("webp", "webp"), ("png", "PNG"), ("avif", "avif"), ("gif", "jpg")]
    wrong = {"page.jpg": b"<!DOCTYPE html>", "cut.jpg": JPEG[:-300], "empty.jpg": b""}
    for number, label in enumerate(("ants", "bees")):
        for i, (form, ending) in enumerate(kinds):
            write_folder({f"{label}/{i}.{ending}": photograph(2 * i + number, form)}, "photos")
        more = {
            "alpha.png": photograph(20 + number, "png", "RGBA"),
            "cmyk.jpg": photograph(22 + number, mode="CMYK"),
            "n" * 250 + ".jpg": photograph(24 + number),
            "x.jpg?w=300": JPEG,
            "moving.gif": JPEG,
            "same.jpg": photograph(26),
            **wrong,
        }
        write_folder({f"{label}/{name}": content for name, content in more.items()}, "photos")
    refused = headswap("manifest", "photos", "--val", "0.3", code=1)
    assert "6 images that cannot be read" in refused and "a web page" in refused
    for name in re.findall(r"^  (\S+): ", refused, re.MULTILINE):  # "Replace or remove them"
        Path("photos", name).unlink()
    printed = prepare("--val", "0.3")
    assert "data/photos.csv lists 18 images." in printed
    assert ".jpg?w=300, no name of an image (2)" in printed
    assert "near-duplicates in two classes (1)" in printed


def test_the_network_drive_of_a_laboratory(workspace):
    for split, count in (("Train", 4), ("valid", 2), ("test", 1)):
        for number, label in enumerate(("ants", "Bees" if split == "valid" else "bees")):
            images = {f"{i}.tif": photograph(2 * i + number, "tiff") for i in range(count)}
            left = {"@eaDir/0.tif/S.jpg": JPEG, "Thumbs.db": b"x", ".DS_Store": b"x"}
            for name, content in {**images, **left, "._0.tif": b"x"}.items():
                write_folder({f"{split}/{label}/{name}": content}, "photos")
    deep = encode(Image.new("I;16", (30, 20), 40_000), "tiff")
    write_folder({"Train/ants/deep.tif": deep, "$RECYCLE.BIN/x.jpg": JPEG}, "photos")
    Path("photos/Train/bees").rename("elsewhere")
    Path("photos/Train/bees").symlink_to(Path("elsewhere").absolute())
    refused = headswap("manifest", "photos", code=1)
    assert "in case only: Bees, bees" in refused
    Path("photos/valid/Bees").rename("photos/valid/bees")  # "under one name"
    refused = headswap("manifest", "photos", code=1)
    assert "\n  Train/ants/deep.tif: 16 or 32 bits a pixel" in refused
    Path("photos/Train/ants/deep.tif").unlink()
    printed = prepare()
    assert "data/photos.csv lists 14 images." in printed
    assert "Train/ is taken for train/\nvalid/ is taken for val/" in printed
    for name in ("$RECYCLE.BIN/", "Train/ants/@eaDir/", "Train/ants/._0.tif"):
        assert f"\n  {name}\n" in printed


def test_git_add_takes_no_photograph(workspace):
    write_folder(IMAGES, "photos")
    prepare()
    for words in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *words], check=True)
    files = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout
    assert "data/photos.csv" in files
    assert not [name for name in files.splitlines() if name.endswith((".jpg", ".jpeg", ".zip"))]


# Images that are no longer as they were verified


@pytest.mark.slow
def test_images_that_changed_since_they_were_verified_are_not_trained_on(workspace):
    sh("dvc", "config", "--local", "core.no_scm", "true")
    sh("dvc", "repro", "-q", "verify")
    headswap("weights", "tiny")
    edit(seeds=[0], train={"epochs": 1})
    Path("data/images/train/ants/000.png").write_bytes(JPEG)
    for command in ("train tiny frozen", "embed tiny"):
        refused = headswap(*command.split(), code=1)
        assert "data/images is not as it was verified:\n  changed: train/ants/000.png" in refused
    sh(*refused.rpartition("with: ")[2].split())
    headswap("train", "tiny", "frozen")
    shutil.rmtree("data/images")
    for command in ("train tiny frozen", "embed tiny"):
        refused = headswap(*command.split(), code=1)
        assert "There is no data/images yet.\nMake it" in refused


# Odd files and file systems


def as_another_user(function):
    """Return the message of the UserError that a function raises for a user without rights."""
    if os.geteuid() != 0:
        with pytest.raises(UserError) as error:
            function()
        return str(error.value)
    read, write = os.pipe()
    if not (child := os.fork()):
        with contextlib.suppress(BaseException):
            os.setresuid(65534, 65534, 65534)
            try:
                function()
            except UserError as error:
                os.write(write, str(error).encode())
        os._exit(0)
    os.close(write)
    with open(read) as pipe:
        message = pipe.read()
    os.waitpid(child, 0)
    return message


@pytest.mark.parametrize("place", ["photos/train", "photos/val/bees", "photos/val/bees/d.jpg"])
def test_what_may_not_be_read_is_named_with_a_remedy(empty, place):
    for folder in (empty, *empty.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    write_folder(IMAGES, "photos")
    Path(place).chmod(0)
    message = as_another_user(lambda: write_manifest(list_images("photos"), "photos.csv"))
    Path(place).chmod(0o755)
    assert f"{place}" in message and "cannot be read: Permission denied" in message
    assert re.search("[Mm]ake it readable|Replace or remove", message)
    write_manifest(list_images("photos"), "photos.csv")


def test_an_encrypted_archive_is_reported_once(empty):
    write_folder(IMAGES, "photos")
    write_manifest(list_images("photos"), "photos.csv")
    write_zip(IMAGES, "set.zip")
    content = bytearray(Path("set.zip").read_bytes())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        for match in re.finditer(re.escape(signature), bytes(content)):
            content[match.start() + flags] |= 1
    Path("set.zip").write_bytes(content)
    with pytest.raises(UserError, match="encrypted") as error:
        verify_images(
            params.Dataset(folds=0, url="set.zip", manifest="photos.csv"), "set.zip", "images"
        )
    assert str(error.value).count("encrypted") == 1 and "password" in str(error.value)
    assert ".jpg" not in str(error.value)


def test_a_jpeg_of_200_megapixels_is_read_smaller(empty):
    Image.new("L", (16_320, 12_240)).save("x.jpg")
    assert read_image("x.jpg").size == (8_160, 6_120)


def with_damaged_exif(form):
    """Return a red image of 30 by 20 pixels whose EXIF is damaged."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.XResolution] = 72.0
    exif[ExifTags.Base.ResolutionUnit] = 2
    content = encode(Image.new("RGB", (30, 20), "red"), form, exif=exif)
    values = exif.tobytes()[6:]
    if form == "tiff":  # the orientation is a text
        order = "<" if content.startswith(b"II") else ">"
        orientation = struct.pack(f"{order}HHL", ExifTags.Base.Orientation, 3, 1)
        text = struct.pack(f"{order}HHL", ExifTags.Base.Orientation, 2, 1)
        damaged = content.replace(orientation, text)
    elif form == "jpeg":  # the resolution is a text
        order = ">" if values.startswith(b"MM") else "<"
        fraction = struct.pack(f"{order}HHL", ExifTags.Base.XResolution, 5, 1)
        text = struct.pack(f"{order}HHL", ExifTags.Base.XResolution, 2, 1)
        damaged = content.replace(fraction, text)
    else:
        damaged = content.replace(values, b"XX" + values[2:])
    assert damaged != content
    if form == "png":
        start = damaged.index(b"eXIf")
        end = start + 4 + int.from_bytes(damaged[start - 4 : start], "big")
        checksum = zlib.crc32(damaged[start:end]).to_bytes(4, "big")
        damaged = damaged[:end] + checksum + damaged[end + 4 :]
    return damaged


@pytest.mark.parametrize("form", ["jpeg", "png", "webp", "tiff"])
def test_damaged_exif_counts_as_none(empty, form):
    Path("x.jpg").write_bytes(with_damaged_exif(form))
    image = read_image("x.jpg")
    red, green, blue = np.asarray(image).mean((0, 1))
    assert image.size == (30, 20) and red > 250 and green < 5 and blue < 5
