"""What a folder of photographs holds, on the terminal."""

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from headswap.data.listing import Listing
from headswap.data.manifest import Manifest, count_images
from headswap.errors import bulleted
from headswap.images.folders import SPLITS
from headswap.progress import console

MOST_CLASSES = 30
"""How many classes are listed, the largest first."""


def print_classes(manifest: Manifest) -> None:
    """Print the number of images by class and split, and the share of the largest class."""
    counts = count_images(manifest)
    labels = {name.split("/")[1] for name in manifest}
    sizes = {
        label: [counts.get(f"{split}_{label}", 0) for split in SPLITS] for label in sorted(labels)
    }
    ranked = sorted(sizes, key=lambda label: -sum(sizes[label]))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("class", *SPLITS, "all", "share"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for label in ranked[:MOST_CLASSES]:
        size = sum(sizes[label])
        cells = (*map(str, sizes[label]), str(size), f"{size / len(manifest):.1%}")
        table.add_row(Text(label), *cells)
    if len(ranked) > MOST_CLASSES:
        table.add_row(f"… and {len(ranked) - MOST_CLASSES} more")
    console.print(table)
    largest = max(sizes, key=lambda label: sizes[label][1])
    console.print(
        f"{len(labels)} classes. Always answering {largest}, the largest there, would be right for "
        f"{sizes[largest][1] / counts['val']:.1%} of the validation images.",
        markup=False,
    )


def print_left_out(listing: Listing) -> None:
    """Print which files and folders were left out, by reason."""
    for why, names in listing.left_out.items():
        if names:
            print(f"Left out, {why} ({len(names)}):")
            print(bulleted(names, limit=10))
