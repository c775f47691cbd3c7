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
        If a class has no image in one of the two splits.
    """
    folder = Path(folder)
    found = {
        "/".join(path.relative_to(folder).parts): path
        for split in SPLITS
        for path in sorted(folder.glob(f"{split}/*/*"))
        if path.suffix.lower() in EXTENSIONS
    }
    classes = {
        split: {name.split("/")[1] for name in found if name.startswith(f"{split}/")}
        for split in SPLITS
    }
    every = set().union(*classes.values()) or {"<class>"}
    if lacking := [f"{split}/{label}" for split in SPLITS for label in every - classes[split]]:
        raise Problem(
            f"{folder} has no images in {', '.join(sorted(lacking))}.\n"
            "Lay the images out as train/<class>/<image> and val/<class>/<image>, "
            "every class in both."
        )
    return dict(sorted(found.items()))


def classes_in(images=IMAGES):
    """Return the names of the classes, sorted; their places are the labels."""
    return sorted(entry.name for entry in os.scandir(Path(images) / "train") if entry.is_dir())
