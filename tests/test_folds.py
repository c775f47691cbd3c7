"""Folds keep groups whole, and give each class its share."""

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from headswap.images.folds import folds

LABELS = st.lists(st.sampled_from("abc"), min_size=1, max_size=40)
GROUPED = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["", None, *"12345678"])),
    min_size=1,
    max_size=40,
)


@settings(max_examples=50, deadline=None)
@given(LABELS, st.integers(2, 6), st.integers(0, 3))
def test_folds_without_groups_differ_by_one_at_most(labels, k, seed):
    found, labels = folds(labels, k, seed), np.array(labels)
    for of in [found, *(found[labels == label] for label in "abc")]:
        sizes = np.bincount(of, minlength=k)
        assert sizes.max() - sizes.min() <= 1


@settings(max_examples=50, deadline=None)
@given(GROUPED, st.integers(2, 6), st.integers(0, 3))
def test_folds_keep_groups_whole(rows, k, seed):
    labels, groups = zip(*rows, strict=True)
    found = folds(labels, k, seed, groups)
    assert (found == folds(labels, k, seed, groups)).all()
    assert set(found) <= set(range(k))
    folds_of_group = defaultdict(set)
    for group, fold in zip(groups, found, strict=True):
        folds_of_group[group].add(fold)
    assert all(len(of) == 1 for group, of in folds_of_group.items() if group)


def test_folds_of_groups_are_about_equal_and_each_seed_has_its_own():
    labels, groups = [], []
    for site in range(60):
        for label in "abc":
            count = (site * (3 + ord(label))) % 7
            labels += [label] * count
            groups += [str(site)] * count
    found = folds(labels, 5, 0, groups)
    for label in "abc":
        sizes = np.bincount(found[np.array(labels) == label], minlength=5)
        assert abs(sizes - sizes.sum() / 5).max() <= 5
    assert (folds(labels, 5, 1, groups) != found).any()
