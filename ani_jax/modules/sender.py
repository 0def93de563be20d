"""The last step on a device: features at unit variance, noise, and a grid, so that what is sent has a known capacity.

A deterministic client of continuous features hides little from a patient attacker: whatever it whispers can be scaled up again
(METHODS 2.2). Noise of a known size beside features of a known size cannot be scaled away, nor does a grid give back what it
rounds off.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from ani_jax.modules.erasing import Erasing
from ani_jax.modules.grid import rounded
from ani_jax.modules.pseudorandom import normal, secret_of
from ani_jax.types import Features, Images, PRNGKey, Sent

EDGE = 4.0
"""Beyond so many standard deviations of what is sent, noise included, it is clipped: a range that is declared, and kept."""

FINE = 0.125
"""A grid is fine where its step is so much of the noise at most: the 768th that it adds to the variance shows in no statistic by
which attackers test the declared noise."""


CLEAN = "clean"
"""Name, in what a client keeps to itself, of its features before noise and grid."""


class Sender(nn.Module):
    """An encoder whose features are sent at unit variance, with Gaussian noise, rounded to a grid.

        u = (f(x) - mean) / deviation  of each feature over the data,      z = grid(clip(u + noise * eps, -E, E))

    with ``eps ~ N(0, 1)`` for every feature, ``E = EDGE * sqrt(1 + noise^2)`` and ``2^bits`` values from -E to E; beside noise u
    is clipped to ``EDGE``. Through each feature get about ``log(1 + 1 / noise^2) / 2`` nats, never more than :meth:`capacity`.
    Gradients pass the grid as if it were not there (straight through).
    [reconstruction] The published client is deterministic.

    Args:
        encoder: ``(x, key, *, train) -> Sent``.
        noise: its deviation, in units of a feature's own; 0 for none.
        bits: of each number that is sent; 0 for float32.
        memoised: whether, out of training, the noise is a function of the image and of the device, which the key then is.
        axis_name: the mapped axis that batch statistics are averaged over, or ``None``.
        erased: directions that are taken out before there is noise, once somebody has found which.

    Returns:
        ``Sent(z, ...)`` of the encoder's shape.

    Example:
        >>> from ani_jax.modules.edge import SplitEdge
        >>> module, x = Sender(SplitEdge(2), 0.5, bits=3), jax.random.uniform(jax.random.key(0), (64, 8, 8, 3))
        >>> (sent, _), variables = module.init_with_output(jax.random.key(0), x, jax.random.key(1), train=True)
        >>> sent.shape, len(set(sent.ravel().tolist())) <= 2**3
        ((64, 2, 2, 4), True)
    """

    encoder: nn.Module
    noise: float = 0.0
    bits: int = 0
    memoised: bool = False
    axis_name: str | None = None
    erased: int = 0

    @property
    def edge(self) -> float:
        """The largest number that is sent."""
        return EDGE * math.sqrt(1 + self.noise**2)

    @property
    def grid(self) -> tuple[float, float, int]:
        """Smallest and largest number that is sent, and how many there are; 0 for any."""
        return -self.edge, self.edge, 2**self.bits if self.bits else 0

    @property
    def step(self) -> float:
        """How far values of the grid are apart."""
        return 2 * self.edge / (2**self.bits - 1)

    @property
    def declares(self) -> tuple[str, ...]:
        """What is granted: how noise is given, and its density, which is no Gaussian on a coarse grid."""
        if not self.noise:
            return ("capacity",) if self.bits else ()
        coarse = self.bits and self.step > FINE * self.noise
        return ("given", "mean", "log_prob", "capacity", *(() if coarse else ("stddev",)))

    def __call__(self, x: Images, key: PRNGKey, *, train: bool) -> Sent:
        """Draws what is sent; one key, noise of its own for every feature."""
        z, aux = self.clean(x, key, train=train)
        aux = {**aux, CLEAN: z}
        if self.noise:
            # Training hears every device there may be.
            own = self.memoised and not train
            unit = normal(secret_of(key), x, z[0].size).reshape(z.shape) if own else jax.random.normal(key, z.shape)
            z = z + self.noise * unit
        return Sent(self.kept(z), aux)

    def given(self, x: Images, unit: Features) -> Features:
        """What is sent with standard normal noise that somebody else has drawn."""
        return self.kept(self.mean(x) + self.noise * unit)

    def kept(self, z: Features) -> Features:
        """Features within the range and on the grid."""
        z = jnp.clip(z, -self.edge, self.edge)
        return rounded(z, self.step, -self.edge) if self.bits else z

    @nn.compact
    def clean(self, x: Images, key: PRNGKey | None, *, train: bool) -> Sent:
        """The encoder's features at unit variance, but for what is taken out of them."""
        z, aux = self.encoder(x, key, train=train)  # type: ignore[operator]
        z = unit_variance(z, train, self.axis_name)
        z = Erasing(self.erased, name="erase")(z) if self.erased else z
        # Of what has no range no size of noise is certain to hide anything.
        return Sent(jnp.clip(z, -EDGE, EDGE) if self.noise else z, aux)

    def mean(self, x: Images) -> Features:
        """The mean of z given x, but for what range and grid move."""
        return self.clean(x, None, train=False).z

    def stddev(self, x: Images) -> Features:
        """The deviation of z given x, likewise."""
        return jnp.full_like(self.mean(x), self.noise)

    def capacity(self, elements: int) -> float:
        """Nats that a query of so many features can say at most, whatever the images are: Shannon's, and what the grid holds."""
        loud = elements / 2 * math.log1p((EDGE / self.noise) ** 2) if self.noise else math.inf
        return min(loud, elements * self.bits * math.log(2) if self.bits else math.inf)

    def log_prob(self, z: Features, x: Images) -> Float[Array, " b"]:
        """Log density of z given x in nats, summed over features; of clipped or rounded ones, the log mass that is sent as z."""
        step, ends = self.step if self.bits else 0.0, (-self.edge, self.edge)
        return sent_log_prob(z, self.mean(x), self.noise, step, ends).reshape(z.shape[0], -1).sum(1)


