"""Near-duplicates: the same photograph again, as it is, saved anew, resized or slightly edited."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations

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
    """Yield the places of each pair, the second in `others` or later, and the bits that differ.

    Of eight bytes that differ in six bits, two are the same: only such hashes are compared.
    """
    later, start = (others, 0) if others is not None else (hashes, 1)
    values = np.unique(np.array([int(one, 16) for one in (*hashes, *later)], np.uint64))
    octets = values[:, None].view(np.uint8).astype(np.uint16)
    near = {value: {value} for value in values.tolist()}
    for one, other in combinations(octets.T, 2):
        order = (keys := one << 8 | other).argsort(kind="stable")
        keys, ordered, at, lag = keys[order], values[order], np.arange(len(values)), 0
        while at.size:
            lag += 1
            at = at[at < len(values) - lag]
            at = at[keys[at] == keys[at + lag]]
            found = at[np.bitwise_count(ordered[at] ^ ordered[at + lag]) <= MOST_BITS]
            for pair in zip(ordered[found].tolist(), ordered[found + lag].tolist(), strict=True):
                near[pair[0]].add(pair[1])
                near[pair[1]].add(pair[0])
    places = defaultdict[int, list[int]](list)
    for place, text in enumerate(later):
        places[int(text, 16)].append(place)
    for first, text in enumerate(hashes):
        value = int(text, 16)
        pairs = ((place, (value ^ to).bit_count()) for to in near[value] for place in places[to])
        for second, bits in sorted(pairs):
            if second >= start * (first + 1):
                yield first, second, bits


def near_duplicate_groups(hashes: Sequence[str]) -> NDArray[np.int64]:
    """Return a number for each image, the same for near-duplicates and what these lead to."""
    unique, first = np.unique(hashes, return_index=True)
    links = [(first[one], first[other]) for one, other, _ in near_duplicate_pairs(unique.tolist())]
    return join_groups([None] * len(hashes), hashes, links)
