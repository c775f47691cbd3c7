"""Change bytes in the headers of images, and see that each is read or reported.

An image like a camera's, as JPEG, PNG, WebP and TIFF, with EXIF in each. Up to eight bytes of its
first kilobyte are changed, or it is cut. Then `read_image` must return an image, or raise an error
whose message names the file. Run it with

    python benchmarks/fuzz.py --cases 30000

which prints how many of each were read and reported; its exit code is 1 if anything else happened.
"""

import io
import random
import sys
import warnings
import zlib
from collections import Counter
from typing import Annotated

import typer
from PIL import ExifTags, Image, ImageDraw

from headswap.images.reading import UnreadableImage, decode_image

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")


def photographs():
    """Return the bytes of an image in each format."""
    image = Image.linear_gradient("L").resize((96, 64)).convert("RGB")
    ImageDraw.Draw(image).ellipse((20, 10, 70, 50), fill="orange")
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "A maker", "A camera"
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.XResolution] = exif[ExifTags.Base.YResolution] = 72.0
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2026:01:01 12:00:00"
    files = {}
    for name in FORMATS:
        file = io.BytesIO()
        image.save(file, name, exif=exif, **({"dpi": (300, 300)} if name == "JPEG" else {}))
        files[name] = file.getvalue()
    return files


def changed(content, chance):
    """Return a file with some bytes of its header changed, or its end cut off."""
    content = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        content[chance.randrange(min(1024, len(content)))] = chance.randrange(256)
    if chance.random() < 0.1:
        del content[chance.randrange(len(content)) :]
    if content.startswith(b"\x89PNG"):
        correct_checksums(content)
    return bytes(content)


def correct_checksums(png):
    """Correct the checksums of a PNG's parts, so that not every change ends there."""
    start = 8
    while start + 12 <= len(png):
        end = start + 8 + int.from_bytes(png[start : start + 4])
        if end + 4 > len(png):
            break
        png[end : end + 4] = zlib.crc32(png[start + 4 : end]).to_bytes(4)
        start = end + 4


def outcomes(cases, seed):
    """Yield for each case its format and what happened: ``read``, ``reported``, or else a text."""
    chance, files = random.Random(seed), photographs()
    for number in range(cases):
        name = FORMATS[number % len(FORMATS)]
        content = changed(files[name], chance)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = decode_image(content, f"case-{number}")
            what = "read" if image.mode == "RGB" else f"mode {image.mode}"
        except UnreadableImage as error:
            what = "reported" if f"case-{number}" in str(error) else f"message {error}"
        except Exception as error:  # whatever it is, it must not get out
            what = f"{type(error).__name__}: {error}"
        yield name, what


def main(
    cases: Annotated[int, typer.Option()] = 30000, seed: Annotated[int, typer.Option()] = 0
) -> None:
    """Print how many of each format were read and reported."""
    counts = Counter(outcomes(cases, seed))
    for (name, what), count in sorted(counts.items()):
        print(f"{name}: {count} {what}")
    sys.exit(any(what not in ("read", "reported") for _, what in counts))


if __name__ == "__main__":
    typer.run(main)
