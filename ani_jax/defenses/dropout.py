"""``dropout``: features are left out at random, on the device and at inference (METHODS 3).

    z = u * mask / p,     mask ~ Bernoulli(p) for every feature of every query

Nothing that is sent is wrong, so k queries together say all of u but a share (1 - p)^k of its features.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from ani_jax.defenses.options import strength
from ani_jax.defenses.registry import register
from ani_jax.defenses.split import Split
from ani_jax.losses.checks import require
from ani_jax.types import Features, Images, PRNGKey, Sent


@register
@dataclasses.dataclass(frozen=True)
class Dropout(Split):
    """Features that are left out at random.

    Attributes:
        keep_probability: p, with which a feature is sent.
    """

    keep_probability: float = strength(0.1, -1)

    name: ClassVar[str] = "dropout"
    provenance: ClassVar[str] = "Dropout (Srivastava et al. 2014) left on at inference; a baseline of no one paper."

    def __post_init__(self):
        super().__post_init__()
        require(0 < self.keep_probability <= 1, "keep_probability", self.keep_probability, "in (0, 1]")

    @property
    def stochastic(self) -> bool:
        """What is left out is drawn with every query."""
        return self.keep_probability < 1

    @property
    def client(self) -> nn.Module:
        """The edge, and what is left out."""
        return Thinned(self.edge, self.keep_probability)


class Thinned(nn.Module):
    """Features of which each is sent with probability p, divided by it, and is else 0.

    Args:
        encoder: ``(x, key, *, train) -> Sent``.
        keep: p.

    Example:
        >>> from ani_jax.modules.edge import SplitEdge
        >>> module, x = Thinned(SplitEdge(8), 0.25), jax.random.uniform(jax.random.key(0), (4, 16, 16, 3))
        >>> (z, _), _ = module.init_with_output(jax.random.key(0), x, jax.random.key(1), train=True)
        >>> bool((z == 0).mean() > 0.7)
        True
    """

    encoder: nn.Module
    keep: float

    declares: ClassVar = ("mean",)

    @nn.compact
    def __call__(self, x: Images, key: PRNGKey | None, *, train: bool) -> Sent:
        """Draws what is sent; one key, a mask of its own for every image. All of it without a key."""
        z = self.encoder(x, None, train=train).z  # type: ignore[operator]
        if key is None:
            return Sent(z, {})
        return Sent(jnp.where(jax.random.bernoulli(key, self.keep, z.shape), z / self.keep, 0), {})

    def mean(self, x: Images) -> Features:
        """The mean of z given x: all features."""
        return self(x, None, train=False).z
