"""The most that declared Gaussian noise lets through, of what is sent alone: nothing is trained and no image is looked at.

Beside :func:`ani_jax.losses.noise.gaussian_rate`, which takes every element by itself and which a defence can be trained with,
this one knows that elements which say the same say it once.
"""

import math

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import bisect
from scipy.special import entr
from sklearn.covariance import ledoit_wolf

from ani_jax.losses.checks import require
from ani_jax.records import Estimate


def ceiling(
    mean: Float[np.ndarray, "n m"],
    stddev: Float[np.ndarray, "n m"],
    labels: Int[np.ndarray, " n"] | None = None,
) -> Estimate:
    """Ceiling of I(x; z), or of I(x; z | y), where z is Gaussian and independent given x (METHODS 6).

        I(x; z | y) <= 1/2 log det (E Cov(mean | y) + diag E stddev^2) - E sum_i log stddev_i

    holds for the true covariance, since no z has more entropy than the Gaussian of its covariance, and log det is concave.
    With one of n rows, shrunk after Ledoit and Wolf (2004) in units of the noise, it is an estimate.

    Args:
        mean: of z given x, flat.
        stddev: likewise, above 0.
        labels: (n,), y; None for I(x; z).

    Returns:
        Nats an image, between what the even and the odd rows give.

    Raises:
        ValueError: fewer than 4 rows, or a stddev that is not above 0.

    Example:
        >>> mean = np.random.default_rng(0).standard_normal((4000, 1)).repeat(2, 1)
        >>> twice = ceiling(mean, np.ones_like(mean))
        >>> bool(abs(twice.value - np.log(3) / 2) < 0.05), twice.low <= twice.value <= twice.high
        (True, True)
    """
    require(mean.shape[0] >= 4, "len(mean)", mean.shape[0], "at least 4")
    require(bool((stddev > 0).all()), "stddev", float(np.min(stddev)), "above 0")
    labels = np.zeros(mean.shape[0], int) if labels is None else labels

    def nats(own: slice) -> float:
        _, place, count = np.unique(labels[own], return_inverse=True, return_counts=True)
        sums = np.zeros((len(count), mean.shape[1]))
        np.add.at(sums, place, mean[own])
        typical = np.sqrt(np.square(stddev[own]).mean(0))
        covariance, _ = ledoit_wolf((mean[own] - (sums / count[:, None])[place]) / typical, assume_centered=True)
        _, twice = np.linalg.slogdet(np.eye(len(covariance)) + covariance)
        return float(twice / 2 + np.log(typical).sum() - np.log(stddev[own]).sum(1).mean())

    values = [nats(own) for own in (slice(None), slice(0, None, 2), slice(1, None, 2))]
    return Estimate(values[0], min(values), max(values), note="an estimate: the covariance is of a sample")


def most_right(nats: float, classes: int) -> float:
    """Largest share of right answers about equally weighted classes from what says so many nats of an image (Fano 1961).

        log K - I <= h(a) + (1 - a) log(K - 1),      h the entropy of being right

    What is sought is a function of the image, so that no more is said of it; a ceiling of I holds for every weighting of images,
    so classes of any frequency count alike, as in a balanced accuracy.

    Args:
        nats: an upper bound of I(x; z), 0 or more.
        classes: K, at least 2.

    Returns:
        a, from 1/K for nothing to 1 from log K nats on: certain if the bound is.

    Raises:
        ValueError: fewer classes, or fewer nats.

    Example:
        >>> [round(most_right(nats, 4), 3) for nats in (0.0, 0.1, 2.0)]
        [0.25, 0.457, 1.0]
    """
    require(classes >= 2, "classes", classes, "at least 2")
    require(bool(nats >= 0), "nats", nats, "0 or more")
    unsaid = math.log(classes) - nats
    if unsaid <= 0:
        return 1.0

    def over(right: float) -> float:
        return float(entr(right) + entr(1 - right)) + (1 - right) * math.log(classes - 1) - unsaid

    # Of no nats the root is where the curve is flat, and rounding may put it on either side.
    return bisect(over, 1 / classes, 1.0) if over(1 / classes) > 0 else 1 / classes  # type: ignore[return-value]
