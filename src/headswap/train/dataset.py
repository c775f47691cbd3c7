"""What a network sees: photographs decoded once, cropped and normalised as tensors."""

from pathlib import Path

import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from headswap.images.folders import classes_in, images_by_split, images_in
from headswap.paths import IMAGES
from headswap.train.seeds import generator, seeded

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, by channel, of pixels between 0 and 1."""
VAL_BATCH = 32
"""Images in a batch where nothing is learned; part of the arithmetic, so no parameter."""
HELD = 2**29
"""Bytes of each split that stay decoded: 900 photographs of 500 by 375 pixels."""


class Photographs:
    """The images of a data set, decoded once and held in memory, as many as `HELD` allows.

    Parameters
    ----------
    image : params.Image
        Sides in pixels.
    folder : path-like
        With ``train/<class>/<image>`` and ``val/<class>/<image>`` in it.

    Attributes
    ----------
    classes : list of str
        Sorted; a label is a place in it.
    names : dict of str to list of str
        For each split the images' paths, sorted.
    labels : dict of str to torch.Tensor
        For each split int64, shape (images,).
    """

    def __init__(self, image, folder=IMAGES):
        paths = images_in(folder)
        self.classes = classes_in(folder)
        self.names = images_by_split(folder)
        self.labels = {
            split: torch.tensor([self.classes.index(name.split("/")[1]) for name in names])
            for split, names in self.names.items()
        }
        self._augment = augmentation(image)
        self._centre = v2.Compose([v2.Resize(image.resize), v2.CenterCrop(image.size)])
        self._train = Held([paths[name] for name in self.names["train"]], decode)
        self._val = Held([paths[name] for name in self.names["val"]], self._decode_centre)

    def train(self, seed, epoch, batch_size):
        """Yield an epoch's augmented batches, in an order of its own.

        Yields
        ------
        inputs : torch.Tensor
            Float, shape (batch, 3, size, size), normalised.
        labels : torch.Tensor
            Int64, shape (batch,).
        """
        order = torch.randperm(len(self._train), generator=generator(seed, "order", epoch))
        for chunk in order.split(batch_size):
            views = [self.view(index, seed, epoch) for index in chunk.tolist()]
            yield normalise(views), self.labels["train"][chunk]

    def val(self):
        """Yield the validation images in batches, as `train` does, neither shuffled nor changed."""
        for chunk in torch.arange(len(self._val)).split(VAL_BATCH):
            views = [self._val[index] for index in chunk.tolist()]
            yield normalise(views), self.labels["val"][chunk]

    def train_centred(self):
        """Yield the training images as `val` yields the validation images, without labels."""
        for chunk in torch.arange(len(self._train)).split(VAL_BATCH):
            yield normalise([self._centre(self._train[index]) for index in chunk.tolist()])

    def view(self, index, seed, number):
        """Return one augmented view of a training image: bytes, shape (3, size, size).

        It depends on the image, `seed` and `number` (the epoch) alone, not on what came before.
        """
        with seeded(seed, "augmentation", number, index):
            return self._augment(self._train[index])

    def _decode_centre(self, path):
        return self._centre(decode(path))


class Held:
    """Images by their place: the first ones decoded once, the rest whenever they are asked for.

    Parameters
    ----------
    paths : list of path-like
    decode : callable
        Makes bytes, a torch.Tensor, of a path.
    room : int, optional
        Bytes to hold.
    """

    def __init__(self, paths, decode, room=HELD):
        self._paths, self._decode = paths, decode
        self._room, self._kept = room, {}

    def __len__(self):
        return len(self._paths)

    def __getitem__(self, index):
        if index in self._kept:
            return self._kept[index]
        image = self._decode(self._paths[index])
        if image.nbytes <= self._room:
            self._room -= image.nbytes
            self._kept[index] = image
        return image


def augmentation(image):
    """Return the classic recipe's augmentation, drawing from torch's default generator."""
    crop = v2.RandomResizedCrop(image.size, antialias=True)
    return v2.Compose([crop, v2.RandomHorizontalFlip()])


def decode(path):
    """Read an image of any kind, upright, as RGB bytes, shape (3, height, width)."""
    with Image.open(Path(path)) as image:
        return v2.functional.pil_to_tensor(ImageOps.exif_transpose(image).convert("RGB"))


def normalise(images):
    """Stack images of bytes into floats with ImageNet's mean and spread, channels last."""
    pixels = torch.stack(images).float().div_(255)
    pixels = v2.functional.normalize(pixels, MEAN, STD, inplace=True)
    return pixels.contiguous(memory_format=torch.channels_last)
