"""What is known of photographs once they have been read."""

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from rich.progress import track

from headswap.errors import UserError
from headswap.images.near_duplicates import perceptual_hash
from headswap.images.reading import UnreadableImage, decode_image
from headswap.io import read_bytes
from headswap.progress import console


class Facts(NamedTuple):
    """The end of an image's row in the index, and whether only its first frame or page is used."""

    width: int
    height: int
    bytes: int
    sha256: str
    phash: str
    animated: bool


def read_facts(images: Mapping[str, Path]) -> tuple[dict[str, Facts], dict[str, str]]:
    """Read images on all cores; return their facts and, of those that cannot be read, why."""
    facts, reasons = {}, {}
    total, hidden = len(images), not console.is_terminal
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(_facts_or_reason, images.values())
        shown = track(results, "reading", total, console=console, transient=True, disable=hidden)
        for name, found in zip(images, shown, strict=True):
            if isinstance(found, str):
                reasons[name] = found
            else:
                facts[name] = found
    if count := sum(one.animated for one in facts.values()):
        print(f"Of {count} animated or many-page files the first frame or page is used.")
    return facts, reasons


def _facts_or_reason(path: Path) -> Facts | str:
    try:
        content = read_bytes(path)
        image = decode_image(content, path)
    except UnreadableImage as error:
        return error.why
    except UserError as error:
        return str(error).splitlines()[0]
    digest = hashlib.sha256(content).hexdigest()
    hashed = perceptual_hash(image)
    return Facts(*image.size, len(content), digest, hashed, image.info["animated"])
