"""How an image file is read, everywhere in headswap."""

import contextlib
from io import BytesIO
from os import PathLike

from PIL import Image, ImageOps, UnidentifiedImageError

from headswap.errors import UserError, printable
from headswap.images.folders import OTHER_FORMATS, READS_HEIC
from headswap.io import read_bytes

FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the formats that are opened, whatever a file's name says. Not among them are
those for which Pillow starts another program (EPS)."""
LARGE = 50_000_000
"""Pixels above which a JPEG is decoded at half, a quarter or an eighth of its size."""
MEMORY = 2_000_000_000
"""Bytes that reading or resizing an image may take."""
BYTES_PER_PIXEL = 16
"""Of memory, to decode an image, lay it over white, turn it and hand it on."""
STORED_SIDE = 768
"""Pixels of the shorter side that a photograph is stored with at most (docs/photographs.md)."""
MAX_INPUT_SIDE = 1024
"""Largest supported network input, pixels."""


class UnreadableImage(UserError):
    """An image cannot be read; ``why`` is the reason, without the file's name."""

    def __init__(self, path: str | PathLike[str], why: str):
        super().__init__(f"{printable(path)} cannot be read as an image: {why}.")
        self.why = why


def read_image(path: str | PathLike[str]) -> Image.Image:
    """Read an image of any kind: RGB, 8 bits a channel, upright as its EXIF orientation says.

    Transparent images are laid over white, as most viewers show them: what lies under transparent
    pixels is arbitrary, often black. EXIF that is damaged counts as none, as in browsers. Of
    several frames or pages the first is read, and ``info["animated"]`` is true; what a camera adds
    to a JPEG (MPO) counts as none. A JPEG of more than `LARGE` pixels is reduced.

    Raises `UnreadableImage` if Pillow cannot read the file, the image has more than 8 bits a
    channel, or it would take more than `MEMORY` to decode or to resize it.
    """
    return decode_image(read_bytes(path), path)


def shrink_image(content: bytes) -> bytes:
    """Return an image's file with a shorter side of `STORED_SIDE` pixels, or as it is if smaller.

    Of a JPEG comes a JPEG, of others PNG, upright and without EXIF. What cannot be read stays.
    """
    try:
        with open_image(BytesIO(content)) as image:
            form, shorter = image.format, min(image.size)
        if shorter <= STORED_SIDE:
            return content
        reduced = decode_image(content, "", STORED_SIDE)
    except (UnreadableImage, OSError, ValueError, SyntaxError):  # `verify` says which file it is
        return content
    width, height = (round(STORED_SIDE * side / min(reduced.size)) for side in reduced.size)
    stored = BytesIO()
    form = "JPEG" if form in ("JPEG", "MPO") else "PNG"
    reduced.resize((width, height), Image.Resampling.BICUBIC).save(stored, form, quality=95)
    return stored.getvalue()


def decode_image(content: bytes, path: str | PathLike[str], side: int | None = None) -> Image.Image:
    """Read an image from the content of its file (see `read_image`); `path` is for the message.

    A JPEG may be reduced to half, a quarter or an eighth, its shorter side not below `side`.
    """
    try:
        try:
            return _decode(content, side)
        except Exception:
            if b"Exif" not in content:
                raise
            clean = content.replace(b"Exif", b"none")  # some readers fail on damaged EXIF
            return _decode(clean, side)
    except UnidentifiedImageError:
        raise UnreadableImage(path, _guess_format(content)) from None
    except Exception as error:  # Pillow raises errors of many types for a damaged file
        why = str(error) if isinstance(error, OSError | ValueError) else ""
        raise UnreadableImage(path, why or f"{type(error).__name__}: {error}") from error


def open_image(file: str | PathLike[str] | BytesIO) -> Image.Image:
    """Open an image of a known format, and decode nothing yet; Pillow's errors are its own."""
    Image.MAX_IMAGE_PIXELS = None  # MEMORY is the limit here; Pillow's would refuse 200 megapixels
    if READS_HEIC and "HEIF" not in Image.OPEN:
        import pillow_heif

        pillow_heif.register_heif_opener()
    return Image.open(file, formats=[name for name in FORMATS if READS_HEIC or name != "HEIF"])


def _decode(content: bytes, side: int | None) -> Image.Image:
    with open_image(BytesIO(content)) as image:
        if image.mode[0] in "IF":  # Pillow would convert all but black to white
            raise ValueError("16 or 32 bits a pixel; save it with 8 bits a channel")
        _check_memory(image)
        animated = image.format != "MPO" and getattr(image, "is_animated", False)
        scale = next((s for s in (1, 2, 4) if image.width * image.height <= LARGE * s**2), 8)
        if side:
            scale = max(scale, min(image.size) // side)
        if scale > 1:  # only JPEG has `draft`
            image.draft("RGB", (image.width // scale, image.height // scale))
        image.load()
        with contextlib.suppress(Exception):  # damaged EXIF
            ImageOps.exif_transpose(image, in_place=True)
        opaque: Image.Image = image
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            opaque = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        result = opaque.convert("RGB")
        result.info["animated"] = animated
        return result


def _check_memory(image: Image.Image) -> None:
    """Raise ValueError if it would take too much memory to decode or to resize an image."""
    width, height = image.size
    pixels, needed = width * height, width * height * BYTES_PER_PIXEL
    if image.format in ("JPEG", "MPO"):  # coefficients of two bytes, then at most a reduced image
        needed = 6 * pixels + min(pixels, max(LARGE, pixels // 64)) * BYTES_PER_PIXEL
    longer, shorter = max(image.size), min(image.size)
    resized = MAX_INPUT_SIDE**2 * longer // max(1, shorter) * 12  # floats of three channels
    for act, size in (("decode", needed), ("resize", resized)):
        if size > MEMORY:
            raise ValueError(
                f"{width} x {height} pixels: to {act} it could take {size / 1e9:.0f} GB of "
                f"memory, more than {MEMORY / 1e9:.0f}"
            )


def _guess_format(content: bytes) -> str:
    """Say what a file is that is not of a known image format."""
    start = content[:512].lstrip().lower()
    if not content:
        return "an empty file"
    if content.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the photograph; bring it with: git lfs pull"
    if content.startswith(b"/annex/objects/"):
        return "a pointer of git-annex, not the photograph; bring it with: git annex get"
    if content[4:12] in (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1"):
        return "HEIC, damaged" if READS_HEIC else OTHER_FORMATS[".heic"]
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        return "a web page or a drawing, not a photograph"
    return "not a known format; save it as JPEG or PNG"
