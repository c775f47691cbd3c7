"""Photographs as field projects have them: any layout, labels in a table, groups, a test set."""

import re
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, edit, encode, headswap, sh, write_folder
from PIL import ExifTags, Image

from headswap.data.listing import groups_by_pattern, groups_by_time, list_images, time_taken
from headswap.data.manifest import read_manifest
from headswap.data.synthetic import draw_insect
from headswap.errors import UserError
from headswap.images.folders import READS_HEIC
from headswap.images.index import read_index
from headswap.images.reading import read_image
from headswap.io import read_json, write_json

SEEDS = iter(range(10_000))


def photograph(form="jpeg", seed=None, **options):
    """Return a photograph unlike all others, or that of a seed."""
    random = np.random.default_rng(next(SEEDS) if seed is None else seed)
    return encode(draw_insect("ants", random), form, **options)


def lay_out(*names, folder="photos"):
    write_folder({name: photograph() for name in names}, folder)


def manifest(*arguments, code=0):
    return "".join(headswap("manifest", "photos", *arguments, code=code))


def listed():
    """Return the split, class and group of each photograph that is used, by its name."""
    found = {}
    for path, entry in read_manifest("data/photos.csv").items():
        if not entry.left_out:
            split, label, name = path.split("/", 2)
            found[f"{label}/{name}"] = split, entry.group
    return found


# Layouts


def test_photographs_at_any_depth_belong_to_the_class_and_the_same_name_is_no_copy(workspace):
    days = [f"2024-05-0{day}/IMG_0001.JPG" for day in range(1, 5)]
    names = [f"{label}/{day}" for label in ("ant", "bee") for day in days]
    lay_out(*names, "bee/deep/er/IMG_0001.JPG", "IMG_0001.JPG")
    said = manifest("--val", "0.3", "--use")
    assert said.startswith("1 of 10 photographs left out, for the reasons below.")
    assert "Left out, in no class's folder (1):\n  IMG_0001.JPG\n" in said
    assert set(listed()) == {*names, "bee/deep/er/IMG_0001.JPG"}
    for command in ("check", "fetch", "verify"):
        headswap(command)
    rows = read_index().rows
    assert {row.path.split("/", 1)[1] for row in rows} == set(listed())
    content = Path("photos/bee/deep/er/IMG_0001.JPG").read_bytes()
    (row,) = (row for row in rows if "deep" in row.path)
    assert Path("data/images", row.path).read_bytes() == content


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/1.jpg", "b/1.jpg", "1.jpg", "2.jpg"], "2 of 4 photographs are in no class's folder"),
        (["a/1.jpg", "b/1.jpg", "b/2.cr2"], "b/: 1 of 2 photographs are raw: save them as JPEG"),
        (
            ["train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/b/1.jpg", "x/1.jpg", "x/2.jpg"],
            "2 of 6 photographs are in none of train/, val/ and test/, such as x/1.jpg",
        ),
        (["train/1.jpg", "test/2.jpg"], "photographs in test/ and train/, but no folders of class"),
        (["test/1.jpg", "a/1.jpg", "b/1.jpg"], "test/ beside a/, b/: classes, or splits?"),
        (["train/d/1.jpg", "car/1.jpg", "bus/1.jpg"], "train/ beside bus/, car/: classes, or spl"),
        (["train/a/1.jpg", "Train/a/1.jpg", "val/a/1.jpg"], "is there twice, in another spelling"),
        (
            [*(f"{s}/{c}/1.jpg" for s in ("train", "val") for c in "ab"), "test/c/1.jpg"],
            "photos has no images in train/c, val/c",
        ),
    ],
)
def test_what_would_be_lost_or_misread_is_refused(empty, names, message):
    lay_out(*names)
    assert message in manifest("--val", "0.3", code=1)
    assert not Path("data").exists()


def test_a_class_may_be_called_train_and_a_question_is_answered_by_what_it_names(workspace):
    images = [f"{n}.jpg" for n in range(3)]
    lay_out(*(f"{label}/{name}" for label in ("train", "car") for name in images))
    assert {*list_images("photos").photographs["label"]} == {"train", "car"}
    for path in list(Path("photos/train").iterdir()):  # now with a folder for each day
        write_folder({f"train/day/{path.name}": path.read_bytes()}, "photos")
        path.unlink()
    refused = manifest("--val", "0.3", code=1)
    command = refused.partition("a class called so: headswap ")[2].splitlines()[0]
    headswap(*command.split(), "--use")
    assert {name.split("/")[0] for name in listed()} == {"train", "car"}
    headswap("check")
    Path("photos/car/2.jpg").unlink()
    message = headswap("check", code=1)[1]  # the one command knows how it was answered
    headswap(*message.partition("change in: headswap ")[2].splitlines()[0].split())
    assert len(listed()) == 5


