"""Calibrated probabilities: fitted on held-out images, used wherever a network answers."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import headswap
from scipy.special import softmax

from headswap import load_model
from headswap.compare.intervals import reliability
from headswap.io import read_csv, read_json
from headswap.runs.temperature import cross_fit, fit_temperature

random = np.random.default_rng(0)


def overconfident(images, by):
    """Return probabilities whose logits are so many times too large, and labels."""
    logits = random.normal(size=(images, 3)) * 1.5
    labels = np.array([random.choice(3, p=of) for of in softmax(logits, axis=1)])
    return softmax(logits * by, axis=1), labels


@pytest.mark.parametrize("by", [0.5, 1, 3])
def test_the_temperature_undoes_too_much_and_too_little_confidence(by):
    assert fit_temperature(*overconfident(5000, by)) == pytest.approx(by, rel=0.1)


def test_without_a_mistake_nothing_becomes_certain():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8]] * 20)
    temperature = fit_temperature(probabilities, np.array([0, 1] * 20))
    assert 0.1 < temperature < 1
    assert softmax(np.log(probabilities) / temperature, axis=1).max() < 0.9999


def test_the_reported_error_is_of_images_that_did_not_give_the_temperature():
    probabilities, labels = overconfident(400, 3)
    images = np.arange(400)
    found = cross_fit(probabilities, labels, images)
    even = images % 2 == 0
    assert found[even] == pytest.approx(
        softmax(
            np.log(probabilities[even]) / fit_temperature(probabilities[~even], labels[~even]),
            axis=1,
        )
    )
    before, after = (
        reliability(of.max(axis=1), of.argmax(axis=1) == labels)[1] for of in (probabilities, found)
    )
    assert after < before / 2


def test_the_network_to_use_is_calibrated_and_its_recorded_predictions_are_not(trained):
    cell = "tiny-frozen"
    record = read_json(f"models/{cell}/model.json")
    rows = [r for r in read_csv(f"plots/predictions/{cell}.csv") if r["which"] == "last"]
    columns = [f"p_{name}" for name in record["classes"]]
    probabilities = np.array([[float(row[name]) for name in columns] for row in rows])
    labels = np.array([record["classes"].index(row["label"]) for row in rows])
    assert record["temperature"] == pytest.approx(fit_temperature(probabilities, labels), rel=1e-3)
    network = load_model(f"models/{cell}")
    of_seed = [row for row in rows if int(row["seed"]) == record["kept"]["seed"]][:4]
    batch = network.preprocess(*(f"data/images/val/{row['image']}" for row in of_seed))
    raw = np.array([[float(row[name]) for name in columns] for row in of_seed])
    expected = softmax(np.log(raw) / record["temperature"], axis=1)
    assert network(batch).softmax(1).numpy() == pytest.approx(expected, abs=1e-4)


def test_below_the_share_the_answer_is_unsure(trained, tmp_path):
    network = load_model("models/tiny-frozen")
    images = sorted(Path("data/images/val").rglob("*.png"))[:12]
    sure = network(network.preprocess(*images)).softmax(1).max(1).values
    share = float(sure.median())
    _, said = headswap(
        "predict", "tiny-frozen", *images, "--unsure", share, "--json", tmp_path / "a.json"
    )
    rows = json.loads((tmp_path / "a.json").read_text())
    unsure = {row["path"] for row in rows if row["class"] == "unsure"}
    expected = {str(path) for path, of in zip(images, sure.tolist(), strict=True) if of < share}
    assert unsure == expected and 0 < len(expected) < 12
    assert f": {len(expected)} of 12 photographs" in said


def test_the_report_says_the_error_before_and_after(own_trained, no_pictures):
    headswap("compare")
    assert "with a temperature that other images gave" in Path("metrics/comparison.md").read_text()
    table = list(read_csv("metrics/comparison.csv"))
    assert all(float(row["calibration_error_with_temperature"]) >= 0 for row in table)
    assert all(float(row["temperature"]) > 0 for row in table)
