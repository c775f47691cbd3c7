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
    OSError, ValueError
        If Pillow cannot read the file, or the image has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            if image.mode[0] in "IF":  # Pillow would convert all but black to white
                raise ValueError("16 or 32 bits a pixel; save it with 8 bits a channel")
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError):
        raise
    except Exception as error:  # Pillow raises errors of many types for a damaged file
        raise ValueError(f"{type(error).__name__}: {error}") from error