def test_a_test_folder_beside_classes_is_a_test_set_where_that_is_the_answer(workspace):
    lay_out(*(f"{label}/{n}.jpg" for label in ("test/a", "test/b", "a", "b") for n in range(3)))
    refused = manifest("--val", "0.4", code=1)
    command = refused.partition("hold folders of classes: headswap ")[2].splitlines()[0]
    headswap(*command.split())
    splits = [path.split("/")[0] for path in read_manifest("data/photos.csv")]
    assert splits == ["test"] * 6 + ["train"] * 4 + ["val"] * 2


# Tables


def test_a_table_labels_photographs_and_all_that_is_not_used_is_said_and_recorded(workspace):
    lay_out(*(f"site{site}/IMG_{n}.JPG" for site in range(4) for n in range(4)))
    rows = [f"site{s}/IMG_{n}.JPG,{'ab'[n % 2]},{s}" for s in range(4) for n in range(4)][1:]
    rows[0] = rows[0].replace(",b,", ",unknown,")
    Path("labels.csv").write_text("\n".join(["file,species,site", *rows, "lost.JPG,a,9"]))
    options = ("--labels", "labels.csv", "--group-column", "site", "--use")
    said = manifest("--val", "0.25", "--test", "0.25", *options)
    assert said.startswith("2 of 16 photographs left out")
    for line in ("without a row (1):\n  site0/IMG_0.JPG", "of unknown label (1):\n  site0/IMG_1"):
        assert f"Left out, photographs {line}" in said
    assert "rows without a file (1):\n  line 17: lost.JPG\n" in said
    by_site = {}
    for name, (split, group) in listed().items():
        by_site.setdefault(group, set()).add(split)
        assert name.split("/")[1] == f"site{group}"
    assert sorted(map(sorted, by_site.values())) == [["test"], ["train"], ["train"], ["val"]]
    for command in ("check", "fetch", "verify"):
        headswap(command)
    assert {row.group for row in read_index().rows} < {"0", "1", "2", "3"}
    before = listed()
    lay_out("site0/IMG_9.JPG")
    Path("photos/site3/IMG_3.JPG").unlink()
    with Path("labels.csv").open("a") as file:
        file.write("\nsite0/IMG_9.JPG,a,0\n")
    assert "(photographs added, removed, changed or moved: 2)" in headswap("status")[0]
    message = headswap("check", code=1)[1]
    assert "extra: site0/IMG_9.JPG" in message and "missing: " in message
    headswap(*message.partition("change in: headswap ")[2].splitlines()[0].split())
    del before["b/site3/IMG_3.JPG"]
    assert listed() == {**before, "a/site0/IMG_9.JPG": before["a/site0/IMG_2.JPG"]}
    headswap("check")


# Groups


def test_groups_of_folders_and_patterns_stay_in_one_split(workspace):
    lay_out(*(f"{c}/day{day}/id{n}_x.jpg" for c in "ab" for day in range(4) for n in range(3)))
    for options, group in (
        (("--group", "folder"), lambda name: name.split("/")[1]),
        (("--group", "id([0-9])"), lambda name: name.split("/id")[1][0]),
    ):
        manifest("--val", "0.3", *options)
        sides = {}
        for name, (split, named) in listed().items():
            assert named == group(name)
            sides.setdefault(named, set()).add(split)
        assert all(len(of) == 1 for of in sides.values()) and len(sides) == (3, 4)[named > "4"]


def test_which_groups_are_on_which_side_is_said_and_that_few_say_little(workspace):
    lay_out(*(f"{c}/{site}/{n}.png" for c in "ab" for site in ("hill", "pond") for n in range(3)))
    said = manifest("--val", "0.5", "--group", "folder")
    sides = {site: split for name, (split, site) in listed().items()}
    assert {*sides.values()} == {"train", "val"}
    for site, split in sides.items():
        assert f"Groups in {split} (1):\n  {site}\n" in said
    assert "Intervals will be wide, of one group none: set dataset.folds" in said


@pytest.mark.slow
def test_the_commands_for_a_table_of_labels_lead_to_an_accuracy(workspace):
    page = (ROOT / "docs/photographs.md").read_text().split("**Left and right")[0]
    commands = re.findall(r"^    (headswap .*|make .*)$", page, re.M)[1:]
    assert len(commands) == 5
    names = [f"site{n % 9}/{n:02d}.png" for n in range(54)]
    lay_out(*names)
    rows = [f"{name},{'ab'[n % 2]},{name[:5]}" for n, name in enumerate(names)]
    Path("labels.csv").write_text("\n".join(["file,label,site", *rows]))
    edit(modes=[], train={"epochs": 1})
    sh("dvc", "config", "--local", "core.no_scm", "true")
    printed = [sh(*command.replace("make", "dvc").split()) for command in commands]
    assert "Groups in val (2):\n" in printed[0] and "Intervals will be wide" in printed[0]
    assert re.search("photographs: [0-9]+, in [0-9] groups", printed[3])
    assert "<h2>Test sets</h2>" in Path("report.html").read_text("utf-8")


