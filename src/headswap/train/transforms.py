"""What is done to an image before a network sees it."""

from pathlib import Path

import torch
from torchvision.transforms import v2

from headswap.images.preprocessing import Preprocessing
from headswap.images.reading import read_image


def decode(path: Path) -> torch.Tensor:
    """Read an image upright as RGB: uint8, shape (3, height, width)."""
    return v2.functional.pil_to_tensor(read_image(path))


def augmentation(values: Preprocessing) -> v2.Transform:
    """Return the classic recipe's augmentation, which draws from torch's default generator."""
    interpolation = v2.InterpolationMode(values.interpolation)
    crop = v2.RandomResizedCrop(values.size, interpolation=interpolation, antialias=True)
    return v2.Compose([crop, v2.RandomHorizontalFlip()])


def center_crop(values: Preprocessing) -> v2.Transform:
    """Return the transform of images that a network is validated on."""
    resize = v2.Resize(values.resize, v2.InterpolationMode(values.interpolation))
    return v2.Compose([resize, v2.CenterCrop(values.size)])


def normalize(images: list[torch.Tensor], values: Preprocessing) -> torch.Tensor:
    """Stack uint8 images into a batch of floats with mean 0 and spread 1, channels last."""
    pixels = torch.stack(images).float().div_(255)
    pixels = v2.functional.normalize(pixels, values.mean, values.std, inplace=True)
    return pixels.contiguous(memory_format=torch.channels_last)
