"""How much z still says about x, as a statistic of one batch: distance correlation, HSIC, CKA, channel correlation.

All are statistics of the *whole* batch (a mean over shards is another number: pass ``axis_name``), take inputs of any
rank with one leading axis of examples, compute in float32 or better, and need O(b^2 + b d) memory (see
``pairwise.py``).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ani_jax.losses import pairwise
from ani_jax.losses.checks import Features, Mask, floating, require, require_rank

RIDGE = 1e-4
"""Added to correlations of 1, so that channels that say the same can be told from one another."""
RELEASE_EPSILON = 1e-10
"""[code] What the funnel's authors add to squared distances; pass it as ``epsilon`` to reproduce their D."""

Statistic = Float[Array, ""]


def distance_covariance(
    x: Features,
    z: Features,
    *,
    squared: bool = False,
    exponent: float = 1.0,
    mask: Mask | None = None,
    axis_name: str | None = None,
    epsilon: float = 0.0,
) -> Statistic:
    """Distance covariance of a batch (Szekely, Rizzo & Bakirov 2007), the biased V-statistic.

        dCov^2 = 1/n^2 sum_ij A_ij B_ij,    A, B the double-centred matrices of |x_i - x_j|^exponent and |z_i -
        z_j|^exponent

    Args:
        x: (b, ...).
        z: (b, ...).
        squared: return dCov^2 rather than dCov.
        exponent: of the Euclidean distance, in (0, 2). Static.
        mask: (b,), 0 marks padding: the result is the statistic of the other examples.
        axis_name: mapped axis over whose devices the batch is gathered.
        epsilon: added to squared distances. Static.

    Returns:
        Scalar, 0 or more, in units of x times units of z (to the exponent, and for dCov under a square root).

    Raises:
        ValueError: the batches differ, or ``exponent`` or ``epsilon`` is outside its range.

    Example:
        >>> x = jnp.arange(4.0)
        >>> round(distance_covariance(x, x, squared=True).item(), 3)
        0.812
    """
    _check_distance(exponent, epsilon)
    # Not rescaled: a covariance has the units of its inputs.
    x, z, mask = pairwise.prepare(x, z, mask, axis_name, rescale=False)
    a, b = (pairwise.centred(pairwise.distances(value, exponent, epsilon), mask) for value in (x, z))
    product = jnp.maximum(pairwise.mean_product(a, b, mask, unbiased=False), 0)
    return product if squared else pairwise.safe_power(product, 0.5)


def distance_correlation(
    x: Features,
    z: Features,
    *,
    squared: bool = False,
    exponent: float = 1.0,
    mask: Mask | None = None,
    axis_name: str | None = None,
    epsilon: float = 0.0,
) -> Statistic:
    """Distance correlation of a batch (Szekely, Rizzo & Bakirov 2007), from Euclidean distances, biased.

        dCor^2 = dCov^2(x, z) / sqrt(dCov^2(x, x) dCov^2(z, z))

    A training loss: 0 exactly when nothing depends, in the limit of many examples. On a small batch of many
    dimensions it is close to 1 even for independent data (0.98 at 128 x 784 and 128 x 1024), so report
    :func:`corrected_distance_correlation`. ``squared=True, epsilon=RELEASE_EPSILON`` is the funnel's non-linear term
    D as its authors compute it [code].

    Args:
        x: (b, ...).
        z: (b, ...).
        squared: return dCor^2 rather than dCor.
        exponent: of the Euclidean distance, in (0, 2). Static.
        mask: (b,), 0 marks padding: the result is the statistic of the other examples.
        axis_name: mapped axis over whose devices the batch is gathered. Every device then holds the same value, and
            the mean over devices of the parameters' gradients is the gradient.
        epsilon: added to squared distances; above 0 the statistic changes with the features' scale. Static.

    Returns:
        Scalar in [0, 1]; 0 with gradient 0 where x or z is constant.

    Raises:
        ValueError: the batches differ, or ``exponent`` or ``epsilon`` is outside its range.

    Example:
        >>> x = jnp.array([[0.0, 1.0], [2.0, 0.0], [4.0, 4.0], [1.0, 3.0]])
        >>> distance_correlation(x, -2 * x + 1).round(4).item()
        1.0
    """
    _check_distance(exponent, epsilon)
    # An epsilon has the features' units: rescaling them would change what it is added to.
    x, z, mask = pairwise.prepare(x, z, mask, axis_name, rescale=epsilon == 0)
    a, b = (pairwise.distances(value, exponent, epsilon) for value in (x, z))
    ratio = jnp.clip(_normalised_product(a, b, mask, unbiased=False), 0, 1)
    return ratio if squared else pairwise.safe_power(ratio, 0.5)


