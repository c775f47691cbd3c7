"""What is done to an image before a network sees it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torchvision.transforms import v2

from headswap.images.reading import read_image
from headswap.params import Image
from headswap.train.preprocessing import INTERPOLATION, MEAN, STD


def decode(path: Path) -> torch.Tensor:
    """Read an image upright as RGB: uint8, shape (3, height, width)."""
    return v2.functional.pil_to_tensor(read_image(path))


def augmentation(image: Image) -> v2.Transform:
    """Return the classic recipe's augmentation, which draws from torch's default generator."""
    crop = v2.RandomResizedCrop(image.size, antialias=True)
    return v2.Compose([crop, v2.RandomHorizontalFlip()])


def center_crop(image: Image, interpolation: str = INTERPOLATION) -> v2.Transform:
    """Return the transform of images that a network is validated on."""
    resize = v2.Resize(image.resize, v2.InterpolationMode(interpolation))
    return v2.Compose([resize, v2.CenterCrop(image.size)])


def normalize(
    images: list[torch.Tensor], mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> torch.Tensor:
    """Stack uint8 images into a batch of floats with mean 0 and spread 1, channels last."""
    pixels = torch.stack(images).float().div_(255)
    pixels = v2.functional.normalize(pixels, list(mean), list(std), inplace=True)
    return pixels.contiguous(memory_format=torch.channels_last)
