"""Near-duplicates: validation images that stand nearly so among the training images."""

import numpy as np
import pandas as pd

from headswap.errors import UserError
from headswap.io import read_tensors
from headswap.paths import EMBEDDINGS

SHARE = 0.05
"""Of the validation images, how many are looked at: those most like a training image."""
BLOCK = 256
"""Validation images that are held against all training images at a time, to bound memory."""


def near_duplicates(results, share=SHARE):
    """Find the validation images that are most like a training image.

    Photographs of one session in both splits make a validation image easier than a new one would
    be. No threshold tells a near-duplicate from a lucky likeness for every network, so a fixed
    share is taken, and shown; what matters is whether the accuracies depend on it.

    Parameters
    ----------
    results : results.Results
        Of whose models the embeddings serve.
    share : float
        Of the validation images.

    Returns
    -------
    pandas.DataFrame or None
        ``val``, ``train`` (the most similar training image) and ``similarity`` (the cosine between
        the two images' features, mean over the models), most similar first; None if the weights
        are random, whose features say little of what an image shows.

    Raises
    ------
    UserError
        If embeddings are missing, damaged, or of other images.
    """
    if results.params.weights != "imagenet":
        return None
    paths = [EMBEDDINGS / f"{model}.safetensors" for model in results.params.models]
    loaded = [read_tensors(path, only=("val", "train_centred")) for path in paths]
    names = loaded[0][1]["names"]
    seen = {f"val/{image}" for image in results.predictions["image"]}
    if any(metadata["names"] != names for _, metadata in loaded) or seen not in (
        set(names["val"]),
        set(),  # every run diverged
    ):
        raise UserError(
            f"The features in {EMBEDDINGS} are not of the images that the cells saw.\n"
            "Bring all up to date with: dvc repro"
        )
    val, train = ([_unit(of[key]) for of, _ in loaded] for key in ("val", "train_centred"))
    places, cosines = [], []
    for start in range(0, len(names["val"]), BLOCK):
        block = [of_model[start : start + BLOCK] for of_model in val]
        similarity = np.mean([a @ b.T for a, b in zip(block, train, strict=True)], axis=0)
        places += similarity.argmax(axis=1).tolist()
        cosines += similarity.max(axis=1).tolist()
    pairs = pd.DataFrame(
        {
            "val": names["val"],
            "train": [names["train"][place] for place in places],
            "similarity": np.round(cosines, 4),
        }
    )
    pairs = pairs.sort_values("similarity", ascending=False, kind="stable")
    return pairs.head(max(1, round(share * len(pairs)))).reset_index(drop=True)


def _unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
