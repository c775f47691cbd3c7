"""Near-duplicates: the same photograph again, as it is, saved anew, resized or slightly edited."""

from collections.abc import Iterator, Sequence

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headswap.images.folds import join_groups

# Of the 397 hymenoptera photographs two differ in at least 14 bits; another JPEG quality, format or
# size changes at most 2, a brightness 1.2 times as high or edges cropped by 2 % at most 8.
MOST_BITS = 6


def perceptual_hash(image: Image.Image) -> str:
    """Return the perceptual hash of an upright image: 16 hexadecimal digits."""
    return str(imagehash.phash(image))


def near_duplicate_pairs(
    hashes: Sequence[str], others: Sequence[str] | None = None
) -> Iterator[tuple[int, int, int]]:
    """Yield the places of each pair, the second in `others` or later, and the bits that differ."""
    columns = np.array([int(one, 16) for one in (hashes if others is None else others)], np.uint64)
    for place, one in enumerate(hashes):
        start = place + 1 if others is None else 0
        bits = np.bitwise_count(columns[start:] ^ np.uint64(int(one, 16)))
        for other in np.flatnonzero(bits <= MOST_BITS).tolist():
            yield place, start + other, int(bits[other])


def near_duplicate_groups(hashes: Sequence[str]) -> NDArray[np.int64]:
    """Return a number for each image, the same for near-duplicates and what these lead to."""
    unique, first = np.unique(hashes, return_index=True)
    links = [(first[one], first[other]) for one, other, _ in near_duplicate_pairs(unique.tolist())]
    return join_groups([None] * len(hashes), hashes, links)
