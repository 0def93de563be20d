"""``shredder``: Shredder (Mireshghallah et al. 2020, arXiv 1905.11814), a collection of learned noise tensors (METHODS 3).

    z = f(x) + n_j,  j drawn for every query,      min over n_1..n_m of  CE(server(z), y) - amplitude * mean_j log std(n_j)

[published] additive noise that is learned for a network that stays as it was, and sampled from a collection. Networks are trained
first, then left alone; of the client, the batch statistics still move, which noise behind it does not change. Traps: tensors that
start at 0 never move (public re-implementations train nothing), so they are drawn when their training begins; and whoever knows
the collection, as the provider may, has one of m possible noises to take away.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from ani_jax.defenses.base import Forward, Phase, Terms
from ani_jax.defenses.options import weight
from ani_jax.defenses.registry import register
from ani_jax.defenses.split import Split
from ani_jax.losses.checks import require
from ani_jax.types import Batch, Data, Images, PRNGKey, Sent

FIRST = 2**32 - 2
"""What the key of the first tensors is folded with: a step that no training reaches."""


@register
@dataclasses.dataclass(frozen=True)
class Shredder(Split):
    """Learned noise tensors, one of which is drawn for every query.

    Attributes:
        collection: m, how many there are.
        first_scale: scale of the Laplace distribution that they are first drawn from.
        pretraining_steps: steps of client and server on the task, before there is noise.
        amplitude: weight of the tensors' mean log deviation.
    """

    collection: int = 32
    first_scale: float = 1.0
    pretraining_steps: int = 500
    steps: int = 500
    amplitude: float = weight(0.2, private=True)

    name: ClassVar[str] = "shredder"
    provenance: ClassVar[str] = (
        "Shredder (Mireshghallah et al. 2020, arXiv 1905.11814). Learned noise for a network that stays as it was is published; "
        "the reward's form, schedule, networks and weight are this project's reconstruction."
    )

    def __post_init__(self):
        super().__post_init__()
        require(self.collection >= 1, "collection", self.collection, "at least 1")
        require(self.first_scale > 0, "first_scale", self.first_scale, "above 0")
        require(self.pretraining_steps >= 0, "pretraining_steps", self.pretraining_steps, "0 or more")

    @property
    def stochastic(self) -> bool:
        """A tensor is drawn with every query."""
        return self.collection > 1

    @property
    def client(self) -> nn.Module:
        """The edge, and the collection."""
        return Shredded(self.edge, self.collection)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Client and server without noise; then the noise alone."""
        terms = ("task", *self.weights.active)
        return (
            Phase("pretrain", self.pretraining_steps, ("client/encoder", "server"), ("task",)),
            Phase("train", self.steps, ("client/tensors",), terms, prepare=self.prepare),
        )

    def prepare(self, state: Any, data: Data) -> Any:
        """Draws the first tensors."""
        del data
        client = state.params["client"]
        drawn = jax.random.laplace(jax.random.fold_in(state.key, FIRST), client["tensors"].shape)
        return dataclasses.replace(
            state, params={**state.params, "client": {**client, "tensors": self.first_scale * drawn}}
        )

    def client_loss(self, forward: Forward, batch: Batch) -> Terms:
        """Cross-entropy, and minus the mean log deviation of the tensors."""
        tensors = forward.aux["tensors"]
        deviation = tensors.reshape(len(tensors), -1).std(1)
        return super().client_loss(forward, batch) | {"amplitude": -jnp.log(deviation).mean()}


class Shredded(nn.Module):
    """An encoder's features and, for every image, one of a collection of tensors, which begin as zeros.

    Args:
        encoder: ``(x, key, *, train) -> Sent``.
        count: tensors in the collection.

    Example:
        >>> from ani_jax.modules.edge import SplitEdge
        >>> module, x = Shredded(SplitEdge(8), 5), jnp.ones((2, 16, 16, 3))
        >>> module.init(jax.random.key(0), x, jax.random.key(1), train=False)["params"]["tensors"].shape
        (5, 4, 4, 16)
    """

    encoder: nn.Module
    count: int

    @nn.compact
    def __call__(self, x: Images, key: PRNGKey, *, train: bool) -> Sent:
        """Draws what is sent; one key, a tensor for every image."""
        z = self.encoder(x, None, train=train).z  # type: ignore[operator]
        tensors: Array = self.param("tensors", nn.initializers.zeros, (self.count, *z.shape[1:]))
        drawn = jax.random.randint(key, (z.shape[0],), 0, self.count)
        return Sent(z + tensors[drawn], {"tensors": tensors})
