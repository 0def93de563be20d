"""``vib``: a variational information bottleneck at the split (Alemi et al. 2017, arXiv 1612.00410; METHODS 3).

    z = mu(x) + softplus(r(x) - 5) * eps,     min of  CE(server(z), y) + bottleneck * KL(N(mu, sigma^2) || N(0, I))

[published] the objective; as a defence against inversion it is known as MID (Wang et al. 2021). The KL bounds I(x; z) from above
by a prior of its own choice, and counts what the task needs as much as what it does not.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from ani_jax.defenses.base import Forward, Terms
from ani_jax.defenses.options import weight
from ani_jax.defenses.registry import register
from ani_jax.defenses.split import Split
from ani_jax.types import Batch, Features, Images, PRNGKey, Sent

QUIET = 5.0
"""What r is lowered by, so that training begins with a deviation near softplus(-5), 0.007."""
LEAST = 1e-4
"""Smallest deviation: a density of none is infinite."""


@register
@dataclasses.dataclass(frozen=True)
class Bottleneck(Split):
    """A stochastic split that pays for what it lets through.

    Attributes:
        bottleneck: beta, weight of the KL divergence, in nats an image.
    """

    bottleneck: float = weight(0.01, private=True)

    name: ClassVar[str] = "vib"
    provenance: ClassVar[str] = (
        "Variational information bottleneck (Alemi et al. 2017, arXiv 1612.00410) at a split. The objective is published; "
        "networks and weight are this project's."
    )

    @property
    def stochastic(self) -> bool:
        """It always sends noise."""
        return True

    @property
    def client(self) -> nn.Module:
        """The edge, and a linear layer for mean and deviation of every feature."""
        return Stochastic(self.edge)

    def client_loss(self, forward: Forward, batch: Batch) -> Terms:
        """Cross-entropy, and the KL divergence from a standard normal distribution."""
        mean, stddev = forward.aux["mean"], forward.aux["stddev"]
        rate = 0.5 * (mean**2 + stddev**2 - 1) - jnp.log(stddev)
        return super().client_loss(forward, batch) | {"bottleneck": rate.reshape(len(mean), -1).sum(1).mean()}


class Stochastic(nn.Module):
    """An encoder's features as mean and deviation of what is sent.

    Args:
        encoder: ``(x, key, *, train) -> Sent``, of which z has n channels, as what is sent has.

    Example:
        >>> from ani_jax.modules.edge import SplitEdge
        >>> module, x = Stochastic(SplitEdge(8)), jnp.ones((2, 16, 16, 3))
        >>> (sent, _), _ = module.init_with_output(jax.random.key(0), x, jax.random.key(1), train=False)
        >>> sent.shape
        (2, 4, 4, 16)
    """

    encoder: nn.Module

    declares: ClassVar = ("given", "mean", "stddev", "log_prob")

    def __call__(self, x: Images, key: PRNGKey, *, train: bool) -> Sent:
        """Draws what is sent; one key, noise of its own for every feature."""
        mean, stddev = self.moments(x, train=train)
        return Sent(mean + stddev * jax.random.normal(key, mean.shape), {"mean": mean, "stddev": stddev})

    def given(self, x: Images, unit: Features) -> Features:
        """What is sent with standard normal noise that somebody else has drawn."""
        mean, stddev = self.moments(x, train=False)
        return mean + stddev * unit

    def mean(self, x: Images) -> Features:
        """The mean of z given x."""
        return self.moments(x, train=False)[0]

    def stddev(self, x: Images) -> Features:
        """Its deviation."""
        return self.moments(x, train=False)[1]

    def log_prob(self, z: Features, x: Images) -> Float[Array, " b"]:
        """Log density of z given x in nats, summed over elements."""
        return norm.logpdf(z, *self.moments(x, train=False)).reshape(z.shape[0], -1).sum(1)

    @nn.compact
    def moments(self, x: Images, *, train: bool) -> tuple[Features, Features]:
        """Mean and deviation of z given x."""
        z = self.encoder(x, None, train=train).z  # type: ignore[operator]
        mean, raw = jnp.split(nn.Dense(2 * z.shape[-1], name="moments")(z), 2, axis=-1)
        return mean, LEAST + jax.nn.softplus(raw - QUIET)
