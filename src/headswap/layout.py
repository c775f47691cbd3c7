"""Where images lie: ``<split>/<class>/<image>``."""

import os
from pathlib import Path

from .errors import Problem

IMAGES = Path("data/images")
SPLITS = ("train", "val")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What counts as an image: torchvision's list for its ``ImageFolder``."""


def images_in(folder):
    """List a folder's images.

    Parameters
    ----------
    folder : path-like
        With ``train/<class>/<image>`` and ``val/<class>/<image>`` in it.

    Returns
    -------
    dict of str to pathlib.Path
        Sorted by name, ``train/ants/0013035.jpg``.

    Raises
    ------
    Problem
        If there is no image in one of the two splits.
    """
    folder = Path(folder)
    found = {
        "/".join(path.relative_to(folder).parts): path
        for split in SPLITS
        for path in sorted(folder.glob(f"{split}/*/*"))
        if path.suffix.lower() in EXTENSIONS
    }
    for split in SPLITS:
        if not any(name.startswith(f"{split}/") for name in found):
            raise Problem(
                f"{folder / split} holds no class folders with images.\n"
                "Lay the images out as train/<class>/<image> and val/<class>/<image>."
            )
    return dict(sorted(found.items()))


def classes_in(images=IMAGES):
    """Return the names of the classes, sorted; their places are the labels."""
    return sorted(entry.name for entry in os.scandir(Path(images) / "train") if entry.is_dir())