def corrected_distance_correlation(
    x: Features,
    z: Features,
    *,
    exponent: float = 1.0,
    mask: Mask | None = None,
    axis_name: str | None = None,
) -> Statistic:
    """Bias-corrected *squared* distance correlation (Szekely & Rizzo 2014): the U-centred ratio, what reports use.

        R* = (A~ . B~) / sqrt((A~ . A~)(B~ . B~)),    A~ . B~ = 1 / (n (n - 3)) sum_(i != j) A~_ij B~_ij

    The same number as ``dcor.u_distance_correlation_sqr``. Its numerator is unbiased for dCov^2, so it scatters
    around 0 for independent data and can be negative.

    Args:
        x: (b, ...), b of 4 or more over all devices.
        z: (b, ...).
        exponent: of the Euclidean distance, in (0, 2). Static.
        mask: (b,), 0 marks padding: the result is the statistic of the other examples.
        axis_name: mapped axis over whose devices the batch is gathered.

    Returns:
        Scalar in [-1, 1]; 0 where x or z is constant or where fewer than 4 examples count.

    Raises:
        ValueError: the batches differ, fewer than 4 examples, or ``exponent`` is outside its range.

    Example:
        >>> x = jnp.array([0.0, 1.0, 3.0, 6.0, 7.0])
        >>> corrected_distance_correlation(x, 3 * x).round(4).item()
        1.0
    """
    _check_distance(exponent, 0.0)
    x, z, mask = pairwise.prepare(x, z, mask, axis_name, rescale=True)
    require(x.shape[0] >= 4, "len(x)", x.shape[0], "4 or more")
    a, b = (pairwise.distances(value, exponent) for value in (x, z))
    return jnp.clip(_normalised_product(a, b, mask, unbiased=True), -1, 1)


def local_distance_correlation(
    x: Features,
    z: Float[Array | np.ndarray, "b ... c"],
    *,
    mask: Mask | None = None,
    axis_name: str | None = None,
) -> Statistic:
    """Mean over positions of the corrected distance correlation between x and what z holds at one position.

        R_local = 1/P sum_p R*(x, z_p),    z_p the c channels at position p

    [ours] Every position answers for itself, so a constraint cannot be met by a few loud positions that outvote the
    others. It is not a stricter number: a copy of x at one position of many moves the whole map's statistic more. A
    statistic of distances follows the loudest channel, so decorrelate the channels first where an attacker can.

    Args:
        x: (b, ...), b of 4 or more over all devices.
        z: (b, ..., c); vectors are one position.
        mask: (b,), 0 marks padding: the result is the statistic of the other examples.
        axis_name: mapped axis over whose devices the batch is gathered.

    Returns:
        Scalar in [-1, 1]; positions where z is constant count as 0.

    Raises:
        ValueError: the batches differ, or fewer than 4 examples.

    Example:
        >>> x = jnp.array([0.0, 1.0, 3.0, 6.0, 7.0])
        >>> local_distance_correlation(x, jnp.stack([x, jnp.ones(5)], axis=1)[..., None]).round(4).item()
        0.5
    """
    positions = jnp.asarray(z).reshape(z.shape[0], -1, z.shape[-1])

    def of(here: Float[Array, "b c"]) -> Statistic:
        return corrected_distance_correlation(x, here, mask=mask, axis_name=axis_name)

    return jax.vmap(of, 1)(positions).mean()


