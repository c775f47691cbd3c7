"""What is done to an image before a network sees it, as plain values that a file can hold."""

from typing import Any

from headswap.params import Image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet by channel, for pixels between 0 and 1."""
INTERPOLATION = "bilinear"


def preprocessing(image: Image) -> dict[str, Any]:
    """Return what is done to an image that a network is validated on.

    Returns
    -------
    dict
        JSON-like: ``resize``, the shorter side in pixels; ``interpolation``, a value of
        `torchvision.transforms.InterpolationMode`; ``size``, the sides of the center crop; ``mean``
        and ``std`` by channel, for pixels between 0 and 1.
    """
    return {
        "size": image.size,
        "resize": image.resize,
        "interpolation": INTERPOLATION,
        "mean": list(MEAN),
        "std": list(STD),
    }
