"""Fewer bits: a client whose features are standardised and sent on a grid, both calibrated on auxiliary data.

    u = (z - mean) / deviation  of each channel,      sent = grid(clip(u, low, high)),      server(sent * deviation + mean)

What is rounded off does not leave the device. How much that hides, an audit of this very client says, and nothing else.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ani_jax.attacks.query import query
from ani_jax.losses.checks import require
from ani_jax.modules.grid import Grid
from ani_jax.types import Features, Images, Logits, PRNGKey, Release

BITS = (1, 8)
"""How many there may be of every feature."""
ROUNDS = 20
"""Of Lloyd's algorithm for the two levels of one bit."""


@dataclasses.dataclass(frozen=True)
class Coarse:
    """``apply``, ``given`` or ``mean`` of a client, standardised and, with a grid, rounded."""

    function: Any
    grid: Grid | None

    def __call__(self, variables: Any, *arguments: Array) -> Features:
        """Computes the features and sends fewer bits of them."""
        u = (self.function(variables["client"], *arguments) - variables["mean"]) / variables["deviation"]
        return u if self.grid is None else self.grid(u)


@dataclasses.dataclass(frozen=True)
class Room:
    """``capacity`` of a client whose features are sent in so many bits each: what these hold, or what it had before."""

    function: Any
    bits: int

    def __call__(self, variables: Any, elements: int) -> float:
        """Nats."""
        held = elements * self.bits * math.log(2)
        return held if self.function is None else min(held, self.function(variables["client"], elements))


@dataclasses.dataclass(frozen=True)
class Restored:
    """The provider's network on what was sent, at its own scale again."""

    function: Any

    def __call__(self, variables: Any, u: Features) -> Logits:
        """Answers."""
        return self.function(variables["server"], u * variables["deviation"] + variables["mean"])


def quantised(
    release: Release, predict: jax.tree_util.Partial, images: Images, bits: int, key: PRNGKey
) -> tuple[Release, jax.tree_util.Partial]:
    """The client and its server where each feature is sent in fewer bits.

    Args:
        release: the client.
        predict: the provider's network, a ``Partial`` of its variables.
        images: auxiliary ones, which mean, deviation and grid are taken from.
        bits: 1, whose two levels are Lloyd's, or 8, from the smallest to the largest that was seen.
        key: of the client's noise.

    Returns:
        The client, whose ``apply.grid`` says what it sends and which declares its mean before that, no more; the network.

    Raises:
        ValueError: another number of bits.

    Example:
        >>> client = Release({}, lambda variables, x, key: x.reshape(len(x), -1))
        >>> server = jax.tree_util.Partial(lambda variables, z: z, {})
        >>> x = jnp.array([0.0, 0.2, 0.8, 1.0]).reshape(4, 1, 1, 1)
        >>> coarse, answer = quantised(client, server, x, 1, jax.random.key(0))
        >>> [round(value, 2) for value in answer(coarse(x, jax.random.key(1))).ravel().tolist()]
        [0.1, 0.1, 0.9, 0.9]
    """
    require(bits in BITS, "bits", bits, f"one of {', '.join(map(str, BITS))}")
    z = query(release, images, key)[0]
    # Of every channel, whatever its place; of vectors every number is one.
    axes = tuple(range(z.ndim - 1))
    # What says nothing stays where it is, whatever value of the grid is nearest.
    mean, deviation = z.mean(axes, keepdims=True), jnp.maximum(z.std(axes, keepdims=True), 1e-30)
    u = (z - mean) / deviation
    low, high = float(u.min()), float(u.max())
    for _ in range(ROUNDS if bits == 1 else 0):
        above = u > (low + high) / 2
        low, high = (float(jnp.mean(u, where=part)) for part in (~above, above))
    # A client that says nothing has no range.
    grid = Grid(low, high if high > low else low + 1.0, 2**bits)
    known = {"mean": mean, "deviation": deviation}

    def coarse(function: Any, grid: Grid | None) -> Any:
        return None if function is None else Coarse(function, grid)

    own = dataclasses.replace(
        release,
        variables={"client": release.variables, **known},
        apply=Coarse(release.apply, grid),
        given=coarse(release.given, grid),
        mean=coarse(release.mean, None),
        capacity=Room(release.capacity, bits),
        # On a coarse grid noise is no Gaussian.
        stddev=None,
        log_prob=None,
    )
    (variables,) = predict.args
    return own, jax.tree_util.Partial(Restored(predict.func), {"server": variables, **known})