def hsic(
    x: Features,
    z: Features,
    *,
    bandwidth: float | tuple[float, float] | None = None,
    unbiased: bool = False,
    mask: Mask | None = None,
    axis_name: str | None = None,
) -> Statistic:
    """Hilbert-Schmidt independence criterion with Gaussian kernels exp(-|d|^2 / (2 bandwidth^2)).

        biased (Gretton 2007):   1/n^2 trace(K H L H)
        unbiased (Song 2012):    the U-centred mean product, 1 / (n (n - 3)) sum_(i != j) K~_ij L~_ij

    Args:
        x: (b, ...).
        z: (b, ...).
        bandwidth: in the units of x and z, one for both or a pair. None: each one's median distance between different
            examples, a constant to the gradient (1 times the largest entry where more than half the pairs coincide),
            so that scaling changes nothing.
        unbiased: the unbiased estimate, which needs 4 examples and can be negative.
        mask: (b,), 0 marks padding: the result is the statistic of the other examples.
        axis_name: mapped axis over whose devices the batch is gathered.

    Returns:
        Scalar, no unit; 0 for a constant input.

    Raises:
        ValueError: the batches differ, a bandwidth is not above 0, or fewer than 4 examples with ``unbiased``.

    Example:
        >>> x = jnp.arange(6.0)
        >>> hsic(x, x).item() > 0.05, hsic(x, jnp.ones(6)).item()
        (True, 0.0)
    """
    x, z, mask = pairwise.prepare(x, z, mask, axis_name, rescale=bandwidth is None)
    # Gathered first: four examples over all devices are enough.
    require(not unbiased or x.shape[0] >= 4, "len(x)", x.shape[0], "4 or more")
    widths = bandwidth if isinstance(bandwidth, tuple) else (bandwidth, bandwidth)
    centre = pairwise.u_centred if unbiased else pairwise.centred
    centred = []
    for value, width in zip((x, z), widths):
        require(width is None or width > 0, "bandwidth", width, "above 0")
        squared = pairwise.squared_distances(value)
        variance = jnp.square(pairwise.median_distance(squared, mask)) if width is None else width**2
        centred.append(centre(jnp.exp(-squared / (2 * variance)), mask))
    return pairwise.mean_product(centred[0], centred[1], mask, unbiased=unbiased)


def linear_cka(x: Features, z: Features, *, mask: Mask | None = None, axis_name: str | None = None) -> Statistic:
    """Linear centred kernel alignment (Kornblith 2019), through the b x b Gram matrices.

        CKA = |Z^T X|_F^2 / (|X^T X|_F |Z^T Z|_F),    X and Z with centred columns

    Args:
        x: (b, ...).
        z: (b, ...).
        mask: (b,), 0 marks padding: the result is the statistic of the other examples.
        axis_name: mapped axis over whose devices the batch is gathered.

    Returns:
        Scalar in [0, 1]; 0 where x or z is constant. Biased upwards when dimensions outnumber examples.

    Raises:
        ValueError: the batches differ.

    Example:
        >>> x = jnp.array([[0.0, 1.0], [2.0, 0.0], [4.0, 4.0]])
        >>> linear_cka(x, x @ jnp.array([[0.0, 1.0], [-1.0, 0.0]])).round(4).item()
        1.0
    """
    x, z, mask = pairwise.prepare(x, z, mask, axis_name, rescale=True)
    count = jnp.maximum(mask.sum(), 1)
    # Padding is already 0 and must stay 0 once the mean is subtracted.
    x, z = (mask[:, None] * (value - (value.sum(0) / count)[None]) for value in (x, z))
    k, m = (jnp.matmul(value, value.T, precision=lax.Precision.HIGHEST) for value in (x, z))
    norm = pairwise.safe_power(jnp.square(k).sum(), 0.5) * pairwise.safe_power(jnp.square(m).sum(), 0.5)
    return jnp.where(norm > 0, (k * m).sum() / jnp.where(norm > 0, norm, 1), 0)


def channel_pearson(z: Features, *, faithful: bool = False) -> Float[Array, " b"]:
    """Mean squared Pearson correlation between each example's channels, over positions: the funnel's linear term P.

        P = mean_(i != j) rho_ij^2,    rho the c x c correlation matrix over the h * w positions

    ``faithful`` [code] keeps the release's formula: the diagonal is part of the mean, covariances are divided by h *
    w but variances by h * w - 1, and 1e-12 is added to the product of standard deviations. A dead channel contributes
    0 either way, so P alone rewards killing channels: log :func:`live_channels` beside it.

    Args:
        z: (b, h, w, c), or (b, positions, c).
        faithful: reproduce the release.

    Returns:
        (b,), in [0, 1]; 0 for a single channel unless ``faithful``. A dead channel gets gradient 0.

    Raises:
        ValueError: ``z`` is not of rank 3 or 4, or has fewer than two positions.

    Example:
        >>> ramp = jnp.arange(4.0).reshape(1, 2, 2, 1)
        >>> channel_pearson(jnp.concatenate([ramp, -ramp], -1)).round(4).tolist()
        [1.0]
    """
    z = floating(z)
    require_rank(z, "z", 3, 4)
    positions, channels = z.size // (z.shape[0] * z.shape[-1]), z.shape[-1]
    require(positions > 1, "z.shape", z.shape, "of two positions or more")
    z = z.reshape(z.shape[0], positions, channels)
    scale = jnp.abs(z).max(1)
    # Subtracting one position first makes a constant channel exactly 0, which subtracting its rounded mean does not.
    z = z - z[:, :1]
    z = z - z.mean(1, keepdims=True)
    divisor = positions - 1 if faithful else positions
    variance = jnp.square(z).sum(1) / divisor
    # A few roundings of the channel's largest value: varying less than that is not varying.
    live = variance > jnp.square(4 * jnp.finfo(z.dtype).eps * scale)
    stddev = pairwise.safe_power(jnp.where(live, variance, 0), 0.5)
    if faithful:
        covariance = jnp.einsum("bpi,bpj->bij", z, z, precision=lax.Precision.HIGHEST) / positions
        correlation = covariance / (stddev[:, :, None] * stddev[:, None, :] + 1e-12)
        both = live[:, :, None] & live[:, None, :]
        return jnp.square(jnp.where(both, correlation, 0)).mean((1, 2))
    unit = jnp.where(live[:, None], z / jnp.where(live, stddev, 1)[:, None], 0)
    correlation = jnp.einsum("bpi,bpj->bij", unit, unit, precision=lax.Precision.HIGHEST) / positions
    off_diagonal = jnp.where(jnp.eye(channels, dtype=bool)[None], 0, correlation)
    return jnp.square(off_diagonal).sum((1, 2)) / max(channels * (channels - 1), 1)


