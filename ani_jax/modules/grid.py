"""Numbers on a grid: what is rounded off is not sent, and training goes on as if nothing were."""

import dataclasses

import jax
import jax.numpy as jnp

from ani_jax.types import Features


def rounded(z: Features, step: float, origin: float = 0.0) -> Features:
    """The nearest of ``origin + k * step``, exactly; gradients pass as if nothing were rounded (straight through).

    Args:
        z: finite.
        step: between two values, above 0.
        origin: one of them.

    Example:
        >>> rounded(jnp.array([[0.2, 0.6]]), 0.5).tolist(), jax.grad(lambda z: rounded(z, 0.5).sum())(jnp.ones((1, 1))).item()
        ([[0.0, 0.5]], 1.0)
    """
    # Of a finite number this is 0, and its gradient 1.
    passed = z - jax.lax.stop_gradient(z)
    return passed + jax.lax.stop_gradient(origin + step * jnp.round((z - origin) / step))


@dataclasses.dataclass(frozen=True)
class Grid:
    """The nearest of values equally spaced, both ends among them.

    Attributes:
        low: the smallest.
        high: the largest.
        levels: how many.

    Example:
        >>> Grid(-1.0, 1.0, 3)(jnp.array([[-7.0, 0.2, 0.6]])).tolist()
        [[-1.0, 0.0, 1.0]]
    """

    low: float
    high: float
    levels: int

    def __call__(self, z: Features) -> Features:
        """The values, see :func:`rounded`."""
        return rounded(jnp.clip(z, self.low, self.high), (self.high - self.low) / (self.levels - 1), self.low)
