"""Look-alikes: validation images that stand nearly so among the training images."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import safe_open

from .errors import Problem

EMBEDDINGS = Path("data/embeddings")
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
    loaded = [_embeddings(model) for model in results.params.models]
    names = loaded[0][1]
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


def _embeddings(model):
    path = EMBEDDINGS / f"{model}.safetensors"
    try:
        with safe_open(path, "np") as file:
            names = json.loads(file.metadata()["headswap"])["names"]
            return {key: file.get_tensor(key) for key in ("val", "train_centred")}, names
    except Exception as error:  # the file may be anything
        raise Problem(
            f"{path} cannot be read: {error}.\nMake it anew with: dvc repro embed"
        ) from None


def _unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
