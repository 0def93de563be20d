"""How much noise a release adds, as rewards that a defender maximises: one number per example, nats per element.

The trap that all of these avoid: the *log of the mean* of the scales. One very noisy position then hides many quiet
ones, and a defence pours all of its noise where nobody looks. An entropy is a sum over elements of logs, so these are
means of logs.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ani_jax.losses.checks import floating, require

GAUSSIAN_CONSTANT = 0.5 * math.log(2 * math.pi * math.e)
"""Entropy of a standard normal variable, in nats."""
LAPLACE_CONSTANT = 1 + math.log(2)
"""Entropy of a Laplace variable of scale 1, in nats."""


def mean_log_scale(log_scale: Float[Array | np.ndarray, "b ..."]) -> Float[Array, " b"]:
    """Mean over elements of the log of the noise's scale: the R of additive noise (METHODS 2.1) [reconstruction].

    Mean of logs, never the log of the mean: under the latter one loud element hides any number of quiet ones.

    Args:
        log_scale: (b, ...), log of a standard deviation or of a Laplace scale.

    Returns:
        (b,), nats per element, up to the constant of the noise's family.

    Raises:
        ValueError: ``log_scale`` is a scalar.

    Example:
        >>> one_loud = jnp.log(jnp.array([[0.01, 0.01, 0.01, 10.0]]))
        >>> mean_log_scale(one_loud).round(2).item() < -2
        True
    """
    return _mean(floating(log_scale), "log_scale")


def gaussian_entropy_per_element(log_stddev: Float[Array | np.ndarray, "b ..."]) -> Float[Array, " b"]:
    """Entropy per element of independent Gaussian noise: mean(log stddev) + log(2 pi e) / 2.

    Mean of logs, never the log of the mean (see :func:`mean_log_scale`). Differential, so negative for small noise,
    and it moves when the features are rescaled: declare the released range.

    Args:
        log_stddev: (b, ...), log of the standard deviation of each element.

    Returns:
        (b,), nats per element.

    Raises:
        ValueError: ``log_stddev`` is a scalar.

    Example:
        >>> round(gaussian_entropy_per_element(jnp.zeros((1, 3))).item(), 4)
        1.4189
    """
    return mean_log_scale(log_stddev) + GAUSSIAN_CONSTANT


def gaussian_rate(
    mean: Float[Array | np.ndarray, "b ..."],
    stddev: Float[Array | np.ndarray, "..."],
    labels: Int[Array | np.ndarray, " b"] | None = None,
    classes: int = 1,
    *,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Most that independent Gaussian noise lets through of x, or of x beside its label: an upper bound of I(x; z | y).

        I(x; z | y) <= sum_i 1/2 (log (E Var(mean_i(x) | y) + E stddev_i(x)^2) - E log stddev_i(x)^2)

    with the batch for the data [ours], since noise that is independent given x has the sum of its elements' entropies, and z
    given y no more than the sum of Gaussian ones of its variances, of which the log of a mean is no less than the mean of logs.
    It bounds the residual information of the conditional entropy bottleneck (Fischer 2020). Unlike an entropy of the noise
    it pays for a mean that says less, and for a scale that is no signal. Of small batches it is too low: n images of a class
    tell n - 1 of n parts of its variance.

    Args:
        mean: (b, ...), of z given x.
        stddev: likewise, above 0; broadcast to ``mean``.
        labels: (b,), y; None for a single class, so that the bound is of I(x; z).
        classes: how many y has.
        axis_name: device axis whose batches count as one.

    Returns:
        Scalar, nats an example; 0 where mean and stddev are the same for all of a class.

    Raises:
        ValueError: ``mean`` is a scalar, or ``classes`` is under 1.

    Example:
        >>> mean = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
        >>> round(gaussian_rate(mean, jnp.full((2, 2), 0.5)).item(), 4) == round(0.5 * math.log(1 + 4), 4)
        True
        >>> gaussian_rate(mean, jnp.full((2, 2), 0.5), jnp.array([0, 1]), 2).item()
        0.0
    """
    mean = floating(mean)
    require(mean.ndim >= 1, "mean.shape", mean.shape, "of rank 1 or more")
    require(classes >= 1, "classes", classes, "at least 1")

    def total(x: Array) -> Array:
        return x if axis_name is None else jax.lax.psum(x, axis_name)

    member = jax.nn.one_hot(jnp.zeros(len(mean), int) if labels is None else labels, classes, dtype=mean.dtype)
    flat, size = mean.reshape(len(mean), -1), total(jnp.float32(len(mean)))
    variance = jnp.square(jnp.broadcast_to(floating(stddev), mean.shape)).reshape(flat.shape)
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    # Where a class has no image its mean is asked for by nobody.
    centres = total(product(member.T, flat)) / jnp.maximum(total(member.sum(0)), 1)[:, None]
    spread, noise, log_noise = (
        total(x.sum(0)) / size for x in (jnp.square(flat - product(member, centres)), variance, jnp.log(variance))
    )
    return 0.5 * (jnp.log(spread + noise) - log_noise).sum()


def laplace_entropy_per_element(log_scale: Float[Array | np.ndarray, "b ..."]) -> Float[Array, " b"]:
    """Entropy per element of independent Laplace noise: mean(log scale) + 1 + log 2.

    Mean of logs, never the log of the mean (see :func:`mean_log_scale`).

    Args:
        log_scale: (b, ...), log of the scale b of each element (standard deviation over sqrt 2).

    Returns:
        (b,), nats per element.

    Raises:
        ValueError: ``log_scale`` is a scalar.

    Example:
        >>> round(laplace_entropy_per_element(jnp.zeros((1, 3))).item(), 4)
        1.6931
    """
    return mean_log_scale(log_scale) + LAPLACE_CONSTANT


def mask_log_reward(mask: Float[Array | np.ndarray, "b ..."]) -> Float[Array, " b"]:
    """mean(log m) of the share m of noise in z = (1 - m) x + m n (METHODS 2.1) [reconstruction].

    Mean of logs, never the log of the mean: it punishes every element that is left open, the more the closer m is to 0.

    Args:
        mask: (b, ...), m in (0, 1). An underflowed 0 counts as the smallest normal number, with gradient 0.

    Returns:
        (b,), nats per element, 0 or less; 0 where everything is noise.

    Raises:
        ValueError: ``mask`` is a scalar.

    Example:
        >>> round(mask_log_reward(jnp.array([[0.5, 0.5]])).item(), 4)
        -0.6931
    """
    mask = floating(mask)
    # log 0 would be minus infinity, and its gradient NaN, for a sigmoid that has underflowed.
    return _mean(jnp.log(jnp.maximum(mask, jnp.finfo(mask.dtype).tiny)), "mask")


def mask_mean_reward(mask: Float[Array | np.ndarray, "b ..."]) -> Float[Array, " b"]:
    """mean(m) of the share m of noise: linear, so it is content to suppress some elements and leave others open.

    Args:
        mask: (b, ...), m in [0, 1].

    Returns:
        (b,), in [0, 1].

    Raises:
        ValueError: ``mask`` is a scalar.

    Example:
        >>> mask_mean_reward(jnp.array([[1.0, 0.5]])).item()
        0.75
    """
    return _mean(floating(mask), "mask")


def _mean(values: Float[Array | np.ndarray, "b ..."], name: str) -> Float[Array, " b"]:
    require(values.ndim >= 1, f"{name}.shape", values.shape, "of rank 1 or more")
    return values.reshape(values.shape[0], -1).mean(1)
