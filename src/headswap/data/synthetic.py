"""Synthetic images: a small set of drawn ants and bees, for where there is no network."""

import hashlib
import io
import zipfile

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from headswap.data.manifest import COLUMNS
from headswap.io import StrPath

SIDE = 96  # pixels
SCALE = 4  # images are drawn this many times larger, so that edges are smooth
COUNTS = {"train": 24, "val": 20}  # of each class
MANIFEST = "manifest.csv"  # in the archive


def draw_archive(path: StrPath) -> None:
    """Write all images and their manifest as a zip, always the same bytes."""
    rows = [",".join(COLUMNS)]
    groups = [(split, label) for split in COUNTS for label in ("ants", "bees")]
    with zipfile.ZipFile(path, "w") as archive:
        for number, (split, label) in enumerate(groups):
            for index in range(COUNTS[split]):
                name, encoded = f"{split}/{label}/{index:03d}.png", io.BytesIO()
                draw_insect(label, np.random.default_rng([number, index])).save(encoded, "png")
                content = encoded.getvalue()
                archive.writestr(zipfile.ZipInfo(name), content)
                rows.append(f"{name},{len(content)},{hashlib.sha256(content).hexdigest()}")
        archive.writestr(zipfile.ZipInfo(MANIFEST), "\n".join([*rows, ""]))


def draw_insect(label: str, random: np.random.Generator) -> Image.Image:
    """Draw an insect: RGB, `SIDE` × `SIDE` pixels, of random colours, place, size and direction."""
    side = SIDE * SCALE
    background = (196, 178, 150) if label == "ants" else (92, 140, 84)
    noise = random.normal(0, 30, (12, 12, 3)) + background + random.normal(0, 22, 3)
    pixels = np.clip(noise, 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
    insect = Image.new("RGBA", (side, side))
    (_draw_ant if label == "ants" else _draw_bee)(ImageDraw.Draw(insect), side, random)
    size = int(side * random.uniform(0.7, 1.1))
    turned = insect.rotate(random.uniform(0, 360), Image.Resampling.BICUBIC).resize((size, size))
    x, y = (side - size) / 2 + random.uniform(-0.12, 0.12, 2) * side
    image.paste(turned, (int(x), int(y)), turned)
    blurred = image.filter(ImageFilter.GaussianBlur(2))
    return blurred.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _draw_ant(pen: ImageDraw.ImageDraw, side: int, random: np.random.Generator) -> None:
    middle, tone = side / 2, int(random.uniform(15, 70))
    dark = (tone + 20, tone, tone)
    for sign in (-1, 1):
        for lean in (-0.22, -0.02, 0.2):
            knee = (middle + lean * side * 0.7, middle + sign * side * 0.17)
            foot = (middle + lean * side * 1.3, middle + sign * side * 0.3)
            pen.line([(middle, middle), knee, foot], fill=dark, width=SCALE * 2)
    for offset, length, width in ((-0.2, 0.08, 0.065), (0, 0.09, 0.04), (0.22, 0.13, 0.085)):
        pen.ellipse(_box(side, offset, 0, length, width), dark)


def _draw_bee(pen: ImageDraw.ImageDraw, side: int, random: np.random.Generator) -> None:
    yellow = (int(random.uniform(205, 255)), int(random.uniform(140, 195)), 30)
    for y in (-0.2, 0.2):
        pen.ellipse(_box(side, -0.02, y, 0.1, 0.17), (225, 230, 235, 150))
    pen.ellipse(_box(side, 0, 0, 0.3, 0.16), yellow)
    for x in (-0.14, 0, 0.14):
        pen.rectangle(_box(side, x, 0, 0.03, 0.14), (25, 20, 15))
    pen.ellipse(_box(side, -0.3, 0, 0.09, 0.1), (30, 25, 20))


def _box(side: int, x: float, y: float, length: float, width: float) -> list[float]:
    """Return left, top, right and bottom in pixels of what is given in parts of the side."""
    x, y, length, width = side / 2 + x * side, side / 2 + y * side, length * side, width * side
    return [x - length, y - width, x + length, y + width]
