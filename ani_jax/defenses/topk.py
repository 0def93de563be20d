"""``topk``: of the features, the largest are sent and the others are 0 (METHODS 3).

What a practitioner does to send less. What is sent still says which the largest are, and that alone tells much.
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
from ani_jax.types import Images, PRNGKey, Sent


@register
@dataclasses.dataclass(frozen=True)
class TopK(Split):
    """The largest features alone; the provider is trained on them, and gradients flow through them.

    Attributes:
        kept: how many, by magnitude; where it is more than there are, all.
    """

    kept: int = strength(16, -1)

    name: ClassVar[str] = "topk"
    provenance: ClassVar[str] = "The largest features alone; a baseline of no one paper."

    def __post_init__(self):
        super().__post_init__()
        require(self.kept >= 1, "kept", self.kept, "at least 1")

    @property
    def client(self) -> nn.Module:
        """The edge, and the choice."""
        return Largest(self.edge, self.kept)


class Largest(nn.Module):
    """Features of which all but the largest of each image are 0; equals of the smallest that is kept are kept too.

    Args:
        encoder: ``(x, key, *, train) -> Sent``.
        kept: how many.

    Example:
        >>> from ani_jax.modules.edge import SplitEdge
        >>> module, x = Largest(SplitEdge(8), 3), jax.random.uniform(jax.random.key(0), (4, 16, 16, 3))
        >>> (z, _), _ = module.init_with_output(jax.random.key(0), x, None, train=True)
        >>> (z != 0).sum((1, 2, 3)).tolist()
        [3, 3, 3, 3]
    """

    encoder: nn.Module
    kept: int

    @nn.compact
    def __call__(self, x: Images, key: PRNGKey | None, *, train: bool) -> Sent:
        """Sends the largest."""
        z = self.encoder(x, key, train=train).z  # type: ignore[operator]
        size = jnp.abs(z.reshape(z.shape[0], -1))
        least = jax.lax.top_k(size, min(self.kept, size.shape[1]))[0][:, -1:]
        return Sent(jnp.where(size >= least, z.reshape(z.shape[0], -1), 0).reshape(z.shape), {})
