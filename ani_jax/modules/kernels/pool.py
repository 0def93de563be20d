"""Largest values for every network, with gradients that no compiler can make infinite."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b p q c"]:
    """The largest value of each 2x2 cell.

    A tie shares the gradient equally among the tied values, so that a cell always passes on exactly what it received.
    (XLA's ``reduce_window`` and PyTorch give it to the first; comparing with the maximum and no more would count it up
    to four times, and cells of flat paper do tie.)

    Args:
        x: images or features, NHWC.

    Returns:
        ``(b, h/2, w/2, c)``.

    Raises:
        ValueError: an odd height or width, or not four dimensions.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([[3.0, 1.0], [3.0, 2.0]])[None, :, :, None]
        >>> max_pool(x).item(), jax.grad(lambda x: max_pool(x).sum())(x)[0, :, :, 0].tolist()
        (3.0, [[0.5, 0.0], [0.5, 0.0]])
    """
    if x.ndim != 4 or x.shape[1] % 2 or x.shape[2] % 2:
        raise ValueError(f"x: shape {x.shape}; must be (batch, height, width, channels), height and width even")
    return largest(x)


def peak(x: Float[Array, "*n"], axis: int) -> Float[Array, "*m"]:
    """The largest value along an axis; the gradient goes to its first place.

    The gradient of ``x.max(axis)`` is shared among the places where x equals the maximum. A compiler that computes x a second
    time on the way back, in another order of rounding, finds none, and divides by zero (XLA on CPU at optimisation level 0).

    Args:
        x: any shape.
        axis: of ``x``.

    Returns:
        ``x`` without the axis.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([[1.0, 3.0, 3.0]])
        >>> peak(x, 1).item(), jax.grad(lambda x: peak(x, 1).sum())(x).tolist()
        (3.0, [[0.0, 1.0, 0.0]])
    """
    return jnp.take_along_axis(x, jnp.argmax(x, axis, keepdims=True), axis).squeeze(axis)


def _cells(x: Array) -> Array:
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c)


# XLA's reduce_window has a slow way back, select-and-scatter: 44 ms for 128 x 32 x 32 x 32 on two cores, against 3.5 this way.
@jax.custom_jvp
def largest(x: Float[Array, "b h w c"]) -> Float[Array, "b p q c"]:
    """What :func:`max_pool` computes once it has looked at the shape, with the gradient that it promises.

    Example:
        >>> largest(jnp.array([[3.0, 1.0], [3.0, 2.0]])[None, :, :, None]).item()
        3.0
    """
    return _cells(x).max((2, 4))


@largest.defjvp
def _tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """The mean of the tangents of those that tie."""
    (x,), (t,) = primals, tangents
    y, cells = largest(x), _cells(x)
    # A sum of four comparisons rather than a reduction: XLA's CPU code for it is three times faster.
    # At least one: see peak.
    ties = jnp.maximum(sum((cells[:, :, i, :, j] == y).astype(t.dtype) for i in (0, 1) for j in (0, 1)), 1)
    chosen = jnp.where(cells == y[:, :, None, :, None, :], _cells(t), 0)
    return y, chosen.sum((2, 4)) / ties
