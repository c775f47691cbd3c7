"""How an image file is read, everywhere in headswap."""

import contextlib
from io import BytesIO
from os import PathLike
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from headswap.errors import UserError, printable
from headswap.images.folders import OTHER_FORMATS, READS_HEIC
from headswap.io import read_bytes
from headswap.paths import IMAGES

# Whatever a file's name says. Pillow starts another program for some others (EPS).
FORMATS = ["AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP", *["HEIF"] * READS_HEIC]
LARGE = 50_000_000  # pixels above which a JPEG is decoded at half, a quarter or an eighth
MEMORY = 2_000_000_000  # bytes that reading or resizing an image may take
BYTES_PER_PIXEL = 16  # to decode an image, lay it over white, turn it and hand it on
STORED_SIDE = 768  # pixels of the shorter side of a stored photograph (docs/photographs.md)
MAX_INPUT_SIDE = 1024  # pixels of the largest supported network input
BEGINNINGS = {  # what a file is that is no image, by its beginning in lower case
    **dict.fromkeys((b"<!doctype", b"<html", b"<?xml", b"<svg"), "a web page or a drawing"),
    b"version https://git-lfs": "a pointer of Git LFS; bring the photograph with: git lfs pull",
    b"/annex/objects/": "a pointer of git-annex; bring the photograph with: git annex get",
}


class UnreadableImage(UserError):
    """An image cannot be read; ``why`` is the reason, without the file's name."""

    def __init__(self, path: str | PathLike[str], why: str):
        was_verified = IMAGES.absolute() in Path(path).absolute().parents
        remedy = "\nRestore the images with: dvc repro verify" * was_verified
        super().__init__(f"{printable(path)} cannot be read as an image: {why}.{remedy}")
        self.why = why


def read_image(path: str | PathLike[str]) -> Image.Image:
    """Read an image of any kind: RGB, 8 bits a channel, upright, over white where transparent.

    Of several frames it is the first, and ``info["animated"]`` true; else `UnreadableImage`.
    """
    return decode_image(read_bytes(path), path)


def shrink_image(content: bytes) -> bytes:
    """Return a large image's file anew, upright and of `STORED_SIDE`; others as they are."""
    try:
        with open_image(BytesIO(content)) as image:
            form = "JPEG" if image.format in ("JPEG", "MPO") else "PNG"
            if min(image.size) <= STORED_SIDE:
                return content
        reduced = decode_image(content, "", STORED_SIDE)
    except (UnreadableImage, OSError, ValueError, SyntaxError):  # `verify` says which file it is
        return content
    width, height = (round(STORED_SIDE * side / min(reduced.size)) for side in reduced.size)
    stored = BytesIO()
    reduced.resize((width, height), Image.Resampling.BICUBIC).save(stored, form, quality=95)
    return stored.getvalue()


def decode_image(content: bytes, path: str | PathLike[str], side: int | None = None) -> Image.Image:
    """Do what `read_image` does; a JPEG may be reduced, its shorter side at least to `side`."""
    try:
        return _decode(content, side)
    except Exception as error:  # Pillow raises errors of many types for a damaged file
        if b"Exif" in content:  # on damaged EXIF some readers fail
            return decode_image(content.replace(b"Exif", b"none"), path, side)
        why = str(error) if isinstance(error, OSError | ValueError) else ""
        if isinstance(error, UnidentifiedImageError):
            why = _guess_format(content)
        raise UnreadableImage(path, why or f"{type(error).__name__}: {error}") from error


def open_image(file: str | PathLike[str] | BytesIO) -> Image.Image:
    """Open an image of a known format, and decode nothing yet; Pillow's errors are its own."""
    Image.MAX_IMAGE_PIXELS = None  # MEMORY is the limit here; Pillow's would refuse 200 megapixels
    if READS_HEIC and "HEIF" not in Image.OPEN:
        import pillow_heif

        pillow_heif.register_heif_opener()
    return Image.open(file, formats=FORMATS)


def _decode(content: bytes, side: int | None) -> Image.Image:
    with open_image(BytesIO(content)) as image:
        if image.mode[0] in "IF":  # Pillow would convert all but black to white
            raise ValueError("16 or 32 bits a pixel; save it with 8 bits a channel")
        _check_memory(image)
        # What a camera adds to a JPEG (MPO) is no frame of it.
        animated = image.format != "MPO" and getattr(image, "is_animated", False)
        scale = next((s for s in (1, 2, 4) if image.width * image.height <= LARGE * s**2), 8)
        scale = max(scale, min(image.size) // side) if side else scale
        if scale > 1:  # only JPEG has `draft`
            image.draft("RGB", (image.width // scale, image.height // scale))
        image.load()
        with contextlib.suppress(Exception):  # damaged EXIF
            ImageOps.exif_transpose(image, in_place=True)
        opaque: Image.Image = image
        if image.has_transparency_data:  # what lies under transparent pixels is arbitrary
            layer = image.convert("RGBA")
            opaque = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        result = opaque.convert("RGB")
        result.info["animated"] = animated
        return result


def _check_memory(image: Image.Image) -> None:
    """Raise ValueError if it would take too much memory to decode or to resize an image."""
    shorter, longer = sorted(image.size)
    pixels = shorter * longer
    needed = pixels * BYTES_PER_PIXEL
    if image.format in ("JPEG", "MPO"):  # coefficients of two bytes, then at most a reduced image
        needed = 6 * pixels + min(pixels, max(LARGE, pixels // 64)) * BYTES_PER_PIXEL
    resized = MAX_INPUT_SIDE**2 * longer // max(1, shorter) * 12  # floats of three channels
    for act, size in (("decode", needed), ("resize", resized)):
        if size > MEMORY:
            text = f"{image.width} x {image.height} pixels: to {act} it could take"
            raise ValueError(f"{text} {size / 1e9:.0f} GB of memory, more than {MEMORY / 1e9:.0f}")


def _guess_format(content: bytes) -> str:
    if not content:
        return "an empty file"
    if content[4:10] == b"ftyphe" or content[4:12] in (b"ftypmif1", b"ftypmsf1"):
        return "HEIC, damaged" if READS_HEIC else OTHER_FORMATS[".heic"]
    start = content[:512].lstrip().lower()
    kinds = (kind for beginning, kind in BEGINNINGS.items() if start.startswith(beginning))
    return next(kinds, "not a known format; save it as JPEG or PNG")
