"""Each link of a page to a file of this repository, and to a heading in one, has its target."""

import re

import pytest
from conftest import ROOT

PATTERNS = ("*.md", "docs/*.md", "docs/runs/*.md", "docs/runs/*/*.md", "benchmarks/*.md")
PAGES = sorted(page for pattern in PATTERNS for page in ROOT.glob(pattern))
"""Recorded reports are not among them: the photographs that they link to are not ours."""


def anchors(page):
    """Return the anchors of a page's headings as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if ":" not in link:
            path, _, anchor = link.partition("#")
            target = (page.parent / path) if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_the_readme_is_among_the_pages():
    assert ROOT / "README.md" in PAGES
