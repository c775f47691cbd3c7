"""What a decision rests on: heat maps by occlusion (Zeiler and Fergus, ECCV 2014)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from captum.attr import Occlusion, visualization
from numpy.typing import NDArray

from headswap.io import atomic_write
from headswap.predict.model import Classifier, logits_of_runs

SQUARES = 14  # in a row; one is covered at a time
LEGEND = "Purple, pink, yellow: the more so, the more the evidence for the class lies there"


def heat_map(
    networks: Sequence[Classifier], image: torch.Tensor, target: int
) -> NDArray[np.float64]:
    """Return how much the evidence for a class falls where a square of an image is covered.

    The evidence is the log-odds (which do not saturate) of the class with index `target`, averaged
    over the runs of a cell; `image` is a batch of one. Shape (size, size); 0 where it rises.
    """
    side = max(1, image.shape[-1] // SQUARES)

    def log_odds(batch: torch.Tensor) -> torch.Tensor:
        logits = logits_of_runs(networks, batch)
        others = torch.cat([logits[..., :target], logits[..., target + 1 :]], dim=-1)
        return (logits[..., target] - others.logsumexp(-1)).mean(0)

    square = 3, side, side
    how = {"baselines": 0, "perturbations_per_eval": 32}  # 0: the mean colour of normalised images
    falls = Occlusion(log_odds).attribute(image, square, strides=square, **how)
    return falls[0].mean(0).clamp(min=0).double().cpu().numpy()


def write_explanation(
    networks: Sequence[Classifier], path: Path, probabilities: torch.Tensor, picture: Path
) -> None:
    """Draw what the runs of a cell see of a photograph, and the heat map of their decision."""
    first, target = networks[0], int(probabilities.argmax())
    crop = first.crop(path)
    batch = first.normalize([crop]).to(next(first.parameters()).device)
    pictures = heat_map(networks, batch, target)[..., None], crop.permute(1, 2, 0).numpy()
    kinds = ["original_image", "blended_heat_map"], ["all", "positive"]
    how = {"cmap": "inferno", "fig_size": (8, 4.4), "use_pyplot": False}
    figure, axes = visualization.visualize_image_attr_multiple(*pictures, *kinds, **how)
    axes[0].set_title(path.name, parse_math=False)
    axes[1].set_title(f"{first.classes[target]} {probabilities[target]:.1%}", parse_math=False)
    figure.text(0.98, 0.02, LEGEND, ha="right", va="bottom", fontsize=9)
    with atomic_write(picture) as temporary:
        figure.savefig(temporary, dpi=100)
