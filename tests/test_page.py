"""The comparison as one HTML file."""

from html.parser import HTMLParser
from pathlib import Path

import pytest
from fake_cells import write_alexnet

from headswap.compare.outputs import write_comparison
from headswap.compare.page import write_page
from headswap.errors import UserError


def test_the_page_needs_no_other_file(workspace):
    params = write_alexnet(30)
    write_comparison(params)
    write_page(params, Path("report.html"))
    text = Path("report.html").read_text()
    sources = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: sources.append(dict(attributes).get("src"))
    parser.feed(text)
    pictures = list(filter(None, sources))
    assert pictures and all(source.startswith("data:") for source in pictures)
    assert len(text) < 3e6
    Path("metrics/comparison.md").unlink()
    with pytest.raises(UserError, match="comparison.md is missing"):
        write_page(params, Path("report.html"))
    with pytest.raises(UserError, match="is not a folder"):
        write_page(params, Path("missing/report.html"))
