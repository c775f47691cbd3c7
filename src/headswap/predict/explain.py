"""What a decision rests on: heat maps by occlusion (Zeiler and Fergus, ECCV 2014)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from captum.attr import Occlusion, visualization
from numpy.typing import NDArray

from headswap.io import atomic_write
from headswap.predict.model import Classifier, logits_of_runs, threads_of_torch

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

    falls = Occlusion(log_odds).attribute(
        image,
        sliding_window_shapes=(3, side, side),
        strides=(3, side, side),
        baselines=0,  # the mean colour, because images are normalised
        perturbations_per_eval=32,
    )
    return falls[0].mean(0).clamp(min=0).double().cpu().numpy()


def write_explanations(
    networks: Sequence[Classifier], probabilities: Mapping[Path, torch.Tensor], files: list[Path]
) -> None:
    """Draw what the runs of a cell see of photographs, and the heat maps of their decisions."""
    first = networks[0]
    device = next(first.parameters()).device

    def see(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        crop, target = first.crop(path), int(probabilities[path].argmax())
        heat = heat_map(networks, first.normalize([crop]).to(device), target)
        return heat[..., None], crop.permute(1, 2, 0).numpy()

    with threads_of_torch() as pool:
        pictures = pool.map(see, probabilities)
        for (path, values), seen, file in zip(probabilities.items(), pictures, files, strict=True):
            figure, axes = visualization.visualize_image_attr_multiple(
                *seen,
                methods=["original_image", "blended_heat_map"],
                signs=["all", "positive"],
                cmap="inferno",
                fig_size=(8, 4.4),
                use_pyplot=False,
            )
            axes[0].set_title(path.name, parse_math=False)
            name = first.classes[int(values.argmax())]
            axes[1].set_title(f"{name} {values.max():.1%}", parse_math=False)
            figure.text(0.98, 0.02, LEGEND, ha="right", va="bottom", fontsize=9)
            with atomic_write(file) as temporary:
                figure.savefig(temporary, dpi=100)
