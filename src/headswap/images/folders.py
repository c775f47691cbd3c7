"""Where things lie; images as ``<split>/<class>/<image>``."""

from pathlib import Path, PurePosixPath

from headswap.errors import UserError

IMAGES = Path("data/images")
WEIGHTS = Path("data/weights")
EMBEDDINGS = Path("data/embeddings")
RUNS = Path("runs")
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
    UserError
        If a class has no image in one of the two splits.
    """
    folder = Path(folder)
    paths = (path for split in SPLITS for path in folder.glob(f"{split}/*/*"))
    found = {"/".join(path.relative_to(folder).parts): path for path in paths}
    found = {name: found[name] for name in sorted(found) if is_image(name)}
    check_classes(found, folder)
    return found


def ignored_files(folder):
    """Return the files of a folder's splits, hidden ones aside, that `images_in` does not list."""
    folder = Path(folder)
    files = (path for split in SPLITS for path in (folder / split).rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix() for path in files if path.name[0] != "."}
    return sorted(names - images_in(folder).keys())


def is_image(name):
    """Tell whether a name, ``<split>/<class>/<image>``, is that of an image.

    >>> is_image("val/bees/54736755.JPG"), is_image("val/bees/._54736755.jpg")
    (True, False)
    """
    path = PurePosixPath(name)  # macOS puts a file of attributes, ._a.jpg, beside each a.jpg
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith("._")


def check_classes(names, where):
    """Raise a UserError unless there are two classes or more, each with images in both splits."""
    present = {tuple(name.split("/")[:2]) for name in names}
    every = {label for _, label in present} or {"<class>"}
    expected = {(split, label) for split in SPLITS for label in every}
    if lacking := expected - present:
        raise UserError(
            f"{where} has no images in {', '.join(sorted(map('/'.join, lacking)))}.\n"
            "Lay the images out as train/<class>/<image> and val/<class>/<image>, "
            "every class in both."
        )
    if len(every) == 1:
        raise UserError(
            f"{where} has a single class, {every.pop()}: there is nothing to tell apart."
        )


def classes_in(images=IMAGES):
    """Return the names of the classes, sorted; their places are the labels."""
    return sorted({name.split("/")[1] for name in images_in(images)})


def images_by_split(folder=IMAGES):
    """Return for each split the names of its images, sorted (see `images_in`)."""
    names = list(images_in(folder))
    return {split: [name for name in names if name.startswith(f"{split}/")] for split in SPLITS}
