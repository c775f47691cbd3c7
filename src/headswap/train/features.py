"""Features: the head's inputs for all images, when the backbone is frozen and in eval mode."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headswap.images.preprocessing import Preprocessing, preprocessing
from headswap.params import Params
from headswap.paths import IMAGES
from headswap.progress import OnProgress
from headswap.runs.features import BATCH, feature_key
from headswap.runs.provenance import machine
from headswap.snapshot import unchanged
from headswap.train.complexity import measure_complexity
from headswap.train.dataset import evaluation_batch
from headswap.train.devices import device_name, device_time
from headswap.train.loop import make_autocast
from headswap.train.networks import replace_layer
from headswap.train.speed.memory import keep_freed_memory
from headswap.train.weights import load_pretrained, save_tensors


def compute_parts(
    model: str,
    params: Params,
    key: dict[str, Any],
    parts: Mapping[Path, list[str]],
    on_progress: OnProgress,
) -> None:
    """Compute parts of the features, the images of each by its file; `key` is `feature_key`'s.

    With a part are written the backbone's complexity, the seconds it took, and the machine.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    values, device = preprocessing(model, params.image), params.device
    folder = next(iter(parts)).parent
    with unchanged(key, lambda: feature_key(model, params), written=folder):
        backbone, head = load_pretrained(model, params)
        replace_layer(backbone, head, nn.Identity())
        about = {
            "backbone": measure_complexity(backbone, values.size),
            "machine": machine(device_name(device)),
        }
        backbone.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for number, (file, names) in enumerate(parts.items()):
            on_progress(number)
            start, wall = device_time(device), time.perf_counter()
            batches = _batches([IMAGES / name for name in names], values, number, on_progress)
            autocast = make_autocast(params.precision, device)
            features = compute_features(backbone, batches, autocast, device)
            seconds, wall = device_time(device) - start, time.perf_counter() - wall
            save_tensors(file, {"features": features}, seconds=seconds, wall=wall, **about)


def _batches(
    paths: list[Path], values: Preprocessing, part: int, on_progress: OnProgress
) -> Iterator[torch.Tensor]:
    """Yield the photographs of a part in batches; after each, say how much of it is done."""
    for place in range(0, len(paths), BATCH):
        yield evaluation_batch(paths[place : place + BATCH], values)
        on_progress(part + min(1, (place + BATCH) / len(paths)))


@torch.no_grad()  # not inference mode, in which autocast does not cache the weights that it casts
def compute_features(
    backbone: nn.Module,
    batches: Iterable[torch.Tensor],
    autocast: AbstractContextManager[Any],
    device: str,
) -> torch.Tensor:
    """Return the outputs of a backbone in eval mode: float32, shape (images, features)."""
    backbone.eval()
    with autocast:
        return torch.cat([backbone(batch.to(device)).float().cpu() for batch in batches])
