"""Labels of photographs in a table."""

import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headswap.data.labels import Columns, read_labels
from headswap.errors import UserError

FILES = ["site1/IMG_1.JPG", "site1/IMG_2.JPG", "site2/IMG_1.JPG", "other/bee.png"]


def read(text, files=FILES, **columns):
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "labels.csv")
        table.write_bytes(text.encode())
        return read_labels(table, files, Columns(**columns))


def labels_of(found):
    return {file: label for file, (label, _, _) in found.labels.items()}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_a_table_of_any_spreadsheet_gives_labels_groups_and_splits(delimiter, line_end):
    rows = [
        ["", "File Path", "Species", "note", "Group", "split"],
        ["0", "site1/IMG_1.JPG", "ant", '"one, two; three"', "a1", "Training"],
        ["1", "site2/IMG_1.JPG", " bee ", "", "", "valid"],
        ["2", "other/bee.png", "bee", "", "NA", ""],
        ["", "", "", "", "", ""],
    ]
    found = read(line_end.join(map(delimiter.join, rows)), FILES[:1] + FILES[2:])
    assert found.labels == {
        "site1/IMG_1.JPG": ("ant", "a1", "train"),
        "site2/IMG_1.JPG": ("bee", "", "val"),
        "other/bee.png": ("bee", "", ""),
    }
    assert found.notes == [
        "columns of labels.csv: image 'File Path', label 'Species', group 'Group', split 'split'"
    ]
    assert not found.left_out and not found.unused


def test_columns_are_named_where_they_are_called_otherwise():
    table = "a,b,c,d\nbee.png,bee,7,test\n"
    found = read(table, image="A", label="b", group="c", split="d")
    assert found.labels == {"other/bee.png": ("bee", "7", "test")}
    with pytest.raises(UserError, match=r"Which column has the image\? The columns of labels.csv"):
        read(table, label="b")
    with pytest.raises(UserError, match="are a, b, c, d\\.\nName one of them: --label-column NAME"):
        read(table, image="a")
    with pytest.raises(UserError, match="are a, b, c, d\\.\nName one of them: --group-column NAME"):
        read(table, image="a", label="b", group="e")
    with pytest.raises(
        UserError, match="species, path, class.\nName one of them: --label-column NAME"
    ):
        read("species,path,class\nbee,bee.png,Insecta\n")


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("site1/IMG_1.JPG", "site1/IMG_1.JPG"),
        ("site2\\img_1.jpg", "site2/IMG_1.JPG"),
        ("./site2/IMG_1.JPG", "site2/IMG_1.JPG"),
        ("site2//IMG_1.JPG", "site2/IMG_1.JPG"),
        (r"C:\photos\site1\IMG_1.JPG", "site1/IMG_1.JPG"),
        ("/home/anna/photos/site2/IMG_1.JPG", "site2/IMG_1.JPG"),
        ("BEE.PNG", "other/bee.png"),
        ("bee", "other/bee.png"),
        ("site1/IMG_2", "site1/IMG_2.JPG"),
    ],
)
def test_a_row_means_the_file_that_has_most_of_its_path(path, file):
    found = read(f"path,label\n{path},x\n")
    assert list(found.labels) == [file]
    assert found.unused == {one: "photographs without a row" for one in FILES if one != file}


def test_row_numbers_are_no_group_and_a_dot_is_no_ending():
    found = read(",path,label\n7,frame.0001,bee\n", ["frame.0001.jpg"])
    assert found.labels == {"frame.0001.jpg": ("bee", "", "")}


def test_of_names_that_differ_in_case_only_each_is_meant_by_itself():
    found = read("path,label\nA.jpg,x\na.jpg,y\n", ["a.jpg", "A.jpg", "deeper/a.jpg"])
    assert labels_of(found) == {"A.jpg": "x", "a.jpg": "y"}


def test_no_row_takes_a_file_that_is_not_its_own():
    """A row whose file is missing does not label another folder's file of the same name."""
    found = read("path,label\nsite1/bee.png,ant\nsite2/IMG_1.JPG,x\nIMG_1.JPG,x\nbee.jpg,y\n,z\n")
    assert labels_of(found) == {"site2/IMG_1.JPG": "x"}
    assert found.left_out == {
        "rows without a file": ["line 2: site1/bee.png", "line 5: bee.jpg", "line 6: no path"],
        "rows that may mean several files": ["line 4: IMG_1.JPG"],
    }


