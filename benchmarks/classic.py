"""The classic script, to measure headswap against: one network, one mode, one seed.

Written from the recipe of the PyTorch tutorial [1]_, without ornament and without improvements:

    python benchmarks/classic.py alexnet frozen --images data/images --epochs 2

The last line that it prints is JSON: the seconds of each epoch (training and validation).

.. [1] S. Chilamkurthy, "Transfer Learning for Computer Vision Tutorial", PyTorch tutorials.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import nn, optim
from torch.optim import lr_scheduler
from torchvision import datasets, models, transforms

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TRANSFORMS = {
    "train": transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    ),
    "val": transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    ),
}


def two_classes(name, frozen):
    """Build AlexNet or ResNet-18 with a new head; frozen, everything else stays as it is."""
    network = getattr(models, name)(weights=None)
    for parameter in network.parameters():
        parameter.requires_grad = not frozen
    if name == "alexnet":
        network.classifier[6] = nn.Linear(network.classifier[6].in_features, 2)
    else:
        network.fc = nn.Linear(network.fc.in_features, 2)
    return network


def train(network, loaders, epochs):
    """Train and validate; return the best validation accuracy and the seconds of each epoch."""
    criterion = nn.CrossEntropyLoss()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = optim.SGD(trained, lr=0.001, momentum=0.9)
    scheduler = lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    best, seconds = 0.0, []
    for _ in range(epochs):
        started = time.perf_counter()
        for phase in ("train", "val"):
            network.train(phase == "train")
            corrects = 0
            for inputs, labels in loaders[phase]:
                optimizer.zero_grad()
                with torch.set_grad_enabled(phase == "train"):
                    outputs = network(inputs)
                    _, predictions = torch.max(outputs, 1)
                    loss = criterion(outputs, labels)
                    if phase == "train":
                        loss.backward()
                        optimizer.step()
                corrects += torch.sum(predictions == labels.data).item()
            if phase == "train":
                scheduler.step()
        accuracy = corrects / len(loaders["val"].dataset)
        if accuracy > best:
            best = accuracy
            torch.save(network.state_dict(), "classic_best.pt")
        seconds.append(time.perf_counter() - started)
    return best, seconds


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", choices=["alexnet", "resnet18"])
    parser.add_argument("mode", choices=["finetune", "frozen"])
    parser.add_argument("--images", type=Path, default=Path("data/images"))
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    loaders = {
        phase: torch.utils.data.DataLoader(
            datasets.ImageFolder(options.images / phase, TRANSFORMS[phase]),
            batch_size=4,
            shuffle=True,
            num_workers=options.workers,
        )
        for phase in ("train", "val")
    }
    network = two_classes(options.model, options.mode == "frozen")
    best, seconds = train(network, loaders, options.epochs)
    print(f"Best val Acc: {best:4f}")
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
