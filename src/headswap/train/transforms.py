"""What is done to an image before a network sees it."""

from pathlib import Path

import torch
from torchvision.transforms import v2

from headswap.images.reading import read_image
from headswap.params import Image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet by channel, for pixels between 0 and 1."""


def decode(path: Path) -> torch.Tensor:
    """Read an image upright as RGB: uint8, shape (3, height, width)."""
    return v2.functional.pil_to_tensor(read_image(path))


def augmentation(image: Image) -> v2.Transform:
    """Return the classic recipe's augmentation, which draws from torch's default generator."""
    crop = v2.RandomResizedCrop(image.size, antialias=True)
    return v2.Compose([crop, v2.RandomHorizontalFlip()])


def center_crop(image: Image) -> v2.Transform:
    """Return the transform of images that a network is validated on."""
    return v2.Compose([v2.Resize(image.resize), v2.CenterCrop(image.size)])


def normalize(images: list[torch.Tensor]) -> torch.Tensor:
    """Stack uint8 images into a batch of floats with mean 0 and spread 1, channels last."""
    pixels = torch.stack(images).float().div_(255)
    pixels = v2.functional.normalize(pixels, list(MEAN), list(STD), inplace=True)
    return pixels.contiguous(memory_format=torch.channels_last)
