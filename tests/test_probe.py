"""The probe finds the best head, judges its penalty honestly, and works for few and odd images."""

import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import special
from sklearn.linear_model import LogisticRegression

from headswap.train.probe import GRID, fit_probe


def draw(images, features, classes, distance, seed=0):
    """Return features around a center for each class, of unequal variance, and labels."""
    random = np.random.default_rng(seed)
    deviations = np.arange(1, features + 1) ** -0.5
    centers = np.random.default_rng(99).normal(size=(classes, features)) * deviations * distance
    labels = np.arange(images) % classes
    drawn = centers[labels] + random.normal(size=(images, features)) * deviations + 0.5
    return drawn.astype(np.float32), labels


def log_proba(fit, features):
    assert fit.weight.dtype == fit.bias.dtype == np.float32
    return special.log_softmax(features @ fit.weight.T + fit.bias, axis=1)


def log_loss(fit, features, labels):
    return -log_proba(fit, features)[np.arange(len(labels)), labels]


@pytest.mark.parametrize(("classes", "features"), [(2, 4), (3, 4), (3, 15)])
def test_the_head_is_that_of_scikit_learn(classes, features):
    images, labels = draw(12, features, classes, 0.5)
    fit = fit_probe(images, labels, classes, seed=0)
    centred = images - images.mean(axis=0, dtype=float)
    centred /= np.sqrt((centred**2).sum(axis=1).mean())
    theirs = LogisticRegression(C=fit.C, tol=1e-9, max_iter=10_000)
    if classes == 2:  # a softmax of two columns: with half of the weights each
        theirs.C = 2 * fit.C
    expected = theirs.fit(centred, labels).predict_log_proba(centred)
    np.testing.assert_allclose(log_proba(fit, images), expected, atol=1e-4)
    assert fit.weight.shape == (classes, features)


def test_held_out_images_have_the_log_loss_of_new_ones_and_c_is_the_best_for_these():
    images, labels = draw(400, 40, 4, 0.5)
    fit = fit_probe(images, labels, 4, seed=0)
    best = min(fit.path, key=lambda step: step.log_loss)
    assert fit.C == best.C
    assert GRID[0] < fit.C < GRID[-1]
    assert [step.C for step in fit.path] == GRID[: GRID.index(fit.C) + 3]
    new = draw(8000, 40, 4, 0.5, seed=1)
    assert log_loss(fit, *new).mean() == pytest.approx(best.log_loss, abs=0.08)
    hits = log_proba(fit, new[0]).argmax(axis=1) == new[1]
    assert hits.mean() == pytest.approx(best.accuracy, abs=0.04)


def test_images_of_a_group_are_held_out_together():
    random = np.random.default_rng(0)
    images = np.repeat(random.normal(size=(40, 60)).astype(np.float32), 4, axis=0)
    labels = np.repeat(random.integers(2, size=40), 4)  # nothing to learn, but by heart
    groups = np.repeat(random.permutation(40), 4).astype(str).tolist()
    apart = fit_probe(images, labels, 2, seed=0)
    together = fit_probe(images, labels, 2, 0, groups)
    assert max(step.accuracy for step in apart.path) > 0.95
    assert max(step.accuracy for step in together.path) < 0.7
    assert together.C < apart.C


@pytest.mark.parametrize("factor", [10, 0.1])
def test_the_scale_of_the_features_does_not_matter(factor):
    images, labels = draw(150, 200, 3, 0.6)
    fit, scaled = (fit_probe(x, labels, 3, seed=0) for x in (images, images * np.float32(factor)))
    assert scaled.C == fit.C
    new, _ = draw(1000, 200, 3, 0.6, seed=1)
    expected, found = log_proba(fit, new), log_proba(scaled, new * np.float32(factor))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()


