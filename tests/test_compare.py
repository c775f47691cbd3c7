"""The comparison agrees with the cells' files, and refuses those that are damaged."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fake_cells import (
    COSTS,
    TRAINED,
    image_name,
    index_images,
    load_params,
    write_alexnet,
    write_cell,
    write_images,
)

from headswap.compare import plot_rows, plots
from headswap.compare.comparison import compare
from headswap.compare.intervals import (
    estimate_accuracy,
    estimate_difference,
    probability_good_enough,
)
from headswap.compare.outputs import summary_metrics, write_comparison
from headswap.compare.results import read_results
from headswap.errors import UserError
from headswap.io import read_json, write_json
from headswap.params import Cell

IMAGES = 40
FINETUNE, FROZEN, PROBE = (Cell("alexnet", mode) for mode in ("finetune", "frozen", "probe"))
CELLS = (FINETUNE, FROZEN, PROBE)


@pytest.fixture
def chosen(tmp_path, monkeypatch):
    """Return the parameters of three cells of AlexNet, whose files are there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plots, "draw_png", lambda *_: b"")  # takes most of the time
    return write_alexnet(IMAGES)


def compared(chosen):
    return compare(read_results(chosen))


def table_of(chosen):
    return compared(chosen).table.set_index("cell")


def first(count, replicates=3):
    """Return correct predictions of the first images by every replicate."""
    return np.tile(np.arange(IMAGES) < count, (replicates, 1))


def test_table_and_summary_agree_with_the_predictions(chosen):
    comparison = compared(chosen)
    table = comparison.table
    predictions = pd.read_csv("plots/predictions/alexnet-frozen.csv")
    last = predictions[predictions["which"] == "last"]
    by_seed = (last["label"] == last["predicted"]).groupby(last["seed"]).mean()
    assert list(table["cell"]) == [cell.name for cell in CELLS]
    row = table.set_index("cell").loc["alexnet-frozen"]
    assert row["last_val_accuracy_mean"] == pytest.approx(by_seed.mean(), abs=1e-6)
    assert row["last_val_accuracy_std"] == pytest.approx(by_seed.std(), abs=1e-6)
    assert row["last_val_accuracy_ci_low"] < by_seed.mean() < row["last_val_accuracy_ci_high"]
    assert row["published_best_val_accuracy"] == pytest.approx(0.947712)
    recalls = (last["label"] == last["predicted"]).groupby(last["label"]).mean()
    assert row["balanced_accuracy"] == pytest.approx(recalls.mean(), abs=1e-6)
    summary = summary_metrics(comparison)
    assert summary["alexnet-frozen.last"] == row["last_val_accuracy_mean"]
    best = table.set_index("rank").loc[1]
    assert summary["best"] == best["cell"] and summary["expected"] == best["expected_accuracy"]
    assert best["expected_accuracy_ci_low"] < summary["expected"] < best["last_val_accuracy_mean"]
    assert len(summary) == 8 and summary["near_duplicates"] == 0


def test_cells_are_ranked_by_last_epoch_then_loss_then_time(chosen):
    for cell in CELLS:
        write_cell(cell, first(36))
    assert list(table_of(chosen)["rank"]) == [3, 2, 1]
    write_cell(FINETUNE, first(36), sure=0.9)
    assert list(table_of(chosen)["rank"]) == [1, 3, 2]
    write_cell(FINETUNE, first(36))
    write_cell(PROBE, first(36), last=first(30))
    assert list(table_of(chosen)["rank"]) == [2, 1, 3]
    write_cell(FINETUNE, first(37))
    write_cell(FROZEN, np.empty((0, IMAGES)), diverged=3)
    assert list(table_of(chosen)["rank"].fillna(0)) == [1, 0, 2]


