"""Distances between all examples of a batch in O(b^2 + b d) memory, and the centrings that dependence measures use.

The naive difference tensor takes b * b * d numbers (805 MB at 128 x 12,288). The Gram form |x_i|^2 + |x_j|^2 - 2
x_i.x_j takes b * b, but cancels where two points are much closer to each other than to the batch's mean. There, and
only there, the differences are formed after all, one row at a time: slower, still O(b^2 + b d) memory, and exact.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from ani_jax.losses.checks import floating, require, require_batch

Numbers = Num[Array | np.ndarray, "b ..."]
Matrix = Float[Array, "b b"]
Vector = Float[Array, " b"]


def prepare(
    x: Numbers, z: Numbers, mask: Array | np.ndarray | None, axis_name: str | None, *, rescale: bool
) -> tuple[Float[Array, "all d"], Float[Array, "all e"], Float[Array, " all"]]:
    """Two batches ready for a dependence measure: flattened, in float32 or better, gathered over devices, shifted.

    Shifted by the first example (exactly: equal examples become exactly 0), so that a large common offset costs no
    precision.

    Args:
        x: (b, ...), any rank and numeric type.
        z: (b, ...), any rank and numeric type.
        mask: (b,), 1 where the example counts and 0 where it is padding, whose values are then never read; None: all
            count.
        axis_name: the mapped axis over whose devices the batch is spread, or None.
        rescale: divide each by its largest entry, so that neither tiny nor huge features under- or overflow. The
            divisor is a constant to the gradient: for statistics that scaling does not change.

    Returns:
        x as (B, d), z as (B, e) and the mask as (B,) of 0.0 and 1.0, where B counts the examples of all devices.

    Raises:
        ValueError: the batches of x, z and mask differ.

    Example:
        >>> x, z, mask = prepare(jnp.array([1.0, 3.0]), jnp.ones((2, 2, 2)), None, None, rescale=True)
        >>> x[:, 0].tolist(), z.shape, mask.tolist()
        ([0.0, 1.0], (2, 4), [1.0, 1.0])
    """
    pair = jnp.asarray(x), jnp.asarray(z)
    require_batch(pair[0], "x", pair[1], "z")
    batch = pair[0].shape[0]
    counts = jnp.ones(batch) if mask is None else jnp.asarray(mask)
    require(counts.shape == (batch,), "mask.shape", counts.shape, f"({batch},)")
    a, b = (floating(value).reshape(batch, -1) for value in pair)
    counts = (counts != 0).astype(jnp.promote_types(a.dtype, b.dtype))
    if axis_name is not None:
        a, b, counts = (jax.lax.all_gather(value, axis_name, axis=0, tiled=True) for value in (a, b, counts))
    return _shifted(a, counts, rescale), _shifted(b, counts, rescale), counts


def _shifted(x: Float[Array, "b d"], mask: Vector, rescale: bool) -> Float[Array, "b d"]:
    first = jax.lax.stop_gradient(x[jnp.argmax(mask)])[None]
    # Padding becomes 0 before anything else sees it: a NaN in it would pass every later multiplication by 0.
    x = jnp.where(mask[:, None] > 0, x - first, 0)
    if not rescale:
        return x
    largest = jax.lax.stop_gradient(jnp.abs(x).max(initial=0))
    return x / jnp.where(largest > 0, largest, 1)


def squared_distances(x: Float[Array, "b d"]) -> Matrix:
    """|x_i - x_j|^2 between all pairs of rows, with an exact zero diagonal.

    Relative error below about 1e-3 in float32 for the closest pairs that the Gram form still serves, and rounding
    only for closer ones, which are computed from differences. The whole batch takes that path when one pair needs it,
    and under ``vmap`` always.

    Args:
        x: (b, d).

    Returns:
        (b, b), 0 or more. Its gradient is exact in the same sense; there is no forward-mode derivative.

    Example:
        >>> squared_distances(jnp.array([[0.0, 0.0], [3.0, 4.0]]))[0].tolist()
        [0.0, 25.0]
    """
    return _squared_distances(x)


@jax.custom_vjp
def _squared_distances(x: Float[Array, "b d"]) -> Matrix:
    return _forward(x)[0]


def _forward(x: Float[Array, "b d"]) -> tuple[Matrix, tuple[Array, Array]]:
    centred = x - x.mean(0)[None]
    norms = jnp.square(centred).sum(1)
    sums = norms[:, None] + norms[None, :]
    gram = sums - 2 * _matmul(centred, centred.T)
    other = ~jnp.eye(x.shape[0], dtype=bool)
    # A distance of fewer than 1e4 roundings of the terms that it is the difference of has lost its digits.
    cancelled = (other & (gram < 1e4 * jnp.finfo(x.dtype).eps * sums)).any()
    # cond and not where, which would compute the differences for every batch; map, which holds one row's at a time.
    distances = jax.lax.cond(
        cancelled,
        lambda: jax.lax.map(lambda row: jnp.square(row[None] - x).sum(1), x),
        lambda: jnp.where(other, gram, 0),
    )
    return distances, (x, cancelled)


def _backward(residuals: tuple[Array, Array], cotangent: Matrix) -> tuple[Float[Array, "b d"]]:
    x, cancelled = residuals
    centred = x - x.mean(0)[None]
    # A point moves with itself; in the Gram form that cancels to rounding, times a slope that an epsilon makes huge.
    weights = jnp.where(jnp.eye(x.shape[0], dtype=bool), 0, 2 * (cotangent + cotangent.T))
    gradient = jax.lax.cond(
        cancelled,
        lambda: jax.lax.map(lambda at: _matmul(at[0], at[1][None] - x), (weights, x)),
        lambda: weights.sum(1)[:, None] * centred - _matmul(weights, centred),
    )
    return (gradient,)


_squared_distances.defvjp(_forward, _backward)
# Distances and centred matrices are differences of larger numbers, which an accelerator's shortened products would drown.
_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def distances(x: Float[Array, "b d"], exponent: float = 1.0, epsilon: float = 0.0) -> Matrix:
    """(|x_i - x_j|^2 + epsilon) ^ (exponent / 2) between all pairs of rows.

    Args:
        x: (b, d).
        exponent: of the Euclidean distance.
        epsilon: added to the squared distance, the diagonal's included.

    Returns:
        (b, b). At zero distance and ``epsilon=0`` the gradient is 0 (a subgradient of the norm).

    Example:
        >>> distances(jnp.array([[0.0, 0.0], [3.0, 4.0]]))[0].tolist()
        [0.0, 5.0]
    """
    return safe_power(squared_distances(x) + epsilon, exponent / 2)


def safe_power(x: Array, exponent: float) -> Array:
    """Power x ** exponent where x is above 0, else 0 with gradient 0: never NaN.

    Example:
        >>> jax.grad(safe_power)(0.0, 0.5).item()
        0.0
    """
    # Two wheres: without the inner one the infinite slope at 0 would meet the outer one's zero in the chain rule.
    positive = x > 0
    base = jnp.where(positive, x, 1)
    return jnp.where(positive, jnp.sqrt(base) if exponent == 0.5 else base**exponent, 0)


def centred(matrix: Matrix, mask: Vector) -> Matrix:
    """Double centring: subtracts row and column means and adds the grand mean, over the examples that count.

    Args:
        matrix: (b, b), symmetric.
        mask: (b,), 1.0 where the example counts, else 0.0.

    Returns:
        (b, b); rows and columns of padding are meaningless.

    Example:
        >>> centred(jnp.array([[0.0, 2.0], [2.0, 0.0]]), jnp.ones(2)).tolist()
        [[-1.0, 1.0], [1.0, -1.0]]
    """
    count = jnp.maximum(mask.sum(), 1)
    rows = _matmul(matrix, mask) / count
    return matrix - rows[:, None] - rows[None, :] + (rows * mask).sum() / count


def u_centred(matrix: Matrix, mask: Vector) -> Matrix:
    """U-centring (Szekely & Rizzo 2014), which makes the mean product unbiased; the diagonal is left out and set to 0.

    Args:
        matrix: (b, b), symmetric.
        mask: (b,), 1.0 where the example counts, else 0.0.

    Returns:
        (b, b); rows and columns of padding are meaningless.

    Example:
        >>> abs(u_centred(1 - jnp.eye(4), jnp.ones(4)).sum().item())
        0.0
    """
    other = ~jnp.eye(matrix.shape[0], dtype=bool)
    matrix = jnp.where(other, matrix, 0)
    count = mask.sum()
    rows = _matmul(matrix, mask)
    total = (rows * mask).sum() / jnp.maximum((count - 1) * (count - 2), 1)
    rows = rows / jnp.maximum(count - 2, 1)
    return jnp.where(other, matrix - rows[:, None] - rows[None, :] + total, 0)


def mean_product(a: Matrix, b: Matrix, mask: Vector, *, unbiased: bool) -> Float[Array, ""]:
    """Mean over pairs of the product of two centred matrices: 1/n^2, or for U-centred ones 1/(n (n - 3)).

    Args:
        a: (b, b).
        b: (b, b).
        mask: (b,), 1.0 where the example counts, else 0.0.
        unbiased: whether the matrices are U-centred.

    Returns:
        Scalar; 0 where too few examples count (fewer than 4 if ``unbiased``).

    Example:
        >>> mean_product(jnp.ones((2, 2)), jnp.ones((2, 2)), jnp.ones(2), unbiased=False).item()
        1.0
    """
    count = mask.sum()
    pairs = count * (count - 3) if unbiased else count * count
    pair_mask = mask[:, None] * mask[None, :]
    total = jnp.where(pair_mask > 0, a * b, 0).sum()
    return jnp.where(pairs > 0, total / jnp.maximum(pairs, 1), 0)


def median_distance(squared: Matrix, mask: Vector) -> Float[Array, ""]:
    """Median Euclidean distance over pairs of different examples, a constant to the gradient; 1 where it is 0.

    Args:
        squared: (b, b), squared distances.
        mask: (b,), 1.0 where the example counts, else 0.0.

    Returns:
        Scalar above 0.

    Example:
        >>> median_distance(squared_distances(jnp.array([[0.0], [1.0], [3.0]])), jnp.ones(3)).item()
        2.0
    """
    counts = (mask[:, None] * mask[None, :] > 0) & ~jnp.eye(mask.size, dtype=bool)
    # What does not count sorts behind everything that does.
    values = jnp.sort(jnp.where(counts, jax.lax.stop_gradient(squared), jnp.inf).ravel())
    pairs = counts.sum()
    middle = jnp.sqrt(values[jnp.maximum((pairs - 1) // 2, 0)]), jnp.sqrt(values[pairs // 2])
    median = (middle[0] + middle[1]) / 2
    return jnp.where((median > 0) & jnp.isfinite(median), median, 1)
