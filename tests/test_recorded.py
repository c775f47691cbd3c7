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

RUNS = sorted(path.parent for path in (ROOT / "docs" / "runs").glob("*/params.yaml"))


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_a_recorded_table_follows_from_the_recorded_predictions(run, tmp_path, monkeypatch):
    for name in ("params.yaml", "metrics", "plots"):
        copy = shutil.copytree if (run / name).is_dir() else shutil.copy
        copy(run / name, tmp_path / name)
    shutil.copytree(ROOT / "data" / "published", tmp_path / "data" / "published")
    monkeypatch.chdir(tmp_path)
    results = read_results(params.load())
    # Neither the features, which near-duplicates follow from, nor the ranks are recorded.
    without = ["accuracy_without_near_duplicates", "rank"]
    table = comparison_table(results, None).drop(columns=without)
    recorded = pd.read_csv("metrics/comparison.csv")[table.columns]
    pd.testing.assert_frame_equal(table, recorded, check_dtype=False)
    drawn = {
        "confusion": plot_rows.confusions(results),
        "differences": plot_rows.differences(results),
    }
    for name, rows in drawn.items():
        recorded = json.loads(Path(f"plots/comparison/{name}.json").read_text("utf-8"))
        found = rows.astype(object).where(rows.notna(), None).to_dict("records")
        assert found == [{key: row[key] for key in rows} for row in recorded], name


def test_readme_shows_a_recorded_table():
    table = pd.read_csv(ROOT / "docs/runs/efficientnet_lite0/metrics/comparison.csv")
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    shown = [line for line in readme if line.startswith("| efficientnet_lite0-")]
    assert shown == [
        f"| {row.cell} | {percent(row, 'best')} | {100 * row.best_val_accuracy_ci_low:.1f} to "
        f"{100 * row.best_val_accuracy_ci_high:.1f} | {percent(row, 'last')} | "
        f"{row.val_loss_last_mean:.3f} | {row.parameters:,} | {row.trainable_parameters:,} |"
        for row in table.itertuples()
    ]


def test_what_readme_says_of_single_runs_and_of_the_last_epoch_is_recorded(monkeypatch):
    monkeypatch.chdir(ROOT / "docs/runs/efficientnet_lite0")
    finetune, frozen = (accuracies(f"efficientnet_lite0-{mode}") for mode in ("finetune", "frozen"))
    rows = pd.read_json("plots/comparison/differences.json").query(
        "which == 'last' and differ == 1"
    )
    (row,) = rows.itertuples()
    figures = sorted(abs(100 * figure) for figure in (row.difference, row.low, row.high))
    for page in ("README.md", "docs/statistics.md"):
        text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
        assert f"{frozen.max() - finetune.min():.1f} points ahead of `finetune`" in text
        assert f"{finetune.max() - frozen.min():.1f} behind" in text
        assert (
            f"{figures[1]:.1f} points" in text and f"{figures[0]:.1f} to {figures[2]:.1f}" in text
        )


def accuracies(cell):
    """Return the accuracy of each run at its best epoch, in percent."""
    rows = pd.read_csv(f"plots/predictions/{cell}.csv").query("which == 'best'")
    return 100 * (rows["label"] == rows["predicted"]).groupby(rows["seed"]).mean()


def percent(row, which):
    mean, spread = (getattr(row, f"{which}_val_accuracy_{part}") for part in ("mean", "std"))
    return f"{100 * mean:.1f} ± {100 * spread:.1f}"


def test_a_run_is_recorded_with_all_that_made_it():
    assert len(RUNS) > 1
    for run in RUNS:
        for name in ("dvc.lock", "metrics/comparison.md", "plots/comparison/accuracy.png"):
            assert Path(run, name).stat().st_size > 0, (run.name, name)
        assert not list(run.rglob("gallery*"))
