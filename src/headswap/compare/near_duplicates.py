"""Near-duplicates: validation images that almost repeat a training image."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from headswap.compare.results import Results
from headswap.errors import UserError
from headswap.io import read_tensors
from headswap.paths import EMBEDDINGS

SHARE = 0.05
"""The share of the validation images that is listed: those most similar to a training image."""
BATCH = 256
"""How many validation images are compared with all training images at a time, to bound memory."""


def near_duplicates(results: Results) -> pd.DataFrame | None:
    """Find the validation images that are most similar to a training image.

    Photographs of one session in both splits make a validation image easier than a new one would
    be. No threshold separates near-duplicates from images that are similar by chance for every
    network, so `SHARE` of the validation images is listed; what matters is whether the accuracies
    depend on it.

    Return ``val``, ``train`` (the most similar training image) and ``similarity`` (the cosine
    similarity of their features, mean over the models), most similar first; None if the weights
    are random, because such features say little about what an image shows. A UserError says if
    embeddings are missing, damaged, or of other images.
    """
    if results.params.weights != "imagenet":
        return None
    paths = [EMBEDDINGS / f"{model}.safetensors" for model in results.params.models]
    embeddings = [read_tensors(path, only=("val", "train_centred")) for path in paths]
    names = embeddings[0][1]["names"]
    seen = {f"val/{image}" for image in results.predictions["image"]}  # empty: all runs diverged
    if any(metadata["names"] != names for _, metadata in embeddings) or (
        seen and seen != set(names["val"])
    ):
        raise UserError(
            f"The features in {EMBEDDINGS} are not of the images that the cells were validated "
            "on.\nBring all up to date with: dvc repro"
        )
    val, train = (
        [_normalised(tensors[key]) for tensors, _ in embeddings] for key in ("val", "train_centred")
    )
    nearest: list[int] = []
    cosines: list[float] = []
    for start in range(0, len(names["val"]), BATCH):
        batch = [features[start : start + BATCH] for features in val]
        similarity = np.mean([a @ b.T for a, b in zip(batch, train, strict=True)], axis=0)
        nearest += similarity.argmax(axis=1).tolist()
        cosines += similarity.max(axis=1).tolist()
    pairs = pd.DataFrame(
        {
            "val": names["val"],
            "train": [names["train"][place] for place in nearest],
            "similarity": np.round(cosines, 4),
        }
    )
    pairs = pairs.sort_values("similarity", ascending=False, kind="stable")
    return pairs.head(max(1, round(SHARE * len(pairs)))).reset_index(drop=True)


def _normalised(features: NDArray[np.float32]) -> NDArray[np.float32]:
    return features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
