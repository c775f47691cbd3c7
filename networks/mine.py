"""A network of your own, an example: see docs/networks.md."""

from torch import nn


def net() -> nn.Module:
    """Return a small network that was never pretrained, to see what pretraining is worth."""
    return nn.Sequential(
        *_block(3, 32),
        *_block(32, 64),
        *_block(64, 128),
        *_block(128, 256),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


def _block(channels: int, outputs: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, outputs, 3, stride=2, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
