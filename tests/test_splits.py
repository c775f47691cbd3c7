"""Splits by share: groups stay whole, and each class has its share as far as they allow."""

import hashlib
from collections import Counter, defaultdict, namedtuple
from random import Random

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headswap.data.writing import name_groups, split_items
from headswap.errors import UserError

Item = namedtuple("Item", "label sha256 group split")


def items_of(labels, groups=None, splits=None):
    """Make photographs of different content."""
    count = len(labels)
    contents = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]
    return [*map(Item, labels, contents, groups or [""] * count, splits or [""] * count)]


def split(items, *arguments, same=None, **options):
    same = same or [one.sha256 for one in items]
    return split_items(pd.DataFrame(items), same, *arguments, **options)[0]


def split_or_refuse(*arguments, **options):
    """Split; None if some class has too few groups."""
    try:
        return split(*arguments, **options)
    except UserError:
        return None


def sides(splits, groups):
    """Return the splits of each group."""
    found = defaultdict(set)
    for side, group in zip(splits, groups, strict=True):
        found[group].add(side)
    return found


labels = st.lists(st.sampled_from("abc"), min_size=2, max_size=60)
groups = st.one_of(st.just(""), st.integers(0, 12).map(str))
shares = st.sampled_from([0.1, 0.25, 0.3, 0.5])
grouped = st.lists(st.tuples(st.sampled_from("abc"), groups), min_size=2, max_size=80)


@settings(max_examples=30, deadline=None)
@given(labels, shares, st.integers(0, 3), st.sampled_from([0, 0.4]), st.randoms())
@example(list("abc") * 20, 0.3, 1, 0.4, Random(0))
def test_photographs_without_groups_are_taken_in_the_order_of_their_digests(
    labels, share, seed, known_share, random
):
    """So that a manifest that was written by any version is written again as it was."""
    known = [
        random.choice(["train", "val"]) if random.random() < known_share else "" for _ in labels
    ]
    items = items_of(labels, splits=known)
    found = split_or_refuse(items, share, seed=seed)
    if found is None:
        assert any(known) or 1 in Counter(labels).values()
        return
    for label, size in Counter(labels).items():
        of = [place for place, one in enumerate(items) if one.label == label]
        wanted = min(max(1, round(share * size)), size - 1)
        val = {place for place in of if items[place].split == "val"}
        free = [place for place in of if not items[place].split]
        rank = [hashlib.sha256(f"{seed}/{items[p].sha256}".encode()).hexdigest() for p in free]
        val |= {p for _, p in sorted(zip(rank, free, strict=True))[: max(0, wanted - len(val))]}
        assert {place for place in of if found[place] == "val"} == val


@settings(max_examples=30, deadline=None)
@given(grouped, shares, st.sampled_from([0, 0.2]), st.integers(0, 3), st.data())
def test_groups_and_what_is_the_same_stay_together(rows, val, test, seed, data):
    places = st.integers(0, len(rows) - 1)
    copied = data.draw(st.dictionaries(places, places, max_size=4))
    known = data.draw(st.dictionaries(places, st.sampled_from(["train", "val"]), max_size=9))
    items = items_of(*zip(*rows, strict=True))
    items = [one._replace(split=known.get(place, "")) for place, one in enumerate(items)]
    same = [copied.get(place, place) for place in range(len(items))]
    found = split_or_refuse(items, val, test, seed, same=same)
    if found is None:
        return
    assert all(len(of) == 1 for of in sides(found, same).values())
    joint = sides(found, [one.group for one in items])
    assert all(len(of) == 1 for group, of in joint.items() if group)
    for label in {one.label for one in items}:
        of = {s for s, one in zip(found, items, strict=True) if one.label == label}
        assert {"train", "val"} <= of
    names = name_groups(pd.DataFrame(items), same)
    assert all(len(of) == 1 for name, of in sides(found, names).items() if name)
    alone = [place for place, name in enumerate(names) if not name]
    assert all(found[place] == known[place] for place in alone if place in known)


@settings(max_examples=30, deadline=None)
@given(labels, shares, st.integers(0, 3))
def test_a_test_set_takes_nothing_from_the_validation_set(labels, val, seed):
    items = items_of(labels)
    if without := split_or_refuse(items, val, seed=seed):
        both = split(items, val, 0.2, seed)
        few = {label for label, count in Counter(labels).items() if count == 3}  # 2 go to val
        for label, before, after in zip(labels, without, both, strict=True):
            assert (before == "val") == (after == "val") or label in few


def test_a_test_set_is_taken_out_of_what_is_trained_on_where_val_is_ready():
    items = items_of("a" * 20 + "b" * 20, splits=(["val"] * 10 + [""] * 10) * 2)
    found = split(items, 0, 0.2)
    assert Counter(found[:20]) == Counter(found[20:]) == {"val": 10, "test": 4, "train": 6}
    assert found[:10] == found[20:30] == ["val"] * 10


def test_shares_are_reached_as_far_as_groups_allow_and_it_is_said_how_far():
    sizes = [40, 25, 9, 8, 7, 6, 3, 2]
    rows = [("ant", str(group)) for group, size in enumerate(sizes) for _ in range(size)]
    rows += [("bee", "hive")] * 30 + [("bee", "garden")] * 10 + [("wasp", "")] * 10
    items = items_of(*zip(*rows, strict=True))
    _, missed = split_items(pd.DataFrame(items), range(len(items)), 0.3, 0.1, seed=1)
    assert missed == [
        "test: 0.0% of bee (wanted 10.0%)",
        "val: 25.0% of bee (wanted 30.0%)",
        "test: 9.0% of ant (wanted 10.0%)",
    ]


def test_known_photographs_stay_and_groups_that_were_cut_are_split_anew():
    found = split(items_of("aaaa", ["g", "g", "", ""], ["val", "val", "train", ""]), 0.5)
    assert found[:3] == ["val", "val", "train"]
    found = split(items_of("a" * 8, list("gghhiijj"), ["train", "val"] * 4), 0.5)
    assert found.count("val") == 4


def test_groups_that_copies_join_have_the_first_name_and_copies_alone_a_digest():
    items = items_of(["a"] * 7, ["x", "x", "y", "", "", "", "z"])
    digest = min(items[4].sha256, items[5].sha256)[:16]
    names = name_groups(pd.DataFrame(items), [0, 1, 1, 1, 2, 2, 3])
    assert names == ["x"] * 4 + [digest] * 2 + ["z"]


@pytest.mark.parametrize(
    ("labels", "groups", "named"),
    [
        ("aabb", "xx12", r"a \(images: 2, groups: 1\)"),
        ("ab", "12", r"a \(images: 1, groups: 1\)\n  b"),
        ("abbcac", "112233", r"\(images: 2, groups: 2\)"),
    ],
)
def test_classes_that_cannot_be_split_are_named(labels, groups, named):
    """In the last one, two classes are in two of three groups each, and one is in one."""
    with pytest.raises(UserError, match=named):
        split(items_of(labels, list(groups)), 0.3)
