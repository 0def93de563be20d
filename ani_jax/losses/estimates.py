"""Entropy, mutual information and Fisher information in nats: closed forms, estimates, certificates.

A bound and an estimate are different functions here, even where the formula is the same: only a bound may be called a
certificate.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma
from jaxtyping import Array, Float

from ani_jax.losses import pairwise
from ani_jax.losses.checks import floating, require, require_rank

Samples = Float[Array | np.ndarray, "b ..."]
Nats = Float[Array, ""]


def correlated_gaussian_information(rho: float | Float[Array, "..."], dimension: int) -> Float[Array, "..."]:
    """I = -d/2 log(1 - rho^2) of d independent pairs of normal variables with correlation rho: the self-test's truth.

    Args:
        rho: correlation, in (-1, 1).
        dimension: d, number of pairs.

    Returns:
        Nats, rho's shape; infinite at |rho| = 1.

    Raises:
        ValueError: ``dimension`` is below 1.

    Example:
        >>> round(correlated_gaussian_information(0.5, 20).item(), 4)
        2.8768
    """
    require(dimension >= 1, "dimension", dimension, "1 or more")
    return -dimension / 2 * jnp.log1p(-jnp.square(floating(rho)))


def gaussian_entropy(x: Samples) -> Nats:
    """Entropy of the Gaussian with the sample's covariance: log det(2 pi e Sigma) / 2, no less than x's own.

    Args:
        x: (b, ...), flattened to d dimensions; b above d.

    Returns:
        Scalar, nats; minus infinity where the covariance is singular. Biased low by about d^2 / (4 b).

    Raises:
        ValueError: no more examples than dimensions.

    Example:
        >>> round(gaussian_entropy(jnp.array([[-1.0], [1.0], [-1.0], [1.0]])).item(), 3)
        1.563
    """
    x = _flat(x)
    size, dimension = x.shape
    require(size > dimension, "len(x)", size, f"above its dimension, {dimension}")
    # Full precision: shortened products can make a covariance singular or worse.
    x = x - x.mean(0)[None]
    covariance = jnp.matmul(x.T, x, precision=jax.lax.Precision.HIGHEST) / (size - 1)
    return (jnp.linalg.slogdet(covariance)[1] + dimension * math.log(2 * math.pi * math.e)) / 2


def gaussian_mutual_information(x: Samples, z: Samples) -> Nats:
    """I of the Gaussian with the sample's joint covariance: (log det Sigma_x + log det Sigma_z - log det Sigma_xz) / 2.

    An estimate: exact for Gaussian data and many examples, biased *up* by about d_x d_z / (2 b). For other data
    neither a lower nor an upper bound.

    Args:
        x: (b, ...), flattened to d_x dimensions.
        z: (b, ...), flattened to d_z dimensions; b above d_x + d_z.

    Returns:
        Scalar, nats.

    Raises:
        ValueError: the batches differ, or no more examples than dimensions.

    Example:
        >>> x, z = jnp.array([-1.0, -1.0, 1.0, 1.0]), jnp.array([-1.0, 1.0, -1.0, 1.0])
        >>> abs(round(gaussian_mutual_information(x, z).item(), 5))
        0.0
    """
    x, z = _flat_pair(x, z)
    return gaussian_entropy(x) + gaussian_entropy(z) - gaussian_entropy(jnp.concatenate([x, z], axis=1))


def kozachenko_leonenko_entropy(x: Samples, k: int = 3) -> Nats:
    """Entropy from distances to the k-th neighbour (Kozachenko & Leonenko 1987): an estimate, not a bound.

        H = psi(b) - psi(k) + log V_d + d / b * sum_i log r_i,    r_i Euclidean, V_d the unit ball's volume

    Args:
        x: (b, ...), flattened to d dimensions. O(b^2) memory.
        k: which neighbour, from 1 to b - 1.

    Returns:
        Scalar, nats; minus infinity where an example has k exact duplicates. Biased in many dimensions.

    Raises:
        ValueError: ``k`` is outside its range.

    Example:
        >>> x = jax.random.uniform(jax.random.key(0), (500, 1))
        >>> abs(kozachenko_leonenko_entropy(x).item()) < 0.15
        True
    """
    x = _flat(x)
    size, dimension = x.shape
    radius = _kth_neighbour(pairwise.squared_distances(x), k)
    # Radii are squared, so half of their logarithm counts.
    log_ball = dimension / 2 * math.log(math.pi) - math.lgamma(dimension / 2 + 1)
    return digamma(floating(size)) - digamma(floating(k)) + log_ball + dimension / 2 * jnp.log(radius).mean()


def ksg_mutual_information(x: Samples, z: Samples, k: int = 3) -> Nats:
    """Mutual information from neighbour counts (Kraskov et al. 2004, algorithm 1): an estimate, not a bound.

        I = psi(k) + psi(b) - mean_i [ psi(n_x(i) + 1) + psi(n_z(i) + 1) ]

    n_x(i) counts the examples closer to i in x than i's k-th neighbour in the joint space is (the larger of the
    Euclidean distances in x and in z).

    Args:
        x: (b, ...).
        z: (b, ...). Standardise both: the joint distance compares them. O(b^2) memory.
        k: which neighbour, from 1 to b - 1.

    Returns:
        Scalar, nats; can be slightly negative. Saturates near log b, and under-estimates in many dimensions. No
        gradient: it counts.

    Raises:
        ValueError: the batches differ, or ``k`` is outside its range.

    Example:
        >>> x = jax.random.normal(jax.random.key(0), (300,))
        >>> z = 0.6 * x + 0.8 * jax.random.normal(jax.random.key(1), (300,))
        >>> abs(ksg_mutual_information(x, z).item() - 0.223) < 0.1
        True
    """
    x, z = _flat_pair(x, z)
    squared = [pairwise.squared_distances(value) for value in (x, z)]
    radius = _kth_neighbour(jnp.maximum(*squared), k)
    # Each row counts itself once, at distance 0, which is the "+ 1".
    counts = [jnp.maximum((values < radius[:, None]).sum(1), 1) for values in squared]
    size = floating(x.shape[0]).astype(x.dtype)
    return (
        digamma(floating(k))
        + digamma(size)
        - jnp.mean(digamma(counts[0].astype(x.dtype)) + digamma(counts[1].astype(x.dtype)))
    )


def conditional_entropy_bound(entropy_lower: float | Nats, information_upper: float | Nats) -> Nats:
    """H(x|z) >= H(x) - I, from a lower bound of H(x) and an UPPER bound of I: what a certificate may use.

    The upper bound has to hold for every distribution, as a channel's capacity does
    (:func:`gaussian_channel_capacity`), and x has to be continuous: pixels plus declared dequantisation noise. A
    plug-in or a lower bound of I makes :func:`conditional_entropy_estimate`.

    Args:
        entropy_lower: lower bound of H(x), nats.
        information_upper: upper bound of I(x; z), nats.

    Returns:
        Lower bound of H(x|z), nats.

    Example:
        >>> conditional_entropy_bound(3.0, 1.0).item()
        2.0
    """
    return floating(entropy_lower) - floating(information_upper)


def conditional_entropy_estimate(entropy: float | Nats, information: float | Nats) -> Nats:
    """H(x|z) from estimates of H(x) and I: an ESTIMATE, NOT A BOUND, and label it so.

    Critics' lower bounds of I make it too large, that is, they make a defence look too good.

    Args:
        entropy: estimate of H(x), nats.
        information: estimate of I(x; z), nats.

    Returns:
        Estimate of H(x|z), nats.

    Example:
        >>> conditional_entropy_estimate(3.0, 1.0).item()
        2.0
    """
    return floating(entropy) - floating(information)


def mse_bound_from_entropy(conditional_entropy_lower: float | Nats, dimension: int) -> Nats:
    """No attacker's mean squared error is below exp(2 H(x|z) / d) / (2 pi e): a certificate if H is bounded from BELOW.

    Holds for x plus the declared dequantisation noise. Fed with an estimate it is an estimate:
    :func:`mse_estimate_from_entropy`.

    Args:
        conditional_entropy_lower: lower bound of H(x|z), nats, from :func:`conditional_entropy_bound`.
        dimension: d, elements of x.

    Returns:
        Squared units of x, per element.

    Raises:
        ValueError: ``dimension`` is below 1.

    Example:
        >>> stddev = 0.1
        >>> entropy = 5 * (0.5 * math.log(2 * math.pi * math.e) + math.log(stddev))
        >>> round(mse_bound_from_entropy(entropy, 5).item(), 5)
        0.01
    """
    require(dimension >= 1, "dimension", dimension, "1 or more")
    return jnp.exp(2 * floating(conditional_entropy_lower) / dimension) / (2 * math.pi * math.e)


def mse_estimate_from_entropy(conditional_entropy: float | Nats, dimension: int) -> Nats:
    """The same formula from an *estimate* of H(x|z): an estimate, not a bound, because H is usually over-estimated.

    Args:
        conditional_entropy: estimate of H(x|z), nats, from :func:`conditional_entropy_estimate`.
        dimension: d, elements of x.

    Returns:
        Squared units of x, per element.

    Raises:
        ValueError: ``dimension`` is below 1.

    Example:
        >>> round(mse_estimate_from_entropy(0.0, 1).item(), 4)
        0.0585
    """
    return mse_bound_from_entropy(conditional_entropy, dimension)


def gaussian_channel_capacity(power: float | Nats, stddev: float | Nats, dimension: int) -> Nats:
    """d/2 log(1 + P / stddev^2): no input of mean power P per element says more through Gaussian noise (Shannon 1948).

    Args:
        power: P, an upper limit of the mean squared signal per element, about any constant. The features must be
            clipped to it.
        stddev: of the noise, above 0.
        dimension: d, elements of z.

    Returns:
        Upper bound of I(x; z), nats.

    Raises:
        ValueError: ``dimension`` is below 1.

    Example:
        >>> round(gaussian_channel_capacity(3.0, 1.0, 2).item(), 4)
        1.3863
    """
    require(dimension >= 1, "dimension", dimension, "1 or more")
    return dimension / 2 * jnp.log1p(floating(power) / jnp.square(floating(stddev)))


def gaussian_fisher_information(
    mean_jacobian: Float[Array | np.ndarray, "d p"],
    stddev: Float[Array | np.ndarray, " d"],
    stddev_jacobian: Float[Array | np.ndarray, "d p"] | None = None,
) -> Float[Array, "p p"]:
    """Fisher information about x of one release z ~ N(mean(x), diag stddev(x)^2), its variance term included.

        J = sum_i [ dm_i dm_i^T + 2 dsigma_i dsigma_i^T ] / sigma_i^2

    Leaving out the second term declares a release that only *scales* its noise with x to be harmless. Cramer-Rao
    (mean squared error of 1/J and more) speaks of unbiased attackers only; one with a prior is bounded by van Trees,
    which adds the prior's information.

    Args:
        mean_jacobian: (d, p), d mean_i / d x_j, as from ``jax.jacobian``; columns may be any p directions of x.
        stddev: (d,), above 0.
        stddev_jacobian: (d, p), d stddev_i / d x_j; None for noise that does not depend on x.

    Returns:
        (p, p), symmetric, per squared unit of x.

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> gaussian_fisher_information(jnp.zeros((1, 1)), jnp.array([2.0]), jnp.array([[2.0]])).round(4).tolist()
        [[2.0]]
    """
    mean_jacobian, stddev = floating(mean_jacobian), floating(stddev)
    require_rank(mean_jacobian, "mean_jacobian", 2)
    require(stddev.shape == mean_jacobian.shape[:1], "stddev.shape", stddev.shape, f"({mean_jacobian.shape[0]},)")
    scaled = mean_jacobian / stddev[:, None]
    if stddev_jacobian is not None:
        spread = floating(stddev_jacobian)
        require(spread.shape == scaled.shape, "stddev_jacobian.shape", spread.shape, f"{scaled.shape}")
        # J is a product of one tall matrix with itself, so symmetric and without negative eigenvalues but for rounding.
        scaled = jnp.concatenate([scaled, math.sqrt(2) * spread / stddev[:, None]])
    return jnp.matmul(scaled.T, scaled, precision=jax.lax.Precision.HIGHEST)


def _flat(x: Samples) -> Float[Array, "b d"]:
    x = floating(x)
    require(x.ndim >= 1, "x.shape", x.shape, "of rank 1 or more")
    return x.reshape(x.shape[0], -1)


def _flat_pair(x: Samples, z: Samples) -> tuple[Float[Array, "b d"], Float[Array, "b e"]]:
    x, z = _flat(x), _flat(z)
    require(x.shape[0] == z.shape[0], "len(x)", x.shape[0], f"z's, {z.shape[0]}")
    return x, z


def _kth_neighbour(squared: Float[Array, "b b"], k: int) -> Float[Array, " b"]:
    size = squared.shape[0]
    require(1 <= k < size, "k", k, f"from 1 to {size - 1}")
    # Nobody is his own neighbour, however many twins he has.
    others = jnp.where(jnp.eye(size, dtype=bool), jnp.inf, squared)
    return -jax.lax.top_k(-others, k)[0][:, -1]
