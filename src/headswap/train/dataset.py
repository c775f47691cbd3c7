"""What a network is trained on: photographs, as batches of normalised tensors."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from torchvision.transforms import v2

from headswap.images.index import Index, read_index
from headswap.images.preprocessing import Preprocessing
from headswap.images.reading import read_image
from headswap.train.seeds import generator, seeded

EVALUATION_BATCH = 32  # it affects the last bits, so it is not a parameter
CACHE_BYTES = 2**29  # 900 decoded photographs of 500 by 375 pixels
Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]
"""Inputs, float, shape (batch, 3, size, size), and labels, int64, shape (batch,)."""


class ImageDataset:
    """The photographs of an index, decoded once as far as memory allows."""

    def __init__(self, values: Preprocessing, index: Index | None = None, flip: bool = True):
        self.preprocessing, index = values, index or read_index()
        self.classes, self.names = index.classes, index.names
        self.groups = index.groups("train")
        self.labels = {split: torch.tensor(index.labels(split)) for split in self.names}
        self._mirror = v2.RandomHorizontalFlip(0.5 if flip else 0)
        fit = evaluation_transform(values)
        train, val = ([index.folder / name for name in names] for names in self.names.values())
        self._train = ImageCache(train, decode)
        self._val = ImageCache(val, lambda path: fit(decode(path)))

    def train_batches(self, seed: int, epoch: int, batch_size: int) -> Batches:
        """Yield the augmented batches of an epoch, which has an order of its own."""
        random = generator(seed, "order", epoch)
        for indices in torch.randperm(len(self.names["train"]), generator=random).split(batch_size):
            views = [self.augmented_view(index, seed, epoch) for index in indices.tolist()]
            yield normalize(views, self.preprocessing), self.labels["train"][indices]

    def val_batches(self) -> Batches:
        """Yield the validation images in batches, in the order of their names."""
        for start in range(0, len(self.names["val"]), EVALUATION_BATCH):
            labels = self.labels["val"][start : start + EVALUATION_BATCH]
            views = [self._val[start + place] for place in range(len(labels))]
            yield normalize(views, self.preprocessing), labels

    def augmented_view(self, index: int, seed: int, number: int) -> torch.Tensor:
        """Return the tutorial's view of an image in epoch `number`: uint8, (3, size, size)."""
        values = self.preprocessing
        image = _pad(self._train[index], values) if values.fit == "pad" else self._train[index]
        stretch = image.shape[-1] / image.shape[-2] if values.fit == "squash" else 1.0
        ratio = 3 / 4 * stretch, 4 / 3 * stretch
        method = v2.InterpolationMode(values.interpolation)
        crop = v2.RandomResizedCrop(values.size, ratio=ratio, interpolation=method)
        with seeded(seed, "augmentation", number, index):
            return self._mirror(crop(image))


class ImageCache(dict[int, torch.Tensor]):
    """Decoded images by index, up to `capacity` bytes. Speed: saves 4 to 18 % of an epoch."""

    def __init__(
        self, paths: list[Path], decode: Callable[[Path], torch.Tensor], capacity: int = CACHE_BYTES
    ):
        self._paths, self._decode, self._capacity = paths, decode, capacity

    def __missing__(self, index: int) -> torch.Tensor:
        image = self._decode(self._paths[index])
        if image.nbytes <= self._capacity:
            self._capacity -= image.nbytes
            self[index] = image
        return image


def decode(path: Path) -> torch.Tensor:
    """Read an image upright as RGB: uint8, shape (3, height, width)."""
    return v2.functional.pil_to_tensor(read_image(path))


def evaluation_transform(values: Preprocessing) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the transform of images that a network is validated on."""
    method = v2.InterpolationMode(values.interpolation)
    if values.fit == "crop":
        return v2.Compose([v2.Resize(values.resize, method), v2.CenterCrop(values.size)])
    pad = [v2.Lambda(partial(_pad, values=values))] if values.fit == "pad" else []
    return v2.Compose([*pad, v2.Resize((values.size, values.size), method)])


def _pad(image: torch.Tensor, values: Preprocessing) -> torch.Tensor:
    """Return an image in the middle of a square of the mean colour."""
    x, y = (max(image.shape[-2:]) - side for side in (image.shape[-1], image.shape[-2]))
    colour = [round(255 * mean) for mean in values.mean]
    return v2.functional.pad(image, [x // 2, y // 2, x - x // 2, y - y // 2], colour)


def normalize(images: list[torch.Tensor], values: Preprocessing) -> torch.Tensor:
    """Stack uint8 images into a batch of floats with mean 0 and spread 1, channels last."""
    pixels = torch.stack(images).float().div_(255)
    pixels = v2.functional.normalize(pixels, values.mean, values.std, inplace=True)
    return pixels.contiguous(memory_format=torch.channels_last)
