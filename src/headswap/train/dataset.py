"""What a network is trained on: photographs, as batches of normalised tensors."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from torchvision.transforms import v2

from headswap.errors import UserError
from headswap.images.index import Index, read_index
from headswap.images.preprocessing import Preprocessing
from headswap.images.reading import UnreadableImage, read_image
from headswap.train.seeds import generator, seeded

EVALUATION_BATCH = 32
"""Images in a batch that is not trained on. It affects the last bits, so it is not a parameter."""
CACHE_BYTES = 2**29
"""Size of a cache: 900 decoded photographs of 500 by 375 pixels."""

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]
"""Inputs, float, shape (batch, 3, size, size), and labels, int64, shape (batch,)."""


class ImageDataset:
    """The photographs of an index, decoded once as far as memory allows."""

    def __init__(self, values: Preprocessing, index: Index | None = None, flip: bool = True):
        self.preprocessing = values
        index = index or read_index()
        self.classes, self.names = index.classes, index.names
        self.groups = index.groups("train")
        self.labels = {split: torch.tensor(index.labels(split)) for split in self.names}
        self._augment = augmentation(values, flip)
        self._fit = evaluation_transform(values)
        train, val = ([index.folder / name for name in names] for names in self.names.values())
        self._train = ImageCache(train, _decode)
        self._val = ImageCache(val, self._decode_and_fit)

    def train_batches(self, seed: int, epoch: int, batch_size: int) -> Batches:
        """Yield the augmented batches of an epoch, each epoch in an order of its own."""
        order = torch.randperm(len(self._train), generator=generator(seed, "order", epoch))
        for indices in order.split(batch_size):
            views = [self.augmented_view(index, seed, epoch) for index in indices.tolist()]
            yield self._normalize(views), self.labels["train"][indices]

    def val_batches(self) -> Batches:
        """Yield the validation images in batches, in the order of their names."""
        for start in range(0, len(self._val), EVALUATION_BATCH):
            labels = self.labels["val"][start : start + EVALUATION_BATCH]
            views = [self._val[start + place] for place in range(len(labels))]
            yield self._normalize(views), labels

    def train_batches_as_validated(self) -> Iterator[torch.Tensor]:
        """Yield the training images as `val_batches` yields validation images, without labels."""
        for indices in torch.arange(len(self._train)).split(EVALUATION_BATCH):
            yield self._normalize([self._fit(self._train[index]) for index in indices.tolist()])

    def augmented_view(self, index: int, seed: int, number: int) -> torch.Tensor:
        """Return an augmented view of a training image: uint8, shape (3, size, size).

        It depends only on the image, `seed` and `number` (the epoch).
        """
        with seeded(seed, "augmentation", number, index):
            return self._augment(self._train[index])

    def _normalize(self, views: list[torch.Tensor]) -> torch.Tensor:
        return normalize(views, self.preprocessing)

    def _decode_and_fit(self, path: Path) -> torch.Tensor:
        return self._fit(_decode(path))


class ImageCache:
    """Decoded images by index; those that do not fit are decoded at each access.

    Speed: saves 4 to 18 % of an epoch of every cell.
    """

    def __init__(
        self, paths: list[Path], decode: Callable[[Path], torch.Tensor], capacity: int = CACHE_BYTES
    ):
        self._paths, self._decode = paths, decode
        self._capacity = capacity
        self._images: dict[int, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        if index in self._images:
            return self._images[index]
        image = self._decode(self._paths[index])
        if image.nbytes <= self._capacity:
            self._capacity -= image.nbytes
            self._images[index] = image
        return image


def evaluation_batch(paths: Iterable[Path], values: Preprocessing) -> torch.Tensor:
    """Return a batch of photographs, prepared as those that a network is validated on."""
    fit = evaluation_transform(values)
    return normalize([fit(_decode(path)) for path in paths], values)


def decode(path: Path) -> torch.Tensor:
    """Read an image upright as RGB: uint8, shape (3, height, width)."""
    return v2.functional.pil_to_tensor(read_image(path))


def _decode(path: Path) -> torch.Tensor:
    try:
        return decode(path)
    except UnreadableImage as error:  # `verify` could read it
        raise UserError(f"{error}\nRestore the images with: dvc repro verify") from error


def augmentation(
    values: Preprocessing, flip: bool = True
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the tutorial's augmentation, which draws from torch's default generator."""
    mirror = v2.RandomHorizontalFlip(0.5 if flip else 0)

    def augment(image: torch.Tensor) -> torch.Tensor:
        if values.fit == "pad":
            image = _pad(image, values)
        height, width = image.shape[-2:]
        stretch = width / height if values.fit == "squash" else 1.0
        crop = v2.RandomResizedCrop(
            values.size,
            ratio=(3 / 4 * stretch, 4 / 3 * stretch),
            interpolation=v2.InterpolationMode(values.interpolation),
        )
        return mirror(crop(image))

    return augment


def evaluation_transform(values: Preprocessing) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the transform of images that a network is validated on."""
    method = v2.InterpolationMode(values.interpolation)
    square = v2.Resize((values.size, values.size), method)
    if values.fit == "squash":
        return square
    if values.fit == "pad":
        return v2.Compose([v2.Lambda(partial(_pad, values=values)), square])
    return v2.Compose([v2.Resize(values.resize, method), v2.CenterCrop(values.size)])


def _pad(image: torch.Tensor, values: Preprocessing) -> torch.Tensor:
    """Return an image in the middle of a square of the mean colour."""
    height, width = image.shape[-2:]
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    colour = [round(255 * mean) for mean in values.mean]
    return v2.functional.pad(image, [left, top, side - width - left, side - height - top], colour)


def normalize(images: list[torch.Tensor], values: Preprocessing) -> torch.Tensor:
    """Stack uint8 images into a batch of floats with mean 0 and spread 1, channels last."""
    pixels = torch.stack(images).float().div_(255)
    pixels = v2.functional.normalize(pixels, values.mean, values.std, inplace=True)
    return pixels.contiguous(memory_format=torch.channels_last)
