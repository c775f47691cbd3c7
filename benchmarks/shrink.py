"""Measure what a network sees of photographs that are stored with a smaller side.

    python benchmarks/shrink.py FOLDER       # prints the table of benchmarks/SHRINK.md

FOLDER has photographs, which are enlarged to 12 megapixels with grain. EfficientNet-Lite0 has its
ImageNet weights, from packages of the test environment.
"""

import io
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import typer
from PIL import Image
from torch.nn.functional import cosine_similarity
from torchvision.transforms import v2

from headswap.images.folders import find_images
from headswap.images.preprocessing import Preprocessing
from headswap.images.reading import decode_image, shrink_image
from headswap.train.dataset import evaluation_transform, normalize

SIDES = (512, 768, 1024)
VALUES = Preprocessing(224, 256, "bicubic")


def enlarge(path, random):
    """Return a photograph as a JPEG whose shorter side has 3,000 pixels."""
    image = Image.open(path).convert("RGB")
    size = [round(3000 / min(image.size) * side) for side in image.size]
    pixels = np.asarray(image.resize(size, Image.Resampling.LANCZOS), np.float32)
    grain = random.normal(0, 6, pixels.shape)
    file = io.BytesIO()
    Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)).save(file, "jpeg", quality=92)
    return file.getvalue()


@torch.no_grad()
def main(folder: Path, images: int = 36):
    """Print the table."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from my_networks import efficientnet_lite0

    network, seen = efficientnet_lite0().eval(), []
    heads = [one for one in network.modules() if isinstance(one, torch.nn.Linear)]
    heads[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))

    def classify(content):
        tensor = v2.functional.pil_to_tensor(decode_image(content, ""))
        best = int(network(normalize([evaluation_transform(VALUES)(tensor)], VALUES)).argmax())
        return seen.pop(), best

    random, found = np.random.default_rng(0), {side: [] for side in SIDES}
    paths = sorted(find_images(folder).values())
    for path in paths[:: len(paths) // images][:images]:
        whole = enlarge(path, random)
        features, best = classify(whole)
        for side in SIDES:
            with mock.patch("headswap.images.reading.STORED_SIDE", side):
                stored = shrink_image(whole)
            of_stored, also = classify(stored)
            cosine = float(cosine_similarity(features, of_stored, 0))
            found[side].append((cosine, also == best, len(stored) / len(whole)))
    print("# What a network sees of photographs that are stored with a smaller side\n")
    print(
        f"{images} of the published photographs, enlarged to 12 megapixels with grain; "
        "EfficientNet-Lite0 with ImageNet weights: its features, and its class, of the stored "
        "photograph beside those of the whole one. Made by `python benchmarks/shrink.py FOLDER`.\n"
    )
    print("| shorter side | cosine, mean | least | same class | share of the bytes |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for side, rows in found.items():
        cosines, same, shares = zip(*rows, strict=True)
        print(
            f"| {side} | {np.mean(cosines):.4f} | {min(cosines):.4f} | {sum(same)} of {images} "
            f"| {np.mean(shares):.1%} |"
        )


if __name__ == "__main__":
    typer.run(main)
