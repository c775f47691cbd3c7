"""The comparison as one HTML file that needs no network."""

import base64
import io
import json
from datetime import date
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
from headswap.io import existing, output_path, read_looks, write_text
from headswap.paths import COMPARISON_PLOTS, METRICS, PREDICTIONS

MOST_WRONG = 50  # rows of misclassified images that are shown of a cell


def write_page(output: Path) -> None:
    """Write the report with its pictures in it, and more of the photographs that were wrong."""
    output = output_path(
        output, "--output", ".html", mark="<!DOCTYPEhtml><.*><title>.*:comparison,"
    )
    report, pictures = _render_report()
    before, heading, after = report.partition("<h2>Cautions</h2>")
    environment = jinja2.Environment(autoescape=True, loader=jinja2.FileSystemLoader(TEMPLATES))
    page = environment.get_template("page.html").render(
        project=Path.cwd().name,
        date=f"{date.today():%-d %B %Y}",
        before=before,
        after=heading + after,
        looks=read_looks(),
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
        name, alt = path.stem, escapeHtml(tokens[place].content)
        if name != "gallery":
            pictures[name] = json.loads((TEMPLATES / f"{name}.json").read_text("utf-8"))
            rows = json.loads(existing(path.with_suffix(".json")).read_text("utf-8"))
            pictures[name]["data"]["values"] = rows
            return f'<span class="plot" id="{name}" role="img" aria-label="{alt}"></span>'
        photographs = io.BytesIO()
        Image.open(existing(path)).convert("RGB").save(photographs, "JPEG", quality=80)
        content = base64.b64encode(photographs.getvalue()).decode()
        return f'<img alt="{alt}" src="data:image/jpeg;base64,{content}">'

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    markdown.add_render_rule("image", picture)
    html = markdown.render(existing(METRICS / "comparison.md").read_text("utf-8"))
    html = html.replace(" %", "\N{NO-BREAK SPACE}%")
    html = html.replace("<table>", '<div class="table"><table>')
    return html.replace("</table>", "</table></div>"), pictures


def _wrong_images() -> dict[str, pd.DataFrame]:
    """Return the images that the most accurate cells got wrong at their last epochs, by cell."""
    table = pd.read_csv(existing(METRICS / "comparison.csv"))
    wrong = {}
    for cell in table.dropna(subset="rank").sort_values("rank")["cell"].head(MOST_CELLS):
        rows = read_table(existing(PREDICTIONS / f"{cell}.csv"), COLUMNS["predictions"])
        rows = rows[(rows["which"] == "last") & (rows["label"] != rows["predicted"])]
        if len(rows):
            wrong[cell] = rows.value_counts(["image", "label", "predicted"]).reset_index()
    return wrong
