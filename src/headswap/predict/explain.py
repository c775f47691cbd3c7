"""What a decision rests on: heat maps by occlusion [1]_, which works for any network.

References
----------
.. [1] M. Zeiler and R. Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014.
"""

from collections.abc import Sequence
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
    `image` is a batch of one. The map, shape (size, size), has at each place the fall when its
    square is covered with the mean colour; 0 where the evidence rises.
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


def write_explanation(
    networks: Sequence[Classifier], path: Path, probabilities: torch.Tensor, picture: Path
) -> None:
    """Draw what the networks, runs of one cell, see of a photograph, and its decision's heat map.

    `probabilities` are those of its classes.
    """
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
    with atomic_write(picture) as temporary:
        figure.savefig(temporary, dpi=100)
