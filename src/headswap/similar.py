"""Look-alikes: validation images that stand nearly so among the training images."""

import numpy as np
import pandas as pd

from .files import read_tensors
from .layout import EMBEDDINGS

SHARE = 0.05
"""Of the validation images, how many are looked at: those most like a training image."""


def look_alikes(results, share=SHARE):
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
    Problem
        If embeddings are missing or damaged.
    """
    if results.params.weights != "imagenet":
        return None
    paths = [EMBEDDINGS / f"{model}.safetensors" for model in results.params.models]
    loaded = [read_tensors(path, only=("val", "train_centred")) for path in paths]
    names = loaded[0][1]["names"]
    similarity = np.mean([_unit(of["val"]) @ _unit(of["train_centred"]).T for of, _ in loaded], 0)
    nearest = similarity.argmax(axis=1)
    pairs = pd.DataFrame(
        {
            "val": names["val"],
            "train": [names["train"][place] for place in nearest],
            "similarity": similarity.max(axis=1).astype(float).round(4),
        }
    )
    pairs = pairs.sort_values("similarity", ascending=False, kind="stable")
    return pairs.head(max(1, round(share * len(pairs)))).reset_index(drop=True)


def _unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