def live_channels(z: Features, share: float = 0.1, redundant: float = 0.9) -> Statistic:
    """How many channels say something of their own over the batch and its positions [ours].

    A channel lives if its standard deviation is at least ``share`` of the largest, and a linear map of the other such channels
    does not predict it: R² under ``redundant``. Where several say the same, all of them are redundant.

    Args:
        z: (b, ..., c).
        share: of the largest standard deviation, in [0, 1].
        redundant: the R² from which a channel says what others do, in (0, 1].

    Returns:
        Scalar from 0 to c; a count, so its gradient is 0.

    Raises:
        ValueError: ``z`` has fewer than two axes, ``share`` or ``redundant`` is out of range.

    Example:
        >>> live_channels(jnp.array([[0.0, 5.0, 2.0], [1.0, 5.0, 2.0], [0.0, 5.0, 4.0], [1.0, 5.0, 4.0]])).item()
        2.0
    """
    z = lax.stop_gradient(floating(z))
    require(z.ndim >= 2, "z.shape", z.shape, "of rank 2 or more")
    require(0 <= share <= 1, "share", share, "in [0, 1]")
    require(0 < redundant <= 1, "redundant", redundant, "in (0, 1]")
    flat = z.reshape(-1, z.shape[-1])
    # Less one of its own values a constant channel is exactly 0; its rounded mean could leave more than the threshold.
    flat = flat - flat[:1]
    deviation = flat.std(0)
    loud = (deviation > 0) & (deviation >= share * deviation.max(initial=0))
    scaled = (flat - flat.mean(0)[None]) * jnp.where(loud, 1 / jnp.where(loud, deviation, 1), 0)[None]
    # The inverse of correlations has 1 / (1 - R²) on its diagonal; what is quiet is kept apart, and predicts nobody.
    correlation = jnp.matmul(scaled.T, scaled, precision=lax.Precision.HIGHEST) / len(flat)
    correlation += jnp.diag(jnp.where(loud, RIDGE, 1.0))
    return (loud & (jnp.diag(jnp.linalg.inv(correlation)) < 1 / (1 - redundant + RIDGE))).sum().astype(z.dtype)


def _check_distance(exponent: float, epsilon: float) -> None:
    require(0 < exponent < 2, "exponent", exponent, "in (0, 2)")
    require(epsilon >= 0, "epsilon", epsilon, "0 or more")


def _normalised_product(a: Array, b: Array, mask: Array, *, unbiased: bool) -> Statistic:
    centre = pairwise.u_centred if unbiased else pairwise.centred
    floors = []
    for distances in (a, b):
        # A constant input leaves a variance that is rounding only, whose ratio would be anything.
        largest = lax.stop_gradient((distances * mask[:, None] * mask[None, :]).max(initial=0))
        floors.append(jnp.square(4 * jnp.finfo(distances.dtype).eps * largest))
    a, b = centre(a, mask), centre(b, mask)
    product = pairwise.mean_product(a, b, mask, unbiased=unbiased)
    variances = [pairwise.mean_product(value, value, mask, unbiased=unbiased) for value in (a, b)]
    live = (variances[0] > floors[0]) & (variances[1] > floors[1])
    scale = [jnp.sqrt(jnp.where(live, variance, 1)) for variance in variances]
    # One division after the other: the product of two tiny scales would underflow.
    return jnp.where(live, product / scale[0] / scale[1], 0)
