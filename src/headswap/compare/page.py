"""The comparison as one HTML file that needs no network."""

import base64
import io
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import vl_convert
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from PIL import Image

from headswap.compare.plots import MOST_CELLS, TEMPLATES
from headswap.compare.results import COLUMNS, read_table
from headswap.errors import UserError
from headswap.io import output_path, write_text
from headswap.paths import COMPARISON_PLOTS, METRICS, PREDICTIONS

LONG_TABLE = 12
"""Rows; a longer table is folded."""
MOST_WRONG = 50
"""How many rows of misclassified images are shown of a cell."""
AFTER_PHOTOGRAPHS = "<h2>Cautions</h2>"
"""What follows in the report on the photographs that were wrong, of which the page lists more."""


def write_page(output: Path) -> None:
    """Write the report with its pictures in it.

    A UserError says if a file of the comparison is missing, or the output would take the place of
    something else.
    """
    output = output_path(output, "--output", ".html")
    report, pictures = _render_report()
    before, heading, after = report.partition(AFTER_PHOTOGRAPHS)
    template = jinja2.Environment(autoescape=True).from_string(
        files("headswap.compare").joinpath("templates/page.html").read_text("utf-8")
    )
    page = template.render(
        before=before,
        after=heading + after,
        wrong=_wrong_images(),
        most_wrong=MOST_WRONG,
        script=vl_convert.javascript_bundle().replace("</script", "<\\/script"),  # type: ignore[call-arg]
        pictures=pictures,
    )
    write_text(output, page)


def _render_report() -> tuple[str, dict[str, dict[str, Any]]]:
    """Return the report as HTML, with a place for each interactive picture, and these pictures."""
    pictures: dict[str, dict[str, Any]] = {}

    def picture(renderer: Any, tokens: Any, place: int, options: Any, env: Any) -> str:
        path = COMPARISON_PLOTS / Path(str(tokens[place].attrs["src"])).name
        alt = escapeHtml(tokens[place].content)
        if path.stem != "gallery":
            pictures[path.stem] = json.loads((TEMPLATES / f"{path.stem}.json").read_text("utf-8"))
            rows = json.loads(_read(path.with_suffix(".json")))
            pictures[path.stem]["data"]["values"] = rows
            return f'<span class="plot" id="{path.stem}" role="img" aria-label="{alt}"></span>'
        photographs = io.BytesIO()
        Image.open(io.BytesIO(_read(path))).convert("RGB").save(photographs, "JPEG", quality=80)
        content = base64.b64encode(photographs.getvalue()).decode()
        return f'<img alt="{alt}" src="data:image/jpeg;base64,{content}">'

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    markdown.add_render_rule("image", picture)
    html = markdown.render(_read(METRICS / "comparison.md").decode())
    return re.sub("<table>.*?</table>", _fold_if_long, html, flags=re.DOTALL), pictures


def _fold_if_long(table: re.Match[str]) -> str:
    scrolling, rows = f'<div class="table">{table[0]}</div>', table[0].count("<tr>") - 1
    if rows <= LONG_TABLE:
        return scrolling
    return f"<details><summary>{rows} rows</summary>{scrolling}</details>"


def _wrong_images() -> dict[str, pd.DataFrame]:
    """Return the images that the most accurate cells got wrong at their last epochs, by cell."""
    _read(METRICS / "comparison.csv")
    ranked = pd.read_csv(METRICS / "comparison.csv").dropna(subset="rank").sort_values("rank")
    wrong = {}
    for cell in ranked["cell"].head(MOST_CELLS):
        path = PREDICTIONS / f"{cell}.csv"
        _read(path)
        rows = read_table(path, COLUMNS["predictions"])
        rows = rows[(rows["which"] == "last") & (rows["label"] != rows["predicted"])]
        if len(rows):
            wrong[cell] = rows.value_counts(["image", "label", "predicted"]).reset_index()
    return wrong


def _read(path: Path) -> bytes:
    if not path.exists():
        raise UserError(f"{path} is missing.\nMake it with: dvc repro, or bring it with: dvc pull")
    return path.read_bytes()