def unit_variance(z: Features, train: bool, axis_name: str | None) -> Features:
    """Every feature at mean 0 and variance 1, inside a module: beside features that may grow, noise of a fixed size is none."""
    # Of every feature by itself: one that is silent but for some images would else be as loud there as it likes.
    axes: Any = tuple(range(1, z.ndim))
    return nn.BatchNorm(not train, axes, 0.9, use_scale=False, use_bias=False, axis_name=axis_name, name="norm")(z)


def sent_log_prob(z: Array, mean: Array, stddev: Array | float, step: float, ends: tuple[float, float]) -> Array:
    """Log density of Gaussian noise of each element; of what is rounded to a grid or clipped, the log mass that is sent as z.

    Args:
        z: what was sent.
        mean: of each element before it is rounded and clipped.
        stddev: likewise.
        step: of the grid; 0 for none.
        ends: of the range.

    Example:
        >>> grid = jnp.arange(-3.0, 4.0)
        >>> mass = jnp.exp(sent_log_prob(grid, jnp.full(7, 0.3), 0.7, 1.0, (-3.0, 3.0)))
        >>> round(float(mass.sum()), 5)
        1.0
    """
    half = step / 2
    low, high = ((z - mean + offset) / stddev for offset in (-half, half))
    each = norm.logpdf(low) - jnp.log(stddev)
    if step:
        middle, ratio = (z - mean) / stddev, step / jnp.asarray(stddev)
        # Of a fine grid the midpoint rule with its next term: the difference of two logarithms there is mostly rounding.
        narrow = norm.logpdf(middle) + jnp.log(ratio) + jnp.log1p(ratio**2 / 24 * (middle**2 - 1))
        # log(Phi(high) - Phi(low)) in whichever tail both lie: differences near 1 would cancel.
        upper = norm.logcdf(jnp.where(low > 0, -low, high))
        lower = norm.logcdf(jnp.where(low > 0, -high, low))
        wide = upper + jnp.log1p(-jnp.exp(jnp.minimum(lower - upper, -1e-7)))
        each = jnp.where(ratio <= FINE, narrow, wide)
    # A little inside: the ends of the grid are computed with rounding.
    each = jnp.where(z <= ends[0] + half / 2, norm.logcdf(high), each)
    return jnp.where(z >= ends[1] - half / 2, norm.logcdf(-low), each)