def test_two_ways_to_group_are_refused_and_a_column_that_was_found_gives_way(workspace):
    names = [f"{c}/{n}.png" for c in "ab" for n in range(4)]
    lay_out(*names)
    rows = [f"{name},{name[0]},site{name[2]}" for name in names]
    Path("labels.csv").write_text("\n".join(["file,label,group", *rows]))
    table = ("--labels", "labels.csv", "--val", "0.3")
    for more in (("--group", "folder"), ("--group-minutes", "5")):
        refused = headswap("manifest", "photos", *table, "--group-column", "group", *more, code=1)
        assert "--group, --group-minutes and --group-column are three ways" in refused[1]
    said = manifest(*table, "--group", "/([0-9])")
    assert "4 groups of photographs in place of the table's" in said


@pytest.mark.parametrize("kept", ["now", "before"])
def test_photographs_that_were_moved_keep_the_options_of_their_manifest(workspace, kept):
    names = [f"site{n % 3}/{n}.png" for n in range(12)]
    lay_out(*names)
    rows = [f"{name},{'ab'[n % 2]},{name[:5]}" for n, name in enumerate(names)]
    Path("labels.csv").write_text("\n".join(["file,label,site", *rows]))
    options = "--labels labels.csv --group-column site --val 0.3 --output ./data/photos.csv"
    manifest(*options.split())
    Path("photos").rename("elsewhere")
    edit(dataset={"url": "elsewhere", "manifest": "data/photos.csv"})
    Path("elsewhere/site0/0.png").unlink()
    if kept == "before":
        options = read_json("runs/manifests.json")["data/photos.csv"]
        command = "headswap manifest elsewhere --output data/photos.csv"
        write_json("runs/manifests.json", {command: command + options})
    refused = headswap("check", code=1)[1]
    headswap(*refused.partition("To take the change in: headswap ")[2].splitlines()[0].split())
    assert len(listed()) == 11
    assert {group for _, group in listed().values()} == {"site0", "site1", "site2"}
    headswap("check")


def test_a_misspelt_class_is_asked_about(workspace):
    classes = ("mellifera", "melifera", "grade_of_disease_1", "grade_of_disease_2")
    lay_out(*(f"{c}/{n}.png" for c in classes for n in range(3)))
    said = manifest("--val", "0.3")
    assert "Two classes, or one that is misspelt?\n  melifera and mellifera\n" in said
    assert "grade_of_disease_ and" not in said


def test_near_identical_photographs_count_as_one_group_and_a_ready_split_that_cuts_is_named(
    workspace,
):
    lay_out(*(f"{c}/{n}.png" for c in "ab" for n in range(6)))
    twin = Image.open("photos/a/0.png").resize((60, 60))
    write_folder({"a/twin.jpg": encode(twin, "jpeg")}, "photos")
    for seed in range(3):
        said = manifest("--val", "0.3", "--seed", seed)
        assert "2 photographs count as of one group with others, some near-identical" in said
        split, group = listed()["a/twin.jpg"]
        assert listed()["a/0.png"][0] == split and len(group) == 16
        assert {group for name, (_, group) in listed().items() if name[2:] in "12345.png"} == {""}
    for label in "ab":
        for split, places in (("train", range(3)), ("val", range(3, 6))):
            for n in places:
                write_folder({f"{split}/{label}/{n % 2}_{n}.png": photograph("png")}, "ready")
    said = "".join(headswap("manifest", "ready", "--group", "/([01])_"))
    assert "These splits cut 2 of 2 groups" in said and "\n  0: 4 in train, 2 in val\n" in said


def test_photographs_of_one_folder_that_follow_each_other_are_a_burst():
    start = datetime(2024, 5, 1, 10)
    shots = [("x/a", 0), ("x/b", 19), ("x/c", 9), ("x/d", 30), ("y/e", 9), ("x/f", None)]
    times = [None if m is None else start + timedelta(minutes=m) for _, m in shots]
    burst = "x/2024-05-01T10:00:00"
    assert groups_by_time([path for path, _ in shots], times, 10) == [
        *(burst, burst, burst, "x/2024-05-01T10:30:00", "y/2024-05-01T10:09:00", "")
    ]


