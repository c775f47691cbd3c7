"""Classify photographs with the network in this folder: ``python classify.py photo.jpg ...``."""

# headswap copies this file into each export as classify.py, so it imports nothing of headswap.

import json
import sys
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps


def load(folder: Path = Path(__file__).parent) -> Callable[[str | Path], dict[str, float]]:
    """Return a function that takes a photograph's path and returns the classes' probabilities."""
    record = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    is_onnx = (folder / "model.onnx").exists()
    if is_onnx:
        import onnxruntime

        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=providers)
    else:
        import torch

        network = torch.export.load(folder / "model.pt2").module()

    def classify(path: str | Path) -> dict[str, float]:
        batch = preprocess(path, record["preprocessing"])[np.newaxis]
        if is_onnx:
            (logits,) = session.run(["logits"], {"images": batch})[0]
        else:
            (logits,) = network(torch.from_numpy(batch)).detach().numpy()
        odds = np.exp(logits - logits.max())
        return dict(zip(record["classes"], (odds / odds.sum()).tolist(), strict=True))

    return classify


def preprocess(path: str | Path, values: Mapping[str, Any]) -> NDArray[np.float32]:
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
    mean, std = (np.array(values[key], np.float32) for key in ("mean", "std"))
    width = height = size = values["size"]
    fit = values.get("fit", "crop")
    if fit == "pad":
        side = max(image.size)
        square = Image.new("RGB", (side, side), tuple(round(255 * one) for one in values["mean"]))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = square
    elif fit == "crop":
        width, height = (values["resize"] * side // min(image.size) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    method = Image.Resampling[values["interpolation"].partition("-")[0].upper()]
    resized = image.resize((width, height), method)
    crop = np.asarray(resized.crop((left, top, left + size, top + size)), np.float32)
    return np.ascontiguousarray(((crop / 255 - mean) / std).transpose(2, 0, 1))


if __name__ == "__main__":
    classify = load()
    for name in sys.argv[1:]:
        probabilities = classify(name)
        best = max(probabilities, key=probabilities.__getitem__)
        print(f"{name}: {best} {probabilities[best]:.1%}")
