"""Two revisions, compared cell by cell."""

from pathlib import Path

import numpy as np
import pandas as pd
from conftest import headswap
from pytest import approx
from rich.console import Console

from headswap import params
from headswap.compare.results import read_results
from headswap.compare.revisions import Revision, differences, read_revision, report
from headswap.io import read_csv, write_csv

random = np.random.default_rng(0)
NAMES = [f"digest{number}" for number in range(200)]


def revision(share, seeds=(0, 1, 2), names=NAMES, groups=(), cell="net-frozen"):
    """Return a revision with one cell, right as often as given."""
    correct = pd.DataFrame(random.random((len(seeds), len(names))) < share, list(seeds), names)
    of_groups = dict.fromkeys(names, "") | dict(zip(names, groups, strict=False))
    return Revision({cell: correct}, of_groups, 0)


def test_cells_are_paired_by_photograph_and_seed():
    old, new = revision(0.5), revision(0.9, seeds=(1, 2, 7), names=[*NAMES[50:], "new"])
    (row,) = differences(old, new).itertuples()
    assert (row.seeds, row.images) == (2, 150)
    here = old.correct["net-frozen"].loc[[1, 2], NAMES[50:]].to_numpy()
    there = new.correct["net-frozen"].loc[[1, 2], NAMES[50:]].to_numpy()
    assert row.difference == approx(there.mean() - here.mean(), abs=1e-6)
    assert row.differ and 0 < row.low < row.difference < row.high


def test_photographs_of_one_group_do_not_count_as_independent():
    whole = np.repeat(random.random(20) < 0.5, 10)
    tables = [pd.DataFrame([whole ^ (random.random(200) < 0.1)] * 2, [0, 1], NAMES) for _ in "ab"]
    tables[1] |= np.arange(200) < 40  # four groups became right
    revisions = [Revision({"net-frozen": table}, dict.fromkeys(NAMES, ""), 0) for table in tables]
    groups = dict(zip(NAMES, [f"g{number // 10}" for number in range(200)], strict=True))
    alone, grouped = (
        differences(*[one._replace(groups=of) for one in revisions]).iloc[0]
        for of in (revisions[0].groups, groups)
    )
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)
    one = dict.fromkeys(NAMES, "g")
    assert differences(*[each._replace(groups=one) for each in revisions]).empty


def test_one_seed_gives_no_verdict_but_a_probe_has_one():
    for cell, verdict in (("net-frozen", False), ("net-probe", True)):
        pair = [revision(share, seeds=[0], cell=cell) for share in (0.2, 0.9)]
        (row,) = differences(*pair).itertuples()
        assert (row.verdict, row.differ) == (verdict, verdict)


def test_what_differs_is_printed_and_written(tmp_path, monkeypatch, capsys):
    revisions = {"main": revision(0.5), "better": revision(0.9)}
    revisions["better"].correct["other-probe"] = revisions["main"].correct["net-frozen"]
    monkeypatch.setattr("headswap.compare.revisions.read_revision", revisions.get)
    report("main", "better", tmp_path / "d.csv", tmp_path / "d.png")
    printed = capsys.readouterr().out
    assert "Only in better: other-probe" in printed and "differs" in printed
    assert len(pd.read_csv(tmp_path / "d.csv")) == 1
    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")


def test_a_long_name_is_whole_on_a_narrow_terminal(monkeypatch, capsys):
    cell = "a_network_with_a_long_name-finetune-adamw"
    one, other = (revision(share, cell=cell) for share in (0.5, 0.9))
    monkeypatch.setattr("headswap.compare.revisions.read_revision", dict(a=one, b=other).get)
    monkeypatch.setattr("headswap.compare.revisions.console", Console(width=80))
    report("a", "b")
    lines = capsys.readouterr().out.splitlines()
    assert cell in "".join(line[: len(cell)].split(" ")[0] for line in lines[2:])
    assert "differs" in lines[2] and max(map(len, lines)) <= 80


def test_the_workspace_is_read_as_the_comparison_reads_it(own_trained):
    results, found = read_results(params.load()), read_revision("workspace")
    assert found.correct.keys() == results.cells.keys()
    for cell, table in found.correct.items():
        assert np.array_equal(table, results.correct[cell, "last"])
        assert found.groups.keys() >= set(table)


def test_a_photograph_that_lies_in_two_splits_counts_once(own_trained):
    index = Path("data/images/index.csv")
    rows = read_csv(index)
    digests = {row["path"]: row["sha256"] for row in rows}
    text, twice = index.read_text(), digests["val/ants/000.png"]
    index.write_text(text.replace(digests["train/ants/000.png"], twice))
    columns = ["seed", "fold", "epoch", "which", "image", "label", "predicted", "p_ants"]
    images = [f"{name}.png" for name in ("train/ants/000", "val/ants/000", "val/ants/001")]
    folded = [[0, n % 2, 0, "last", image, "ants", "ants", 1] for n, image in enumerate(images)]
    write_csv("plots/predictions/tiny-probe.csv", columns, folded)
    found = read_revision("workspace")
    assert found.correct["tiny-probe"].shape == (1, 2)
    (row,) = differences(found, found).query("pair == 'tiny-probe'").itertuples()
    assert (row.images, row.difference) == (2, 0)


def test_a_photograph_that_the_index_has_not_is_said(own_trained):
    path = Path("plots/predictions/tiny-probe.csv")
    path.write_text(path.read_text().replace("ants/000.png", "ants/999.png"))
    message = headswap("diff", "workspace", "workspace", code=1)[1]
    assert "val/ants/999.png" in message and "dvc repro" in message


def test_a_name_that_is_no_revision_is_said(own_trained):
    assert "There is no revision or experiment lr-7" in headswap("diff", "lr-7", code=1)[1]
    assert Path("metrics").exists()
