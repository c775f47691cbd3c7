"""The photographs as a data set: batches of normalised tensors."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from headswap.errors import UserError
from headswap.images.index import read_index
from headswap.images.preprocessing import Preprocessing
from headswap.images.reading import UnreadableImage
from headswap.paths import IMAGES
from headswap.train.seeds import generator, seeded
from headswap.train.speed.image_cache import ImageCache
from headswap.train.transforms import augmentation, center_crop, decode, normalize

EVALUATION_BATCH = 32
"""Images in a batch that is not trained on. It affects the last bits, so it is not a parameter."""

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]
"""Inputs, float, shape (batch, 3, size, size), and labels, int64, shape (batch,)."""


class ImageDataset:
    """The photographs of a folder, decoded once as far as memory allows.

    Parameters
    ----------
    values
        What the network sees of an image.
    folder
        With an index (see `images.index`).

    Attributes
    ----------
    preprocessing : Preprocessing
    classes : list of str
        Sorted; a label is an index into it.
    names : dict of str to list of str
        For each split the paths of its images, sorted.
    labels : dict of str to torch.Tensor
        For each split int64, shape (images,).
    """

    def __init__(self, values: Preprocessing, folder: Path = IMAGES):
        self.preprocessing = values
        index = read_index(folder)
        self.classes, self.names = index.classes, index.names
        self.labels = {split: torch.tensor(index.labels(split)) for split in self.names}
        self._augment = augmentation(values)
        self._crop = center_crop(values)
        train, val = ([folder / name for name in names] for names in self.names.values())
        self._train = ImageCache(train, _decode)
        self._val = ImageCache(val, self._decode_and_crop)

    def train_batches(self, seed: int, epoch: int, batch_size: int) -> Batches:
        """Yield the augmented batches of an epoch, each epoch in an order of its own."""
        order = torch.randperm(len(self._train), generator=generator(seed, "order", epoch))
        for indices in order.split(batch_size):
            views = [self.augmented_view(index, seed, epoch) for index in indices.tolist()]
            yield self._normalize(views), self.labels["train"][indices]

    def val_batches(self) -> Batches:
        """Yield the validation images in batches, center-cropped, in the order of their names."""
        for indices in torch.arange(len(self._val)).split(EVALUATION_BATCH):
            views = [self._val[index] for index in indices.tolist()]
            yield self._normalize(views), self.labels["val"][indices]

    def center_cropped_train_batches(self) -> Iterator[torch.Tensor]:
        """Yield the training images as `val_batches` yields validation images, without labels."""
        for indices in torch.arange(len(self._train)).split(EVALUATION_BATCH):
            yield self._normalize([self._crop(self._train[index]) for index in indices.tolist()])

    def augmented_batches(self, seed: int, number: int) -> Iterator[torch.Tensor]:
        """Yield one augmented view of each training image, in the order of their names."""
        for indices in torch.arange(len(self._train)).split(EVALUATION_BATCH):
            yield self._normalize([self.augmented_view(i, seed, number) for i in indices.tolist()])

    def augmented_view(self, index: int, seed: int, number: int) -> torch.Tensor:
        """Return an augmented view of a training image: uint8, shape (3, size, size).

        It depends only on the image, `seed` and `number` (the epoch or the view).
        """
        with seeded(seed, "augmentation", number, index):
            return self._augment(self._train[index])

    def _normalize(self, views: list[torch.Tensor]) -> torch.Tensor:
        return normalize(views, self.preprocessing)

    def _decode_and_crop(self, path: Path) -> torch.Tensor:
        return self._crop(_decode(path))


def _decode(path: Path) -> torch.Tensor:
    try:
        return decode(path)
    except UnreadableImage as error:  # `verify` could read it
        raise UserError(f"{error}\nRestore the images with: dvc repro verify") from error
