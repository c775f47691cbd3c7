"""Temperature scaling: probabilities that say how often a network is right."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import softmax

SMALLEST = 1e-12
"""Of a probability; float32 rounds smaller ones to zero, whose logarithm is infinite."""


def temper(probabilities: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """Divide the logits behind probabilities, shape (predictions, classes), by a temperature.

    >>> temper([[0.9, 0.1]], 2.0).round(2)
    array([[0.75, 0.25]])
    """
    logits = np.log(np.maximum(np.asarray(probabilities, float), SMALLEST))
    return np.asarray(softmax(logits / temperature, axis=1))


def fit_temperature(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return the temperature of the least log loss on predictions that no network was trained on.

    Probabilities have shape (predictions, classes), labels are places of classes [1]_. It is
    between 0.05 and 20, which only a network that is always right, or guesses, reaches.

    References
    ----------
    .. [1] C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    probabilities, labels = np.asarray(probabilities, float), np.asarray(labels, int)
    rows = np.arange(len(labels))

    def log_loss(log_temperature: float) -> float:
        of_label = temper(probabilities, np.exp(log_temperature))[rows, labels]
        return -float(np.log(np.maximum(of_label, SMALLEST)).mean())

    found = minimize_scalar(log_loss, bounds=(np.log(0.05), np.log(20)), method="bounded")
    return float(f"{np.exp(found.x):.4g}")
