"""What is recorded in docs/runs follows from the predictions that are recorded there."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT

from headswap import params
from headswap.compare import plot_rows
from headswap.compare.comparison import comparison_table
from headswap.compare.results import read_results
from headswap.images.index import Index

RUNS = sorted(path.parent for path in (ROOT / "docs" / "runs").glob("*/metrics"))


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_a_recorded_table_follows_from_the_recorded_predictions(run, tmp_path, monkeypatch):
    for name in ("metrics", "plots"):
        shutil.copytree(run / name, tmp_path / name)
    shutil.copy(run / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "data" / "published", tmp_path / "data" / "published")
    monkeypatch.chdir(tmp_path)
    results = read_results(params.load(), Index(Path(), []))
    # The images' index, which near-duplicates follow from, is not recorded.
    without = ["accuracy_without_near_duplicates"]
    table = comparison_table(results, []).drop(columns=without)
    recorded = pd.read_csv("metrics/comparison.csv")[table.columns]
    pd.testing.assert_frame_equal(table, recorded, check_dtype=False)
    drawn = {
        "confusion": plot_rows.confusions(results.last),
        "differences": plot_rows.differences(results, table),
    }
    for name, rows in drawn.items():
        recorded = json.loads(Path(f"plots/comparison/{name}.json").read_text("utf-8"))
        found = rows.astype(object).where(rows.notna(), None).to_dict("records")
        recorded = [{key: row[key] for key in rows} for row in recorded]  # in order of accuracy
        assert sorted(found, key=str) == sorted(recorded, key=str), name
