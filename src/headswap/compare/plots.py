"""Pictures: a Vega-Lite template and rows make a PNG, and the page of ``dvc plots show``."""

import base64
import io
import json
from pathlib import Path, PurePosixPath

import pandas as pd
import vl_convert
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from headswap.compare.plot_rows import json_records, with_every_cell, wrap
from headswap.compare.results import path_of
from headswap.images.reading import read_image
from headswap.io import atomic_write
from headswap.params import Cell
from headswap.paths import COMPARISON_PLOTS, IMAGES

TEMPLATES = Path(__file__).parent / "templates"
MOST_CELLS = 20  # in tables and in the picture of their accuracies
# How many cells a picture shows; others have a point for each.
MOST = {"accuracy": MOST_CELLS, "confusion": 12, "curves": 12, "reliability": 12, "unsure": 12}


def draw_png(name: str, rows: pd.DataFrame, **title: str) -> bytes:
    """Draw the template of that name with rows as its data: the same bytes for the same rows.

    `title` has another ``text`` and ``subtitle``.
    """
    template = json.loads((TEMPLATES / f"{name}.json").read_text(encoding="utf-8"))
    template["data"]["values"] = json_records(rows)
    template["title"] |= title
    drawn = vl_convert.vegalite_to_png(template, scale=2)
    return _encode(Image.open(io.BytesIO(drawn)).convert("RGB"))  # a quarter of the size, for Git


def write_pictures(rows: dict[str, pd.DataFrame], cells: list[Cell], gallery: pd.DataFrame) -> None:
    """Write each picture's rows and PNG; where cells take space, with the first in order alone."""
    trained = [cell for cell in cells if cell.mode != "probe"]
    with atomic_write(COMPARISON_PLOTS, replace_folder=True) as folder:
        folder.mkdir()
        for name, table in rows.items():
            if name != "differences":
                shown = trained if name == "curves" and trained else cells
                table = with_every_cell(table, shown[: MOST.get(name)], len(shown))
            elif table.empty:
                table = table.reindex([0])  # a row of nulls: DVC draws nothing from none
            lines = ",\n".join(map(json.dumps, json_records(table)))
            (folder / f"{name}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
            (folder / f"{name}.png").write_bytes(draw_png(name, table))
        (folder / "gallery.png").write_bytes(draw_png("gallery", gallery))


def gallery_rows(misclassified: pd.DataFrame, folds: int) -> pd.DataFrame:
    """Return the first misclassified validation images, small and upright, with a caption each.

    ``width`` and ``height`` are shares of the longer. A UserError says if an image is damaged.
    """
    rows = []
    for row in misclassified.head(12).itertuples():
        image = read_image(IMAGES / path_of(row.image, folds))
        image.thumbnail((320, 320))
        lines = [
            *wrap("/".join(PurePosixPath(row.image).parts[2 if folds else 1 :])),
            *wrap(f"true class: {row.label}", 32),
            *wrap(f"predicted: {row.predicted}", 32),
            f"{row.wrong} of {row.runs} runs wrong",
            f"true class's mean probability {row.probability:.0%}",
        ]
        url = f"data:image/png;base64,{base64.b64encode(_encode(image)).decode()}"
        rows.append(("\n".join(lines), url, *(side / max(image.size) for side in image.size)))
    return pd.DataFrame(rows, columns=["caption", "url", "width", "height"])


def _encode(image: Image.Image) -> bytes:
    file, made_by = io.BytesIO(), PngInfo()
    made_by.add_text("Software", "headswap")  # by which `output_path` knows what it may replace
    image.save(file, "png", pnginfo=made_by)
    return file.getvalue()
