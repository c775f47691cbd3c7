"""Near-duplicates: found among all pairs, reported, and left out where that is asked for."""

import os
import random
import zipfile
from io import BytesIO
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, encode, headswap, write_folder
from PIL import Image, ImageEnhance

from headswap.data.manifest import read_manifest
from headswap.data.synthetic import draw_insect
from headswap.images.near_duplicates import (
    MOST_BITS,
    near_duplicate_groups,
    near_duplicate_pairs,
    perceptual_hash,
)
from headswap.images.reading import read_image


def bits(one, other):
    return (int(one, 16) ^ int(other, 16)).bit_count()


def draw(number):
    return draw_insect("ants" if number % 2 else "bees", np.random.default_rng(number))


def saved_anew(image, quality=60):
    return encode(image.resize((image.width // 2, image.height // 2)), "jpeg", quality=quality)


def test_all_pairs_are_found_within_a_set_and_between_two():
    draws = random.Random(0)
    hashes = [draws.getrandbits(64) for _ in range(300)]
    for changed in range(12):  # bits
        mask = sum(1 << place for place in draws.sample(range(64), changed))
        hashes.append(hashes[changed * 7] ^ mask)
    texts = [f"{one:016x}" for one in hashes]
    expected = [
        (i, j, bits(texts[i], texts[j]))
        for i, j in combinations(range(len(texts)), 2)
        if bits(texts[i], texts[j]) <= MOST_BITS
    ]
    assert len(expected) == MOST_BITS + 1
    assert list(near_duplicate_pairs(texts)) == expected
    between = [(i, j - 200, distance) for i, j, distance in expected if i < 200 <= j]
    assert list(near_duplicate_pairs(texts[:200], texts[200:])) == between
    assert list(near_duplicate_pairs([], [])) == []
    hashes = ["00000000000000ff", "ffffffffffffffff", "000000000000f0ff"]
    assert near_duplicate_groups(hashes).tolist() == [0, 1, 0]


@pytest.mark.slow
@pytest.mark.skipif("HEADSWAP_MIRROR" not in os.environ, reason="set HEADSWAP_MIRROR")
def test_photographs_are_as_far_apart_and_their_copies_as_near_as_was_measured(photographs):
    images = [read_image(path) for path in photographs]
    hashes = [perceptual_hash(image) for image in images]
    assert min(bits(one, other) for one, other in combinations(hashes, 2)) == 14
    for image, one in zip(images[::10], hashes[::10], strict=True):
        brighter = ImageEnhance.Brightness(image).enhance(1.2)
        assert bits(one, perceptual_hash(brighter)) <= 8
        copy = Image.open(BytesIO(saved_anew(image)))
        assert bits(one, perceptual_hash(copy)) <= 2


@pytest.fixture
def photographs(tmp_path):
    with zipfile.ZipFile(Path(os.environ["HEADSWAP_MIRROR"], "hymenoptera_data.zip")) as archive:
        archive.extractall(tmp_path)
    names = read_manifest(ROOT / "data/manifest.csv")
    return [tmp_path / "hymenoptera_data" / name for name in sorted(names)]


@pytest.fixture
def copies(workspace):
    """Lay out ``photos``: 12 insects, 4 copies of some, and one in the wrong class."""
    images = {f"{'ants' if i % 2 else 'bees'}/{i:02d}.png": draw(i) for i in range(12)}
    write_folder({name: encode(image, "png") for name, image in images.items()}, "photos")
    write_folder(
        {
            "ants/same.png": encode(images["ants/01.png"], "png"),
            "ants/small.jpg": saved_anew(images["ants/01.png"]),
            "bees/00 small.jpg": saved_anew(images["bees/00.png"]),
            "bees/wrong.jpg": saved_anew(images["ants/03.png"]),
        },
        "photos",
    )
    return images


USED = {f"{'ants' if i % 2 else 'bees'}/{i:02d}.png" for i in range(12)} - {"ants/03.png"}


def used_names(path="data/photos.csv"):
    entries = read_manifest(path).items()
    return {name.partition("/")[2] for name, entry in entries if not entry.left_out}


def test_copies_are_reported_and_left_out_on_demand_and_stay_out(copies):
    printed, _ = headswap("manifest", "photos", "--val", "0.3", "--use")
    assert "near-duplicates" in printed and len(used_names()) == 16
    command = printed.rpartition("near-duplicates out: headswap ")[2].splitlines()[0]
    printed, _ = headswap(*command.split())
    assert "data/photos.csv lists 11 images." in printed
    assert "Left out, near-duplicates (3):" in printed
    for line in ("ants/same.png, of ants/01.png", "bees/00.png, of bees/00 small.jpg"):
        assert f"\n  {line}\n" in printed
    assert "Left out, near-duplicates in two classes, of which one is wrong (2):" in printed
    assert "\n  ants/03.png, of bees/wrong.jpg\n" in printed
    expected = (USED - {"bees/00.png"}) | {"bees/00 small.jpg"}  # the first in order of name
    assert used_names() == expected
    for stage in ("check", "fetch", "verify"):
        printed, _ = headswap(stage)
    assert printed.startswith("11 images are as") and "near-duplicates" not in printed
    Path("photos/ants/same.png").unlink()  # whoever clears up may
    headswap("check")
    write_folder({"ants/99.png": encode(draw(99), "png")}, "photos")
    assert "extra: " in (message := headswap("check", code=1)[1])
    headswap(*message.partition("To take the change in: headswap ")[2].splitlines()[0].split())
    assert used_names() == expected | {"ants/99.png"}


def test_of_images_that_are_split_already_the_copies_in_val_are_left_out(workspace):
    images = {f"train/{'ants' if i % 2 else 'bees'}/{i}.png": draw(i) for i in range(4)}
    images |= {f"val/{'ants' if i % 2 else 'bees'}/{i}.png": draw(i) for i in range(4, 8)}
    images["val/ants/1.png"] = images["train/ants/1.png"]
    write_folder({name: encode(image, "png") for name, image in images.items()}, "photos")
    headswap("manifest", "photos", "--drop-duplicates", "--use")
    listed = read_manifest("data/photos.csv")
    assert listed["val/ants/1.png"].left_out == "near-duplicate of train/ants/1.png"
    for stage in ("check", "fetch", "verify"):
        headswap(stage)
    assert not Path("data/images/val/ants/1.png").exists()


def test_without_its_copies_a_class_may_be_empty_and_is_named(workspace):
    names = [f"{split}/{label}/a.png" for split in ("train", "val") for label in ("ants", "bees")]
    write_folder({name: encode(draw(len(name)), "png") for name in names}, "photos")
    message = headswap("manifest", "photos", "--drop-duplicates", code=1)[1]
    assert "photos without near-duplicates has no images" in message
    assert not Path("data/photos.csv").exists()
