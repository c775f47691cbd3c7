"""How an image file is read, everywhere in headswap."""

from os import PathLike

from PIL import Image, ImageOps


def read_image(path: str | PathLike[str]) -> Image.Image:
    """Read an image of any kind.

    Parameters
    ----------
    path
        The image file.

    Returns
    -------
    PIL.Image.Image
        RGB, 8 bits a channel, upright: turned as its EXIF orientation says.

    Raises
    ------
    OSError, ValueError, SyntaxError
        If Pillow cannot read the file.
    """
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")
