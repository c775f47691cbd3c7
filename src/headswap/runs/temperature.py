"""One temperature for a cell's probabilities: C. Guo et al., ICML 2017, section 4.2."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

Floats = NDArray[np.floating]


def fit_temperature(probabilities: Floats, labels: NDArray[np.integer]) -> float:
    """Return what logits are to be divided by, for the least log loss of held-out images.

    The probabilities have shape (predictions, classes). One more prediction, of which every class
    would be right in part, keeps predictions without a mistake below certainty.
    """
    predictions, classes = probabilities.shape
    targets = np.eye(classes)[labels] * predictions + 1 / classes
    logits = _log(probabilities)

    def loss(logarithm: float) -> float:
        return -float((targets * special.log_softmax(logits / math.exp(logarithm), axis=1)).mean())

    found = optimize.minimize_scalar(loss, bounds=(-4, 4), method="bounded")
    return round(math.exp(found.x), 4)


def cross_fit(
    probabilities: Floats, labels: NDArray[np.integer], images: NDArray[np.integer]
) -> Floats:
    """Return the probabilities with a temperature that is fitted on the other half of the images.

    `images` has the number of each prediction's image.
    """
    calibrated = np.array(probabilities, float)
    for half in (images % 2 == 0, images % 2 == 1):
        if half.any() and not half.all():
            temperature = fit_temperature(probabilities[~half], labels[~half])
            calibrated[half] = special.softmax(_log(probabilities[half]) / temperature, axis=1)
    return calibrated


def _log(probabilities: Floats) -> Floats:
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
