"""Generated images: a small two-class set of our own drawings, for where there is no network."""

import csv
import hashlib
import io
import zipfile

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE = 96
COUNTS = {"train": 24, "val": 20}
"""Images of each class in each split."""
SCALE = 4
"""Drawn this many times larger, then reduced, so that edges are smooth."""


def draw_archive(path, manifest):
    """Write the whole set as a zip, with its manifest in it.

    Parameters
    ----------
    path : path-like
        The zip to write; always the same bytes.
    manifest : str
        The name that the manifest has in it.
    """
    rows = [("path", "bytes", "sha256")]
    with zipfile.ZipFile(path, "w") as archive:
        for number, (split, label) in enumerate(
            (split, label) for split in COUNTS for label in ("ants", "bees")
        ):
            for index in range(COUNTS[split]):
                name = f"{split}/{label}/{index:03d}.png"
                encoded = io.BytesIO()
                draw(label, np.random.default_rng([number, index])).save(encoded, "png")
                archive.writestr(zipfile.ZipInfo(name), encoded.getvalue())
                digest = hashlib.sha256(encoded.getvalue()).hexdigest()
                rows.append((name, len(encoded.getvalue()), digest))
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows(rows)
        archive.writestr(zipfile.ZipInfo(manifest), table.getvalue())


def draw(label, random):
    """Draw one insect on a blurred ground.

    Parameters
    ----------
    label : {"ants", "bees"}
        Ants are dark, thin, of three segments with long legs, on pale ground; bees are thick,
        striped yellow and black, winged, on green ground.
    random : numpy.random.Generator
        Decides on colours, place, size and direction.

    Returns
    -------
    PIL.Image.Image
        RGB, `SIDE` pixels square.
    """
    side = SIDE * SCALE
    ground = (196, 178, 150) if label == "ants" else (92, 140, 84)
    noise = random.normal(0, 30, (12, 12, 3)) + ground + random.normal(0, 22, 3)
    image = Image.fromarray(np.uint8(np.clip(noise, 0, 255))).resize((side, side), Image.BICUBIC)
    insect = Image.new("RGBA", (side, side))
    (_draw_ant if label == "ants" else _draw_bee)(ImageDraw.Draw(insect), side, random)
    size = int(side * random.uniform(0.7, 1.1))
    insect = insect.rotate(random.uniform(0, 360), Image.BICUBIC).resize((size, size))
    shift = tuple(int(x) for x in (side - size) / 2 + random.uniform(-0.12, 0.12, 2) * side)
    image.paste(insect, shift, insect)
    return image.filter(ImageFilter.GaussianBlur(2)).resize((SIDE, SIDE), Image.LANCZOS)


def _draw_ant(pen, side, random):
    middle, tone = side / 2, int(random.uniform(15, 70))
    dark = (tone + 20, tone, tone, 255)
    for sign in (-1, 1):
        for lean in (-0.22, -0.02, 0.2):
            knee = (middle + lean * side * 0.7, middle + sign * side * 0.17)
            foot = (middle + lean * side * 1.3, middle + sign * side * 0.3)
            pen.line([(middle, middle), knee, foot], fill=dark, width=SCALE * 2)
    for offset, length, width in ((-0.2, 0.08, 0.065), (0, 0.09, 0.04), (0.22, 0.13, 0.085)):
        _oval(pen, middle + offset * side, middle, length * side, width * side, dark)


def _draw_bee(pen, side, random):
    middle = side / 2
    yellow = (int(random.uniform(205, 255)), int(random.uniform(140, 195)), 30, 255)
    for sign in (-1, 1):
        wing = (225, 230, 235, 150)
        _oval(pen, middle - 0.02 * side, middle + sign * 0.2 * side, 0.1 * side, 0.17 * side, wing)
    _oval(pen, middle, middle, 0.3 * side, 0.16 * side, yellow)
    for place in (-0.14, 0, 0.14):
        pen.rectangle(
            [middle + (place - 0.03) * side, middle - 0.14 * side]
            + [middle + (place + 0.03) * side, middle + 0.14 * side],
            fill=(25, 20, 15, 255),
        )
    _oval(pen, middle - 0.3 * side, middle, 0.09 * side, 0.1 * side, (30, 25, 20, 255))


def _oval(pen, x, y, length, width, colour):
    pen.ellipse([x - length, y - width, x + length, y + width], fill=colour)
