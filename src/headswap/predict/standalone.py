"""Classify photographs with the network in this folder: ``python classify.py photo.jpg ...``."""

# headswap copies this file into each export as classify.py, so it imports nothing of headswap.

import json
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def load(folder: Path = Path(__file__).parent) -> Callable[[str | Path], dict[str, float]]:
    """Return a function that takes a photograph's path and returns the classes' probabilities."""
    record = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    network = load_network(folder)

    def classify(path: str | Path) -> dict[str, float]:
        (logits,) = network(preprocess(path, **record["preprocessing"])[np.newaxis])
        odds = np.exp(logits - logits.max())
        return dict(zip(record["classes"], (odds / odds.sum()).tolist(), strict=True))

    return classify


def load_network(folder: Path) -> Network:
    """Return the function from a batch to logits: model.onnx where it is, or else model.pt2."""
    if (folder / "model.onnx").exists():
        import onnxruntime

        session = onnxruntime.InferenceSession(
            folder / "model.onnx", providers=["CPUExecutionProvider"]
        )
        return lambda batch: session.run(["logits"], {"images": batch})[0]
    import torch

    network = torch.export.load(folder / "model.pt2").module()
    return lambda batch: network(torch.from_numpy(batch)).detach().numpy()


def preprocess(
    path: str | Path,
    size: int,
    resize: int,
    interpolation: str,
    mean: list[float],
    std: list[float],
    fit: str = "crop",
) -> NDArray[np.float32]:
    """Return what the network sees of a photograph: shape (3, size, size)."""
    content = Path(path).read_bytes()  # Pillow does not turn every TIFF that it opens by name
    with Image.open(BytesIO(content)) as opened:
        if opened.mode[0] in "IF":
            raise ValueError(f"{path}: 16 or 32 bits a pixel; save it with 8 bits a channel")
        image = ImageOps.exif_transpose(opened)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    image = image.convert("RGB")
    width = height = size
    if fit == "pad":
        side = max(image.size)
        square = Image.new("RGB", (side, side), tuple(round(255 * one) for one in mean))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = square
    elif fit == "crop":
        width, height = (resize * side // min(image.size) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    method = Image.Resampling[interpolation.partition("-")[0].upper()]
    resized = image.resize((width, height), method)
    crop = np.asarray(resized.crop((left, top, left + size, top + size)), np.float32)
    pixels = (crop / 255 - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


if __name__ == "__main__":
    classify = load()
    for name in sys.argv[1:]:
        probabilities = classify(name)
        best = max(probabilities, key=probabilities.__getitem__)
        print(f"{name}: {best} {probabilities[best]:.1%}")
