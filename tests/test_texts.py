"""Small texts: of names, numbers and lists."""

from math import nan

from headswap.compare.plot_rows import wrap
from headswap.compare.report import join_words, percent
from headswap.compare.versions import merge_versions
from headswap.errors import printable
from headswap.markdown import escaped


def test_a_name_of_any_bytes_can_be_printed():
    assert printable("b\udcfcg.jpg") == r"b\xfcg.jpg"
    assert printable("a\rb.jpg") == r"a\rb.jpg"


def test_markdown_shows_a_text_as_it_is():
    assert escaped("under_$5_or_$ | *") == r"under\_\$5_or\_\$ \| \*"


def test_a_long_name_is_broken_where_its_words_end():
    assert wrap("a_network_with_a_long_name", 12) == ["a_network_", "with_a_long_", "name"]


def test_words_are_joined_as_in_prose():
    assert join_words("abc") == "a, b and c"
    assert join_words("abc", most=2) == "a, b and 1 more"


def test_a_share_has_its_interval_if_that_is_known():
    assert [percent(0.5), percent(0.5, 0.4, 0.62)] == ["50.0", "50.0 (40.0 to 62.0)"]
    assert percent(nan) == "–"


def test_all_versions_of_a_package_are_told():
    timing = {"versions": {"torch": "2.10"}, "weights_versions": {"torch": "2.9"}}
    assert merge_versions(timing) == {"torch": ["2.10", "2.9"]}
