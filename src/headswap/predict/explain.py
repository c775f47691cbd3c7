"""What a decision rests on: heat maps by occlusion [1]_, which works for any network.

References
----------
.. [1] M. Zeiler and R. Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from captum.attr import Occlusion, visualization
from numpy.typing import NDArray

from headswap.io import atomic_write
from headswap.predict.model import Classifier

SQUARES = 14
"""In a row; one is covered at a time. In an image of 224 pixels its side is 16."""
BATCH = 32
"""Squares whose effects are computed at a time."""


def heat_map(
    networks: Sequence[Classifier], image: torch.Tensor, target: int
) -> NDArray[np.float64]:
    """Return how much the evidence for a class falls where a part of an image is covered.

    The evidence is the log-odds of the class with index `target`, averaged over the runs of a cell;
    `image` is a batch of one from `Classifier.preprocess`. The map, shape (size, size), has at each
    place the fall when its square is covered with the mean colour; 0 where the evidence rises.
    """
    side = max(1, image.shape[-1] // SQUARES)

    def log_odds(batch: torch.Tensor) -> torch.Tensor:
        """Return those of the class, shape (batch,); unlike probabilities they do not saturate."""
        logits = torch.stack([network(batch) for network in networks])
        others = torch.cat([logits[..., :target], logits[..., target + 1 :]], dim=-1)
        return (logits[..., target] - others.logsumexp(-1)).mean(0)

    falls = Occlusion(log_odds).attribute(
        image,
        sliding_window_shapes=(3, side, side),
        strides=(3, side, side),
        baselines=0,  # the mean colour, because images are normalised
        perturbations_per_eval=BATCH,
    )
    return falls[0].mean(0).clamp(min=0).double().cpu().numpy()


def write_explanations(
    networks: Sequence[Classifier],
    found: Mapping[Path, torch.Tensor],
    folder: Path,
) -> Iterator[Path]:
    """Write pictures: what the networks see of a photograph, and the heat map of its decision.

    The networks are runs of one cell; `found` has the probabilities of each photograph's classes.
    Yields each picture in `folder` when it is written. Its name is that of its photograph, from the
    folder on that all photographs are in, with ``.png`` added.
    """
    if not found:
        return
    parent = Path(os.path.commonpath([path.absolute().parent for path in found]))
    for path, probabilities in found.items():
        target = int(probabilities.argmax())
        crop = networks[0].crop(path)
        device = next(networks[0].parameters()).device
        falls = heat_map(networks, networks[0].normalize([crop]).to(device), target)
        figure, axes = visualization.visualize_image_attr_multiple(
            falls[..., None],
            crop.permute(1, 2, 0).numpy(),
            methods=["original_image", "blended_heat_map"],
            signs=["all", "positive"],
            cmap="inferno",
            fig_size=(8, 4.4),
            use_pyplot=False,
        )
        texts = (path.name, f"{networks[0].classes[target]} {probabilities[target]:.1%}")
        for axis, text in zip(axes, texts, strict=True):
            axis.set_title(text, parse_math=False)
        picture = folder / path.absolute().relative_to(parent)
        picture = picture.with_name(f"{picture.name}.png")
        with atomic_write(picture) as temporary:
            figure.savefig(temporary, dpi=100)
        yield picture
