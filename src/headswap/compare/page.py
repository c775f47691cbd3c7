"""The comparison as one HTML file that needs no network."""

import base64
import io
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import vl_convert
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from PIL import Image

from headswap.compare.plots import TEMPLATES
from headswap.errors import UserError
from headswap.io import refuse_outputs, write_text
from headswap.params import Params
from headswap.paths import COMPARISON_PLOTS, METRICS, PREDICTIONS


def write_page(params: Params, output: Path) -> None:
    """Write the report with its pictures in it.

    Raises
    ------
    UserError
        If a file of the comparison is missing, or the output is a folder or what a stage writes.
    """
    if output.is_dir():
        raise UserError(f"{output} is a folder.\nName a file: --output {output / 'report.html'}")
    refuse_outputs(output, "--output")
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
    report = markdown.render(_read(METRICS / "comparison.md").decode())
    wrong = {}
    for cell in params.cells():
        table = io.BytesIO(_read(PREDICTIONS / f"{cell.name}.csv"))
        rows = pd.read_csv(table, dtype={"label": str, "predicted": str}, keep_default_na=False)
        if rows.empty:
            continue
        rows = rows[(rows["which"] == "best") & (rows["label"] != rows["predicted"])]
        wrong[cell.name] = rows.value_counts(["image", "label", "predicted"]).reset_index()
    template = jinja2.Environment(autoescape=True).from_string(
        files("headswap.compare").joinpath("templates/page.html").read_text("utf-8")
    )
    script = vl_convert.javascript_bundle().replace("</script", "<\\/script")  # type: ignore[call-arg]
    write_text(
        output, template.render(report=report, script=script, wrong=wrong, pictures=pictures)
    )


def _read(path: Path) -> bytes:
    if not path.exists():
        raise UserError(f"{path} is missing.\nMake it with: dvc repro, or bring it with: dvc pull")
    return path.read_bytes()