def test_a_pattern_that_is_none_or_matches_nothing_is_refused():
    paths = ["bee/id7_1.jpg", "bee/id7_2.jpg", "bee/new.jpg"]
    assert groups_by_pattern(paths, "id([0-9]+)_") == ["7", "7", ""]
    with pytest.raises(UserError, match=r"is no regular expression: missing \).*\nType, for"):
        groups_by_pattern(["bee/1.jpg"], "(s")
    with pytest.raises(UserError, match=r"matches none of the 1 paths, such as bee/1\.jpg"):
        groups_by_pattern(["bee/1.jpg"], "deer")


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_the_time_of_a_photograph_is_that_of_its_shutter(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    image, exif = Image.new("RGB", (8, 8)), Image.Exif()
    image.save(path)
    assert time_taken(path) is None
    exif[ExifTags.Base.DateTime] = "2024:05:02 00:00:00"
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.DateTimeOriginal] = "0000:00:00 00:00:00"
    image.save(path, exif=exif)
    assert time_taken(path) == datetime(2024, 5, 2)
    details[ExifTags.Base.DateTimeOriginal] = "2024:05:01 10:20:30"
    image.save(path, exif=exif)
    assert time_taken(path) == datetime(2024, 5, 1, 10, 20, 30)
    path.write_bytes(b"\xff\xd8\xff\xe1\0\x10Exif\0\0II")
    assert time_taken(path) is None


# A test set


def test_a_test_set_lies_apart_and_changes_nothing_else(workspace):
    lay_out(*(f"{label}/d/{n}.jpg" for label in ("ant", "bee") for n in range(8)))

    def verify():
        headswap("fetch")
        headswap("verify")
        return Path("metrics/dataset.json").read_bytes(), read_index().digest

    manifest("--val", "0.3", "--use")
    before = verify()
    assert [path.name for path in Path("data/test").iterdir()] == ["index.csv"]
    for label in ("ant", "bee"):
        lay_out(f"{label}/d/new.jpg")
    said = manifest("--test", "0.2", "--output", "data/photos.csv")
    counts = [split for split, _ in listed().values()]
    assert (counts.count("test"), counts.count("val")) == (4, 4) and " test " in said
    verify()
    index = read_index("data/test")
    assert len(index.rows) == 4 and {row.split for row in index.rows} == {"test"}
    for row in index.rows:
        assert Path("data/test", row.path).read_bytes() == Path("photos", row.path).read_bytes()
    assert not {row.sha256 for row in index.rows} & {row.sha256 for row in read_index().rows}
    text = Path("data/photos.csv").read_text().splitlines(keepends=True)
    Path("data/photos.csv").write_text("".join(text))
    without = [line for line in text if not line.startswith("test/")]
    verified = verify()
    Path("data/photos.csv").write_text("".join(without))
    for row in index.rows:
        Path("photos", row.path).unlink()
    assert verify() == verified != before


# HEIC


def test_heic_is_read_where_it_can_be_and_counted_where_it_cannot(workspace, request):
    if not READS_HEIC:
        pytest.skip("pip install pillow-heif")
    import pillow_heif

    lay_out(*(f"{label}/{n}.jpg" for label in "ab" for n in range(4)))
    exif = Image.Exif()
    exif[ExifTags.Base.DateTime] = "2024:05:02 00:00:00"
    image = Image.new("RGB", (40, 30), "red")
    pillow_heif.from_pillow(image).save("photos/a/5.heic", exif=exif.tobytes())
    assert np.asarray(read_image("photos/a/5.heic"))[..., 0].min() > 240
    assert time_taken("photos/a/5.heic") == datetime(2024, 5, 2)
    manifest("--val", "0.3", "--use")
    assert "a/5.heic" in listed()
    for command in ("check", "fetch", "verify"):
        headswap(command)
    request.getfixturevalue("no_heic")
    said = manifest("--val", "0.3", "--output", "data/other.csv")
    assert said.startswith("1 of 9 photographs left out")
    assert "Left out, HEIC: save them as JPEG, or pip install pillow-heif (1):" in said


def test_a_stage_says_that_photographs_are_not_in_the_manifest(workspace):
    lay_out(*(f"{label}/{n}.jpg" for label in "ab" for n in range(3)))
    manifest("--val", "0.4", "--use")
    assert "is not as" not in headswap("fetch")[0]
    lay_out("a/new.jpg")
    edit(models=["tiny"])
    for command in (("fetch",), ("verify",), ("weights", "tiny"), ("status",)):
        said = headswap(*command)[0]
        assert "photos is not as data/photos.csv says" in said and "or moved: 1). To see" in said