def test_what_cannot_be_used_is_named():
    table = """path,label,group,split
site1/IMG_1.JPG,bee,,
site1/IMG_1.JPG,ant,,
site1/IMG_2.JPG,unknown,,
site2/IMG_1.JPG,NA,,
other/bee.png,bee,1,
other/bee.png,bee,2,
twice.png,bee,1,val
twice.png,bee,1,val
twice.png,Unidentified,1,val
"""
    found = read(table, [*FILES, "twice.png", "new.png"])
    assert found.labels == {"twice.png": ("bee", "1", "val")}
    assert found.unused == {
        "site1/IMG_1.JPG": "photographs with two labels or more, which is not supported",
        "site1/IMG_2.JPG": "photographs of unknown label",
        "site2/IMG_1.JPG": "photographs without a label",
        "other/bee.png": "photographs in two groups or splits",
        "new.png": "photographs without a row",
    }


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("path,label\nbee.png,bee,3\nx.png,a\n", "line 2 has 3 cells"),
        ("path,label\nbee.png,ants/bees\n", "name of a class's folder:\n  ants/bees"),
        ("path,label\nbee.png,.bees\n", "name of a class's folder:\n  .bees"),
        ("path,label,split\nbee.png,bee,3\n", "Splits that are none of train, training,.*\n  3"),
        (
            "id,label\n7,bee\n",
            "No row of labels.csv names a photograph of the folder, such as other/bee.png",
        ),
    ],
)
def test_mistakes_are_named(table, message):
    with pytest.raises(UserError, match=message):
        read(table)


def test_labels_of_rows_without_a_file_do_not_matter():
    assert list(read("path,label\nlost.png,a/b\nbee.png,bee\n").labels) == ["other/bee.png"]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    (tmp_path / "labels.csv").write_text("label,path\nbee,bee.png\n", encoding="utf-8-sig")
    found = read_labels(tmp_path / "labels.csv", FILES, Columns())
    assert labels_of(found) == {"other/bee.png": "bee"}
    assert found.notes == ["columns of labels.csv: image 'path', label 'label'"]


def test_what_is_no_table_is_refused(tmp_path):
    (tmp_path / "labels.xlsx").write_bytes(b"PK\3\4\xff\xfe")
    for name, message in (
        ("labels.xlsx", r"labels\.xlsx is not a table in UTF-8(.|\n)*Save it as CSV"),
        ("labels.csv", "labels.csv cannot be read: No such file"),
        (".", "cannot be read: Is a directory"),
    ):
        with pytest.raises(UserError, match=message):
            read_labels(tmp_path / name, FILES, Columns())


names = st.text("abAB_é", min_size=1, max_size=3)
paths = st.builds("/".join, st.lists(names, min_size=1, max_size=3)).map(lambda p: f"{p}.jpg")


@settings(max_examples=50, deadline=None)
@given(st.lists(paths, unique_by=str.casefold, min_size=1), st.randoms())
def test_every_path_of_a_folder_means_its_own_file_however_it_is_written(files, random):
    rows = [f"{file},{place}" for place, file in enumerate(files)]
    random.shuffle(rows)
    text = "path,label\n" + "\n".join(rows)
    expected = {file: str(place) for place, file in enumerate(files)}
    decomposed = unicodedata.normalize("NFD", text)
    for written in (text, text.upper(), text.replace("/", "\\"), decomposed):
        assert labels_of(read(written, files)) == expected


# Camtrap DP

