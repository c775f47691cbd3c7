"""Images with changed headers are read or reported (30,000 cases: benchmarks/fuzz.py)."""

import sys
from collections import Counter

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import fuzz  # noqa: E402


@pytest.mark.parametrize("seed", [1, 2])
def test_changed_bytes_of_headers_are_read_or_reported(seed):
    counts = Counter(fuzz.outcomes(500, seed))
    assert {what for _, what in counts} == {"read", "reported"}
    assert all(counts[name, "read"] and counts[name, "reported"] for name in fuzz.FORMATS)
