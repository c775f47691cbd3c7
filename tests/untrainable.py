"""Networks that cannot be trained, each for another reason, and some whose output is taken out."""

from types import SimpleNamespace

import torch
from torch import nn


class _Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(4, 10)

    def forward(self, images):
        return self.fc(self.body(images))


class ATuple(_Base):
    def forward(self, images):
        return super().forward(images), None


class AnObject(_Base):
    def forward(self, images):
        return SimpleNamespace(logits=super().forward(images))


class ATupleInTraining(_Base):
    def forward(self, images):
        output = super().forward(images)
        return (output, output) if self.training else output


class AMap(_Base):
    def forward(self, images):
        return self.body[0](images)


class ADictionary(_Base):
    def forward(self, images):
        return {"features": self.body(images)}


class Float64(_Base):
    def __init__(self):
        super().__init__()
        self.double()

    def forward(self, images):
        return super().forward(images.double())


class Lazy(_Base):
    def __init__(self):
        super().__init__()
        self.fc = nn.LazyLinear(10)


def data_parallel():
    return nn.DataParallel(_Base())


class AView(_Base):
    def forward(self, images):
        return super().forward(images).view(-1, 10)


class ASlice(_Base):
    def forward(self, images):
        return super().forward(images)[:, :10]


class CalledTwice(_Base):
    def forward(self, images):
        super().forward(images.flip(3))
        return super().forward(images)


class AnotherName(_Base):
    def __init__(self):
        super().__init__()
        self.classifier = self.fc

    def forward(self, images):
        return self.classifier(self.body(images))


class ReadsTheWeight(_Base):
    def forward(self, images):
        return self.fc(self.body(images).to(self.fc.weight.dtype))


class FailsInTraining(_Base):
    def forward(self, images):
        if self.training:
            raise ValueError("no labels")
        return super().forward(images)


class WithoutGradients(_Base):
    @torch.no_grad()
    def forward(self, images):
        return super().forward(images)


class ADetachedBody(_Base):
    def forward(self, images):
        return self.fc(self.body(images).detach())
