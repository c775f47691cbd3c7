"""Pictures of the comparison: a Vega-Lite template and rows make a PNG.

The same templates and rows make the page of ``dvc plots show``; ``dvc.yaml`` names both.
"""

import base64
import io
import json
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
import vl_convert
from PIL import Image

from headswap.compare.plot_rows import records, with_every_cell, wrapped
from headswap.errors import UserError
from headswap.images.reading import UnreadableImage, read_image
from headswap.io import atomic_write
from headswap.params import Cell
from headswap.paths import COMPARISON_PLOTS, IMAGES

TEMPLATES = Path(__file__).parent / "templates"
THUMBNAIL = 320
"""Pixels, the longer side."""


def specification(name: str, rows: pd.DataFrame) -> dict[str, Any]:
    """Return a picture in Vega-Lite: the template of that name with rows as its data."""
    template = json.loads((TEMPLATES / f"{name}.json").read_text(encoding="utf-8"))
    template["data"]["values"] = records(rows)
    return template


def png(name: str, rows: pd.DataFrame) -> bytes:
    """Draw a picture as PNG, the same bytes for the same rows."""
    drawn = vl_convert.vegalite_to_png(specification(name, rows), scale=2)
    return _encode(Image.open(io.BytesIO(drawn)).convert("RGB"))  # a quarter of the size, for Git


def write(
    rows: dict[str, pd.DataFrame], cells: dict[str, Cell], misclassified: pd.DataFrame
) -> None:
    """Write the folder of pictures: the rows as ``<name>.json``, and ``<name>.png``.

    Parameters
    ----------
    rows
        Of each picture, by its name.
    cells
        All cells by their names, in order.
    misclassified
        What the gallery shows, from `gallery`.
    """
    with atomic_write(COMPARISON_PLOTS) as folder:
        folder.mkdir()
        for name, table in rows.items():
            if name != "differences":
                table = with_every_cell(table, cells)
            elif table.empty:
                table = table.reindex([0])  # a row of nulls: DVC draws nothing from none
            lines = ",\n".join(map(json.dumps, records(table)))
            (folder / f"{name}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
            (folder / f"{name}.png").write_bytes(png(name, table))
        (folder / "gallery.png").write_bytes(png("gallery", misclassified))


def gallery(misclassified: pd.DataFrame, folder: Path = IMAGES) -> pd.DataFrame:
    """Return validation images with a caption each.

    Parameters
    ----------
    misclassified
        From `comparison.most_misclassified`.
    folder
        Where the images are.

    Returns
    -------
    pandas.DataFrame
        ``caption``; ``url``, with the image in it, small and upright; its ``width`` and ``height``
        as shares of the longer of them.

    Raises
    ------
    UserError
        If an image is missing or damaged.
    """
    rows = []
    for row in misclassified.itertuples():
        image = _thumbnail(Path(folder, "val", row.image))
        longer = max(image.size)
        caption = (
            *wrapped(PurePosixPath(row.image).name),
            *wrapped(f"true class: {row.label}", 32),
            *wrapped(f"predicted: {row.predicted}", 32),
            f"{row.wrong} of {row.runs} runs wrong",
            f"true class's probability {row.probability:.0%}",
        )
        rows.append(
            {
                "caption": "\n".join(caption),
                "url": _data_url(image),
                "width": image.width / longer,
                "height": image.height / longer,
            }
        )
    return pd.DataFrame(rows, columns=["caption", "url", "width", "height"])


def _thumbnail(path: Path) -> Image.Image:
    try:
        image = read_image(path)
    except UnreadableImage as error:
        raise UserError(f"{error}\nRestore the images with: dvc repro verify") from error
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image


def _data_url(image: Image.Image) -> str:
    return f"data:image/png;base64,{base64.b64encode(_encode(image)).decode()}"


def _encode(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()