MEDIA = """mediaID,deploymentID,captureMethod,timestamp,filePath,filePublic,fileName,fileMediatype
m1,d1,timeLapse,2020-05-30T04:57:37+02:00,https://example.org/m1/file,true,IMG_1.JPG,image/jpeg
m3,d1,timeLapse,2020-05-30T05:30:00+02:00,media/d1/IMG_3.JPG,true,,image/jpeg
m2,d1,timeLapse,2020-05-30T04:57:40+02:00,https://example.org/m2/file,true,IMG_2.JPG,image/jpeg
m4,d2,timeLapse,2020-05-30T04:57:37+02:00,https://example.org/m4/file,true,IMG_1.JPG,image/jpeg
m5,d2,timeLapse,2020-05-30T04:58:00+02:00,https://example.org/m5/file,true,IMG_5.MP4,video/mp4
m6,d2,timeLapse,2020-05-30T06:00:00+02:00,https://example.org/m6/file,true,IMG_6.JPG,image/jpeg
"""
OBSERVED = (
    "observationID,deploymentID,mediaID,eventID,eventStart,eventEnd,observationLevel,"
    "observationType,scientificName,count\n"
)
EVENT = "{},d1,,e1,2020-05-30T02:57:37Z,2020-05-30T02:57:40Z,event,animal,Anas crecca,2\n"
PHOTOGRAPHS = ["d1/IMG_1.JPG", "d1/IMG_2.JPG", "d1/IMG_3.JPG", "d2/IMG_1.JPG", "d2/IMG_6.JPG"]


def observation(media, kind, name=""):
    time = "2020-05-30T02:57:37Z"
    return f"o-{media}-{kind}-{name},d1,{media},e1,{time},{time},media,{kind},{name},1\n"


def package(folder, observations, media=MEDIA):
    (folder / "media.csv").write_text(media)
    (folder / "observations.csv").write_text(OBSERVED + observations)
    return folder


def test_a_camtrap_package_labels_photographs_by_themselves_else_by_their_event(tmp_path):
    observations = (
        EVENT.format("o1")
        + EVENT.format("o2").replace("2,", "9,")
        + observation("m2", "blank")
        + observation("m1", "unclassified")
        + observation("m3", "animal", "Ardea cinerea")
        + observation("m4", "human", "Homo sapiens")
        + observation("m5", "vehicle")
    )
    package(tmp_path, observations)
    for given_path in ("", "media.csv", "observations.csv", "datapackage.json"):
        found = read_labels(tmp_path / given_path, PHOTOGRAPHS, Columns())
        assert found.labels == {
            "d1/IMG_1.JPG": ("Anas crecca", "d1", ""),
            "d1/IMG_2.JPG": ("blank", "d1", ""),
            "d1/IMG_3.JPG": ("Ardea cinerea", "d1", ""),
            "d2/IMG_1.JPG": ("human", "d2", ""),
        }
        assert found.unused == {"d2/IMG_6.JPG": "photographs without a label"}
        assert found.left_out == {"rows without a file": ["line 6: d2/IMG_5.MP4"]}


def test_two_animals_are_two_labels_and_unknown_ones_are_none(tmp_path):
    observations = (
        EVENT.format("o1")
        + EVENT.format("o2").replace("Anas crecca", "Ardea cinerea")
        + observation("m3", "unknown")
        + observation("m4", "animal")
        + observation("m6", "animal", "Ardea cinerea")
        + observation("m6", "unknown")
    )
    found = read_labels(package(tmp_path, observations), PHOTOGRAPHS, Columns())
    assert found.labels == {"d2/IMG_6.JPG": ("Ardea cinerea", "d2", "")}
    assert found.unused == {
        "d1/IMG_1.JPG": "photographs with two labels or more, which is not supported",
        "d1/IMG_2.JPG": "photographs with two labels or more, which is not supported",
        "d1/IMG_3.JPG": "photographs of unknown label",
        "d2/IMG_1.JPG": "photographs without a label",
    }


def test_columns_of_a_camtrap_package_are_named_from_both_tables(tmp_path):
    package(tmp_path, observation("m3", "animal", "Ardea cinerea"))
    columns = Columns(label="count", group="captureMethod")
    found = read_labels(tmp_path, PHOTOGRAPHS, columns)
    assert found.labels == {"d1/IMG_3.JPG": ("1", "timeLapse", "")}


def test_an_older_package_is_refused(tmp_path):
    package(tmp_path, "", MEDIA.replace("deploymentID", "deployment"))
    with pytest.raises(UserError, match="is no Camtrap DP 1.0: KeyError: 'deploymentID'"):
        read_labels(tmp_path, PHOTOGRAPHS, Columns())
