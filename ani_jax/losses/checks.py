"""What every loss does at entry: settle the dtype, and refuse a bad argument in one line."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

Images = Float[Array | np.ndarray, "b h w c"]
"""The vocabulary of ``ani_jax.types``, of numpy's arrays too: what a public loss takes."""
Labels = Int[Array | np.ndarray, " b"]
Logits = Float[Array | np.ndarray, "b k"]
Features = Float[Array | np.ndarray, "b ..."]
Mask = Shaped[Array | np.ndarray, " b"]
"""0 or False marks padding, in whatever type it comes."""


def require(ok: bool, name: str, value: Any, allowed: str) -> None:
    """Refuses an argument at trace time, in the words of every option that is refused.

    Args:
        ok: whether the argument is allowed.
        name: the argument, or the expression of it that is wrong: "clip", "x.shape", "len(x)".
        value: its value.
        allowed: what would have been accepted.

    Raises:
        ValueError: one line with name, value and what is allowed, unless ``ok``.

    Example:
        >>> require(False, "clip", -1, "above 0")
        Traceback (most recent call last):
        ValueError: clip=-1: must be above 0
    """
    if not ok:
        raise ValueError(f"{name}={value}: must be {allowed}")


def floating(x: Any) -> Float[Array, "..."]:
    """The array in the precision that losses are computed in: at least float32, float64 kept, integers as float32.

    Example:
        >>> floating(jnp.ones(2, jnp.bfloat16)).dtype.name
        'float32'
    """
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def require_rank(x: Array, name: str, *ranks: int) -> None:
    """Refuses an array whose number of axes is not one of ``ranks``.

    Raises:
        ValueError: the rank is another one.
    """
    require(x.ndim in ranks, f"{name}.shape", x.shape, f"of rank {' or '.join(map(str, ranks))}")


def require_same_shape(x: Array, name: str, other: Array, other_name: str) -> None:
    """Refuses two arrays of different shapes (broadcasting one of them is almost always a mistake).

    Raises:
        ValueError: the shapes differ.
    """
    require(x.shape == other.shape, f"{name}.shape", x.shape, f"{other_name}'s, {other.shape}")


def require_batch(x: Array, name: str, other: Array, other_name: str) -> None:
    """Refuses two arrays with different leading axes, or without one.

    Raises:
        ValueError: the batches differ or an array is a scalar.
    """
    require(x.ndim > 0, f"{name}.shape", x.shape, "of rank 1 or more")
    require(other.ndim > 0, f"{other_name}.shape", other.shape, "of rank 1 or more")
    require(x.shape[0] == other.shape[0], f"len({name})", x.shape[0], f"{other_name}'s, {other.shape[0]}")
