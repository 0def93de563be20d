"""Noise of a fixed size beside images or features: what fixed schemes send."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.scipy.stats import laplace, norm
from jaxtyping import Array, Float

from ani_jax.modules.sender import CLEAN, unit_variance
from ani_jax.types import Features, Images, PRNGKey, Sent

FAMILIES = {"gaussian": ("given", "mean", "stddev", "log_prob"), "laplace": ("mean", "log_prob")}
"""Distribution of noise -> what an adaptive attacker is granted of it; whoever reads a deviation takes the noise for Gaussian."""
NOISE_AT = ("split", "input")
"""Where it is added."""


class Additive(nn.Module):
    """Images, or an encoder's features at unit variance, with noise of one size.

        z = u + noise * e,   u = x  or  (f(x) - mean) / deviation,   e of mean 0 and variance 1, drawn for every element

    Args:
        encoder: ``(x, key, *, train) -> Sent``, or None to send the image itself.
        noise: deviation of the noise.
        family: a member of ``FAMILIES``.
        bounded: whether, in place of unit variance, features are scaled down to a norm of 1 where theirs is above.
        axis_name: the mapped axis that batch statistics are averaged over, or ``None``.

    Returns:
        ``Sent`` of the shape of u.

    Example:
        >>> module, x = Additive(None, 0.5, "laplace"), jnp.zeros((2, 64, 64, 3))
        >>> z = module.apply({}, x, jax.random.key(0), train=False).z
        >>> round(float(z.std()), 1), bool((z[0] == z[1]).any())
        (0.5, False)
    """

    encoder: nn.Module | None
    noise: float
    family: str = "gaussian"
    bounded: bool = False
    axis_name: str | None = None

    @property
    def declares(self) -> tuple[str, ...]:
        """What an adaptive attacker is granted."""
        ranged = self.bounded or self.encoder is None
        certain = ("capacity",) if self.family == "gaussian" and ranged else ()
        return FAMILIES[self.family] + certain if self.noise else ()

    def __call__(self, x: Images, key: PRNGKey, *, train: bool) -> Sent:
        """Draws what is sent; one key, noise of its own for every element."""
        z = self.clean(x, train=train)
        own, deviation = (jax.random.laplace, math.sqrt(2)) if self.family == "laplace" else (jax.random.normal, 1.0)
        return Sent(z + self.noise * own(key, z.shape) / deviation, {CLEAN: z})

    def given(self, x: Images, unit: Features) -> Features:
        """What is sent with standard normal noise that somebody else has drawn."""
        return self.mean(x) + self.noise * unit

    def mean(self, x: Images) -> Features:
        """The mean of z given x."""
        return self.clean(x, train=False)

    def stddev(self, x: Images) -> Features:
        """Its deviation."""
        return jnp.full_like(self.mean(x), self.noise)

    def capacity(self, elements: int) -> float:
        """Nats that a query of so many elements can say at most: of features within the unit ball, of images within [0, 1]."""
        power = 1 / elements if self.bounded else 0.25
        return elements / 2 * math.log1p(power / self.noise**2)

    def log_prob(self, z: Features, x: Images) -> Float[Array, " b"]:
        """Log density of z given x in nats, summed over elements."""
        off = (z - self.mean(x)) / self.noise
        each = laplace.logpdf(off, scale=1 / math.sqrt(2)) if self.family == "laplace" else norm.logpdf(off)
        return (each - math.log(self.noise)).reshape(z.shape[0], -1).sum(1)

    @nn.compact
    def clean(self, x: Images, *, train: bool) -> Features:
        """What noise is added to."""
        if self.encoder is None:
            return x
        z = self.encoder(x, None, train=train).z  # type: ignore[operator]
        if self.bounded:
            # The norm's own gradient is not finite at 0, which features behind a ReLU can be.
            squared = jnp.square(z).reshape(z.shape[0], -1).sum(1)
            return z * jax.lax.rsqrt(jnp.maximum(squared, 1)).reshape(-1, *[1] * (z.ndim - 1))
        return unit_variance(z, train, self.axis_name)