@pytest.mark.parametrize("other", ["images", "weights"])
def test_the_write_ups_figures_are_left_out_for_other_images_and_weights(chosen, other):
    if other == "images":
        write_images(IMAGES, {"images": 88, "train": 48, "val": 40})
    else:
        chosen = chosen.model_copy(update={"weights": "random"})
    comparison = compared(chosen)
    assert comparison.table.filter(like="published").isna().all(axis=None)
    for plot in ("accuracy", "curves"):
        assert "write-up" not in set(comparison.rows[plot]["what"])


def test_only_cells_of_the_matrix_are_read_and_files_of_others_deleted(chosen):
    write_cell(Cell("resnet18", "frozen"), [[True, False] * (IMAGES // 2)])
    write_comparison(chosen)
    Path("plots/comparison/old.png").touch()
    write_comparison(chosen)
    paths = [Path("metrics/comparison.csv"), *Path("plots/comparison").glob("*.json")]
    assert len(paths) == 10
    assert not [path for path in paths if "resnet18" in path.read_text()]
    assert not [*Path().rglob("*resnet18*")] and not Path("plots/comparison/old.png").exists()


def test_a_cell_without_results_is_named(chosen):
    Path("metrics/cells/alexnet-frozen.json").unlink()
    with pytest.raises(UserError, match="alexnet-frozen"):
        read_results(chosen)


def test_diverged_runs_are_in_no_figure_and_no_nan_is_written(chosen):
    write_cell(FINETUNE, [[True, False] * (IMAGES // 2)], diverged=2)
    write_cell(FROZEN, np.empty((0, IMAGES)), diverged=3)
    write_comparison(chosen)
    summary = read_json("metrics/summary.json")
    assert summary["alexnet-finetune.last"] == 0.5 and summary["alexnet-frozen.last"] is None
    for cell in CELLS:
        write_cell(cell, np.empty((0, IMAGES)), diverged=3)
    write_comparison(chosen)
    assert not [path for path in Path().rglob("*.json") if "NaN" in path.read_text()]


def test_confusions_add_up_to_the_images_of_each_class(chosen):
    rows = compared(chosen).rows["confusion"]
    assert len(rows) == 3 * 2 * 2
    assert (rows.groupby(["cell", "label"])["images"].sum() == 20).all()
    assert np.allclose(rows.groupby(["cell", "label"])["share"].sum(), 1)


def test_of_many_classes_the_most_confused_are_kept():
    classes = [f"class{number:02d}" for number in range(30)]
    pairs = [*zip(classes, classes, strict=True), ("class28", "class29")]
    rows = pd.DataFrame(pairs, columns=["label", "predicted"])
    rows = rows.assign(cell="a-probe", seed=0, correct=rows["label"] == rows["predicted"])
    results = SimpleNamespace(last=rows)
    found = plot_rows.confusions(results.last)
    assert len(found) == 20 * 20
    shares = found.set_index(["label", "predicted"])["share"]
    assert shares["class28", "class29"] == shares["class28", "class28"] == 0.5


def test_differences_are_paired_and_selection_optimism_is_best_minus_last(chosen):
    random = np.random.default_rng(1)
    worse = random.random((3, IMAGES)) < 0.6
    better = worse | (np.arange(IMAGES) < 12)
    write_cell(FINETUNE, worse)
    write_cell(FROZEN, better)
    write_cell(PROBE, better, last=worse)
    comparison = compared(chosen)
    row = comparison.rows["differences"].set_index("pair").loc["alexnet-frozen − alexnet-finetune"]
    prior = read_results(chosen).replicate_prior()
    expected = estimate_difference(better.astype(float) - worse, prior)
    assert row["difference"] == pytest.approx(expected.value, abs=1e-6)
    assert row["high"] == pytest.approx(expected.high, abs=1e-6)
    good_enough, images = probability_good_enough(better.astype(float) - worse, prior)
    assert row["good_enough"] == pytest.approx(good_enough, abs=1e-6) and images is None
    optimism = comparison.table.set_index("cell")["selection_optimism"]
    assert optimism["alexnet-probe"] == pytest.approx(expected.value, abs=1e-6)
    assert optimism["alexnet-finetune"] == 0


def test_the_interval_of_the_selection_optimism_is_not_negative_and_needs_two_runs(chosen):
    last = np.ones((3, IMAGES), dtype=bool)
    last[0, :8] = False
    write_cell(FROZEN, np.ones((3, IMAGES)), last=last)
    write_cell(PROBE, np.ones((1, IMAGES)))
    limits = table_of(chosen).filter(like="selection_optimism_ci")
    assert limits.loc[FROZEN.name, "selection_optimism_ci_low"] == 0
    assert limits.loc[FROZEN.name, "selection_optimism_ci_high"] > 0.2
    assert limits.loc[PROBE.name].isna().all()


def test_intervals_of_cells_alone_stand_beside_those_that_use_all_cells(chosen):
    random = np.random.default_rng(2)
    for cell in CELLS:
        write_cell(cell, random.random((2, IMAGES)) < 0.8)
    row = table_of(chosen).loc["alexnet-frozen"]
    alone = estimate_accuracy(read_results(chosen).correct["alexnet-frozen", "best"])
    low, high = (row[f"best_val_accuracy_alone_ci_{side}"] for side in ("low", "high"))
    assert (low, high) == pytest.approx((alone.low, alone.high), abs=1e-6)
    assert low < row["best_val_accuracy_ci_low"] and row["best_val_accuracy_ci_high"] < high


def test_the_epoch_and_the_last_loss_are_means_over_the_finished_runs(chosen):
    write_cell(PROBE, np.ones((2, IMAGES)), last=first(30, replicates=2), diverged=1)
    row = table_of(chosen).loc[PROBE.name]
    assert row["val_loss_last_mean"] == pytest.approx(-0.75 * np.log(0.8) - 0.25 * np.log(0.2))
    assert row["best_epoch_mean"] == 1


def test_holms_correction_multiplies_by_the_number_of_pairs_that_remain(chosen):
    random = np.random.default_rng(4)
    hard = random.random((5, IMAGES)) < 0.35
    for cell, easy in zip(CELLS, (12, 17, 22), strict=True):
        write_cell(cell, hard | (np.arange(IMAGES) < easy))
    results = read_results(chosen)
    rows = compared(chosen).rows["differences"].set_index(["cell", "other"])
    prior = results.replicate_prior()
    p_values = {
        pair: estimate_difference(
            results.weighted_correct({pair[0]: 1, pair[1]: -1}), prior
        ).p_value
        for pair in rows.index
    }
    rejected, remaining = [], len(p_values)
    for pair in sorted(p_values, key=p_values.get):
        if p_values[pair] >= 0.05 / remaining:
            break
        rejected.append(pair)
        remaining -= 1
    assert sorted(rows.index[rows["holm"]]) == sorted(rejected) and len(rejected) == 1
    assert rows["differ"].all()


def test_holms_correction_counts_pairs_with_the_same_p_value_alike(chosen):
    random = np.random.default_rng(4)
    hard = random.random((5, IMAGES)) < 0.35
    write_cell(FINETUNE, hard | (np.arange(IMAGES) < 12))
    for cell in (FROZEN, PROBE):
        write_cell(cell, hard | (np.arange(IMAGES) < 18))
    rows = compared(chosen).rows["differences"].query("other == 'alexnet-finetune'")
    assert list(rows["differ"]) == [True, True] and list(rows["holm"]) == [False, False]


def test_the_time_of_a_probe_includes_its_share_of_the_features(chosen):
    seconds = compared(chosen).rows["time"].set_index("cell")["seconds"]
    own = read_json("metrics/timing/alexnet-probe.json")["seconds_per_run_mean"]
    assert seconds["alexnet-probe"] == pytest.approx(own + 20 / 3, abs=1e-3)


def test_confidence_is_the_probability_of_the_predicted_class(chosen):
    assert set(compared(chosen).rows["reliability"]["confidence"]) == {0.8}


def test_costs_come_with_their_rank_correlation_with_time(chosen):
    for cell, gmacs in zip(CELLS, (0.3839101, 0.3839102, 0.3839103), strict=True):
        path = f"metrics/cells/{cell.name}.json"
        write_json(path, {**read_json(path), "gmacs": gmacs})  # equal to three digits
    rows = compared(chosen).rows["costs"].drop_duplicates("cost").set_index("cost")
    assert rows.loc["trainable_parameters", "rank_correlation"] == pytest.approx(0.866, abs=0.001)
    assert rows.loc[["depth", "gmacs"], "rank_correlation"].isna().all()


@pytest.mark.parametrize("timed", ["frozen", "embed"])
def test_cells_timed_under_different_conditions_have_no_rank_correlation(chosen, timed):
    path = f"metrics/timing/alexnet-{timed}.json"
    write_json(path, {**read_json(path), "device": "a graphics card"})
    assert compared(chosen).rows["costs"]["rank_correlation"].isna().all()


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("metrics/cells/alexnet-frozen.json", "{", "alexnet-frozen.json cannot be read"),
        ("metrics/cells/alexnet-frozen.json", "{}", "no depth, diverged"),
        ("metrics/cells/alexnet-frozen.json", "[]", "no depth, diverged"),
        ("metrics/timing/alexnet-frozen.json", "{}", "no arithmetic, cores, device, dirty"),
        ("metrics/dataset.json", None, "dataset.json cannot be read"),
        ("metrics/timing/alexnet-embed.json", None, "alexnet-embed.json cannot be read"),
        ("plots/curves/alexnet-frozen.csv", "", "alexnet-frozen.csv cannot be read"),
        ("plots/predictions/alexnet-probe.csv", "seed,epoch\n0,1\n", "no column image"),
        ("plots/predictions/alexnet-probe.csv", "seed,epoch\nzero,1\n", "cannot be read"),
        (
            "data/published/summary.csv",
            "x\n1\n",
            "no column best_val_accuracy, cell, train_seconds",
        ),
    ],
)
def test_a_damaged_file_is_named(chosen, path, content, message):
    Path(path).unlink()
    if content is not None:
        Path(path).write_text(content)
    with pytest.raises(UserError, match=message):
        read_results(chosen)


@pytest.mark.parametrize("rows", [slice(1, None), slice(-1), slice(IMAGES * 3), [0, *range(240)]])
def test_missing_and_repeated_predictions_are_refused(chosen, rows):
    path = "plots/predictions/alexnet-frozen.csv"
    pd.read_csv(path).iloc[rows].to_csv(path, index=False)
    with pytest.raises(UserError, match="alexnet-frozen.csv cannot be read: "):
        read_results(chosen)


def test_curves_without_a_finished_seed_are_refused(chosen):
    path = "plots/curves/alexnet-frozen.csv"
    curves = pd.read_csv(path)
    curves[curves["seed"] != 2].to_csv(path, index=False)
    with pytest.raises(UserError, match="alexnet-frozen.csv cannot be read: no rows of seed 2"):
        read_results(chosen)


def test_cells_that_were_validated_on_other_images_are_not_compared(chosen):
    write_cell(FROZEN, np.ones((3, IMAGES - 2)))
    with pytest.raises(UserError, match="not validated on the same images"):
        read_results(chosen)


def test_a_damaged_photograph_is_named_and_nothing_is_written(chosen):
    write_cell(FROZEN, np.tile(np.arange(IMAGES) != 3, (3, 1)))
    photograph = Path("data/images/val/bees/003.jpg")
    photograph.write_bytes(b"x" * photograph.stat().st_size)
    with pytest.raises(UserError, match=r"bees/003\.jpg cannot be read(.|\n)*dvc repro verify"):
        write_comparison(chosen)
    assert not Path("metrics/summary.json").exists()


@pytest.mark.parametrize("name", ["claims.yaml", "curves.csv", "dataset.json", "summary.csv"])
def test_a_missing_file_of_the_write_up_comes_with_the_command_that_restores_it(chosen, name):
    Path("data/published", name).unlink()
    with pytest.raises(UserError, match=f"{name}.*\n.*estore it with: git checkout data$"):
        compared(chosen)


def test_an_image_is_taken_for_the_class_that_most_runs_predict(chosen):
    for cell, predicted in zip(CELLS, ("wasps", "flies", "wasps"), strict=True):
        write_cell(cell, np.ones((1, IMAGES)))
        path = f"plots/predictions/{cell.name}.csv"
        table = pd.read_csv(path)
        table.loc[table["image"] == "ants/004.jpg", "predicted"] = predicted
        table.to_csv(path, index=False)
    rows = compared(chosen).misclassified
    assert list(rows["image"]) == ["ants/004.jpg"]
    assert list(rows["predicted"]) == ["wasps"]
    assert list(rows["wrong"]) == list(rows["runs"]) == [3]


def index_with_copies(copies, train=60):
    """Index the images so that the first `copies` of validation repeat the first of training."""
    random = np.random.default_rng(2)
    hashes = {f"train/{image_name(number)}": random.bytes(8).hex() for number in range(train)}
    copied = [*hashes.values()][:copies]
    others = [random.bytes(8).hex() for _ in range(IMAGES - copies)]
    names = [f"val/{image_name(number)}" for number in range(IMAGES)]
    index_images({**hashes, **dict(zip(names, copied + others, strict=True))})
    return hashes


def test_every_near_duplicate_is_left_out_counted_and_listed(chosen):
    index_with_copies(12)
    for cell in CELLS:
        write_cell(cell, first(12))
    write_comparison(chosen)
    table = pd.read_csv("metrics/comparison.csv")
    assert (table["accuracy_without_near_duplicates"] == 0).all()
    pairs = pd.read_csv("metrics/near_duplicates.csv")
    names = sorted(image_name(number) for number in range(12))
    assert list(pairs["val"]) == [f"val/{name}" for name in names]
    assert list(pairs["train"]) == [f"train/{name}" for name in names]
    assert set(pairs["bits"]) == {0}
    assert read_json("metrics/summary.json")["near_duplicates"] == 12
    report = Path("metrics/comparison.md").read_text()
    assert "12 of 153 validation images nearly repeat" in report
    assert "the first 6, and 6 more there" in report and report.count("| val/") == 6
    assert "the first 6, and 22 more in `misclassified.csv`" in report


def test_only_validation_images_that_repeat_training_images_count(chosen):
    alike = {f"train/ants/{number}.jpg": "f" * 16 for number in range(2)}
    index_images(alike | {f"val/{image_name(number)}": "0" * 16 for number in range(IMAGES)})
    comparison = compared(chosen)
    assert comparison.near_duplicates.empty
    table = comparison.table
    assert (table["accuracy_without_near_duplicates"] == table["last_val_accuracy_mean"]).all()


def test_without_near_duplicates_their_file_has_a_header_alone(chosen):
    write_comparison(chosen)
    assert Path("metrics/near_duplicates.csv").read_text() == "val,train,bits\n"


def test_a_validation_set_of_copies_alone_leaves_no_accuracy_without_them(chosen):
    index_with_copies(IMAGES)
    assert table_of(chosen)["accuracy_without_near_duplicates"].isna().all()


def test_of_many_cells_the_best_is_compared_with_each_and_modes_of_one_network(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    networks, random = [f"net_{number}" for number in range(8)], np.random.default_rng(3)
    for place, name in enumerate(networks):
        monkeypatch.setitem(COSTS, name, {**COSTS["alexnet"], "gmacs": 1.0 + place})
        monkeypatch.setitem(TRAINED, name, 10)
    chosen = load_params(networks)
    write_images(IMAGES)
    for cell in chosen.cells():
        write_cell(cell, random.random((2, IMAGES)) < random.uniform(0.6, 0.9))
    comparison = compared(chosen)
    rows, table = comparison.rows["differences"], comparison.table.set_index("rank")
    modes = rows["cell"].str.split("-").str[0] == rows["other"].str.split("-").str[0]
    assert (rows["cell"] == table["cell"][1]).sum() == 23 and len(rows) == 23 + 3 * 8 - 2
    assert (modes | (rows["cell"] == table["cell"][1])).all()
    assert len([key for key in summary_metrics(comparison) if key.endswith(".last")]) == 12
    frontier = comparison.rows["frontier"]
    assert len(frontier) == 8 and frontier["on_frontier"].iloc[0]
    best_of_cheaper = frontier["accuracy"].cummax()
    assert (frontier["accuracy"] == best_of_cheaper)[frontier["on_frontier"]].all()
    assert frontier["on_frontier"].sum() == best_of_cheaper.nunique()


def test_a_probe_of_one_run_stands_for_every_seed(chosen):
    random = np.random.default_rng(5)
    write_cell(FINETUNE, random.random((3, IMAGES)) < 0.5)
    write_cell(FROZEN, np.empty((0, IMAGES)), diverged=3)
    write_cell(PROBE, first(38, replicates=1), curves=[])
    comparison = compared(chosen)
    (row,) = comparison.rows["differences"].to_dict("records")
    assert (row["cell"], row["seeds"], row["differ"]) == (PROBE.name, 3, True)
    accuracy = comparison.table.set_index("cell").loc[PROBE.name]
    assert np.isnan(accuracy["last_val_accuracy_std"])
    drawn = comparison.rows["accuracy"]
    assert set(drawn["cell"][drawn["what"] == "replicate"]) == {FINETUNE.name}


def test_groups_widen_every_interval_and_one_group_is_refused(chosen):
    random = np.random.default_rng(6)
    in_group = np.repeat(np.arange(10), 4)[np.arange(IMAGES)]
    for cell in CELLS:
        easy = random.random((1, 10)) < 0.7
        write_cell(cell, easy[:, in_group].repeat(3, axis=0) ^ (random.random((3, IMAGES)) < 0.05))
    alone = compared(chosen)
    names = [f"val/{image_name(number)}" for number in range(IMAGES)]
    hashes = {name: random.bytes(8).hex() for name in names}
    index_images(hashes, {name: f"g{group}" for name, group in zip(names, in_group, strict=True)})
    grouped = compared(chosen)
    for columns in ("last_val_accuracy_ci", "balanced_accuracy_ci", "expected_accuracy_ci"):
        widths = [
            (each.table[f"{columns}_high"] - each.table[f"{columns}_low"]).mean()
            for each in (alone, grouped)
        ]
        assert widths[1] > 1.4 * widths[0], columns
    widths = [
        (each.rows["differences"][["high", "low"]].diff(axis=1)["low"]) for each in (alone, grouped)
    ]
    assert (widths[1] < widths[0]).all()
    index_images(hashes, dict.fromkeys(names, "g"))
    with pytest.raises(UserError, match="All validation images are of one group"):
        compared(chosen)


def test_with_folds_images_keep_their_split_and_no_claim_is_tested(chosen):
    random = np.random.default_rng(7)
    for cell in CELLS:
        write_cell(cell, random.random((2, IMAGES)) < 0.8, folds=5)
    write_comparison(chosen)
    claims = read_json("metrics/claims.json")
    assert {claim["why"] for claim in claims} == {
        "about one split, and these cells were cross-validated"
    }
    report = Path("metrics/comparison.md").read_text()
    assert "each predicted once in 5 folds" in report and "a cross-validation in 5 folds" in report
    assert "all seeds have the same folds" not in report
    for path in Path("plots/predictions").glob("*.csv"):
        table = pd.read_csv(path)
        table["fold"] = table.groupby(["which", "seed"]).cumcount() % 5
        table.to_csv(path, index=False)
    write_comparison(chosen)
    assert "all seeds have the same folds" in Path("metrics/comparison.md").read_text()