def test_features_without_variance_change_nothing():
    images, labels = draw(60, 10, 3, 0.6)
    more = np.hstack([np.full((60, 200), 0.1, np.float32), images])
    fit, wider = fit_probe(images, labels, 3, seed=0), fit_probe(more, labels, 3, seed=0)
    np.testing.assert_allclose(wider.weight[:, 200:], fit.weight, atol=1e-4)
    np.testing.assert_allclose(log_proba(wider, more), log_proba(fit, images), atol=1e-4)
    constant = fit_probe(more[:, :200], labels, 3, seed=0)
    np.testing.assert_allclose(log_proba(constant, more[:, :200]), np.log(1 / 3), atol=1e-5)


def test_both_ends_of_the_grid_may_be_the_best():
    images, labels = draw(60, 10, 3, 30)
    certain = fit_probe(images, labels, 3, seed=0)
    assert GRID[-1] == certain.C
    twins = np.repeat(images[:30], 2, axis=0)
    hopeless = fit_probe(twins, np.arange(60) % 2, 2, seed=0)  # two of the same are two classes
    assert GRID[0] == hopeless.C


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        ([0] * 20 + [1] * 20 + [2], None),
        ([0] * 20 + [1] * 20 + [2] * 3, None),
        ([0] * 20 + [1] * 20 + [2] * 9, [*range(40), *[40] * 9]),
        ([0] * 20 + [1] * 20 + [2] * 9, [*[0, 1] * 20, *[2] * 9]),
        ([0] * 20 + [1] * 20, None),
        ([0, 0, 1, 1, 2, 2], None),
        ([0, 1, 2], None),
        ([0] * 9 + [1] * 9 + [2] * 9, [0] * 9 + [1] * 9 + [2] * 9),
        ([0] * 9 + [1] * 9 + [2] * 9, [0] * 27),
        ([0] * 9, None),
    ],
    ids=[
        "a class with one image",
        "a class with fewer images than folds",
        "a class in one group",
        "fewer groups than folds",
        "a class without images",
        "two images of each class",
        "one image of each class",
        "each class in one group",
        "one group",
        "one class",
    ],
)
def test_few_images_or_groups_of_a_class_are_enough(labels, groups):
    labels = np.array(labels)
    images, _ = draw(3000, 20, 3, 3)
    images = images.reshape(1000, 3, 20)[np.arange(len(labels)), labels]
    fit = fit_probe(images, labels, 3, 2**53 - 1, groups and [*map(str, groups)])
    assert np.isfinite([step.log_loss for step in fit.path]).all()
    new = draw(300, 20, 3, 3, seed=1)
    losses = log_loss(fit, *new)
    known = np.isin(new[1], labels)
    assert losses[known].mean() < 0.7
    assert losses.max() < 30  # a class without images is improbable, not impossible


def test_images_whose_class_the_other_groups_lack_do_not_decide_c():
    images, labels = draw(300, 20, 3, 0.7)
    groups = np.where(labels == 2, 0, np.arange(300)).astype(str).tolist()
    fit = fit_probe(images, labels, 3, 0, groups)
    others = fit_probe(images[labels < 2], labels[labels < 2], 2, seed=0)
    assert abs(GRID.index(fit.C) - GRID.index(others.C)) <= 1
    best = min(fit.path, key=lambda step: step.log_loss)
    assert best.log_loss > np.log(200) / 3
    assert best.accuracy < 2 / 3


@pytest.mark.slow
def test_the_number_of_cores_changes_no_byte(tmp_path):
    script = """if True:
        import hashlib, sys
        import numpy as np
        from headswap.train.probe import fit_probe
        random = np.random.default_rng(0)
        for images in 300, 900:
            features = random.normal(size=(images, 600)).astype(np.float32)
            features[:, :3] += 3 * np.eye(3, dtype=np.float32)[np.arange(images) % 3]
            fit = fit_probe(features, np.arange(images) % 3, 3, seed=0)
            print(hashlib.sha256(fit.weight.tobytes() + fit.bias.tobytes()).hexdigest(), fit)
    """
    one, eight = (
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "OMP_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "8")
    )
    assert one == eight
