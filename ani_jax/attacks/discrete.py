"""Clients that send less of what another one sends: its largest values, only where these are, or every value in a few bits.

    evidence = ani_jax.audit(positions(client, 16), data)

What is found of ``positions`` is what their pattern says alone; of ``bits`` at 1, 4 and 8, what each precision lets through. What
a client declares of its noise is not what is sent any more, so it is declared no longer.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ani_jax.attacks.query import as_release
from ani_jax.losses.checks import require
from ani_jax.modules.grid import Grid
from ani_jax.types import Features, Inputs, PRNGKey, Release

Client = Callable[..., Features] | Release


def topk(release: Client, k: int) -> Release:
    """Sends the k values of largest magnitude of each row, and 0 in the place of all others.

    Args:
        release: any client, as :func:`ani_jax.attacks.query.as_release` takes it.
        k: how many of a row's numbers, of equals the first ones.

    Raises:
        ValueError: k below 1, or more than a row has (when the client is asked).

    Example:
        >>> topk(lambda x: x, 2)(jnp.array([[1.0, -3.0, 2.0]]), jax.random.key(0)).tolist()
        [[0.0, -3.0, 2.0]]
    """
    return behind(release, Largest(k, True))


def positions(release: Client, k: int) -> Release:
    """Sends where the k values of largest magnitude of each row lie: 1 there, 0 elsewhere.

    Args:
        release: likewise.
        k: likewise.

    Raises:
        ValueError: likewise.

    Example:
        >>> positions(lambda x: x, 2)(jnp.array([[1.0, -3.0, 2.0]]), jax.random.key(0)).tolist()
        [[0.0, 1.0, 1.0]]
    """
    return behind(release, Largest(k, False))


def bits(release: Client, count: int, low: float = -1.0, high: float = 1.0) -> Release:
    """Sends every number as the nearest of ``2^count`` equally spaced ones; gradients pass as if nothing were rounded.

    Args:
        release: likewise.
        count: bits of a number, 1 to 16.
        low: the least number that is sent; what lies below is sent as this.
        high: the largest, likewise. With one bit and the default range what is sent is the sign.

    Raises:
        ValueError: a count outside 1 to 16, or a range that is empty.

    Example:
        >>> z = jnp.array([[-7.0, -0.2, 0.3, 0.9]])
        >>> [bits(lambda x: x, count)(z, jax.random.key(0)).round(2).tolist() for count in (1, 2)]
        [[[-1.0, -1.0, 1.0, 1.0]], [[-1.0, -0.3..., 0.3..., 1.0]]]
    """
    require(1 <= count <= 16, "count", count, "1 to 16")
    require(math.isfinite(low - high) and low < high, "low", low, f"below {high}")
    return behind(release, Grid(low, high, 2**count))


def behind(release: Client, passed: Callable[[Features], Features]) -> Release:
    """The client that sends a function of what another one sends.

    Args:
        release: that one.
        passed: hashable, and equal for equal functions, so that attacks compile once.

    Example:
        >>> behind(lambda x: x, jnp.abs)(jnp.array([[-2.0]]), jax.random.key(0)).item()
        2.0
    """
    own = as_release(release)
    return Release(own, Behind(passed), stochastic=own.stochastic, memoised=own.memoised)


@dataclasses.dataclass(frozen=True)
class Behind:
    """``apply`` of such a client, whose variables are the other one."""

    passed: Callable[[Features], Features]

    def __call__(self, variables: Release, x: Inputs, key: PRNGKey) -> Features:
        """What is sent."""
        return self.passed(variables(x, key))


@dataclasses.dataclass(frozen=True)
class Largest:
    """The k largest of each row, see :func:`topk`; as values, or as 1."""

    k: int
    values: bool

    def __post_init__(self):
        require(self.k >= 1, "k", self.k, "1 or more")

    def __call__(self, z: Features) -> Features:
        """What is sent."""
        size = math.prod(z.shape[1:])
        require(self.k <= size, "k", self.k, f"at most {size}, the numbers of a row")
        rows = z.reshape(len(z), size)
        _, index = jax.lax.top_k(jnp.abs(rows), self.k)
        told: Float[Array, "n k"] = (
            jnp.take_along_axis(rows, index, 1) if self.values else jnp.ones(index.shape, z.dtype)
        )
        return jnp.put_along_axis(jnp.zeros_like(rows), index, told, 1, inplace=False).reshape(z.shape)
