"""``disco``: DISCO (Singh et al. 2021, arXiv 2012.11025), channels that are left out image by image, against an adversary.

    z = f(x) * sigmoid(30 * (score(f(x)) - threshold)),    threshold: a quantile of the image's scores
    pruner:  min (1 - a) * CE(server(z), y) - a * CE(A(z), s),      f: CE alone,      A: min CE(A(z), s)

[published] a pruner of channels between a client that learns the task alone and the provider. [reconstruction] f is trained first
and then left alone, which gives it the task's gradient and no other; its batch statistics still move. Trap: what the adversary
loses in one channel is often in the next, and which channels are left is itself sent.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from ani_jax.defenses.base import Forward, Phase, Terms
from ani_jax.defenses.mixins import Contested
from ani_jax.defenses.registry import register
from ani_jax.defenses.split import Split
from ani_jax.losses.checks import require
from ani_jax.losses.task import cross_entropy
from ani_jax.types import Batch, Images, PRNGKey, Sent

SHARPNESS = 30.0
"""Of the gates: the published temperature is its inverse."""


@register
@dataclasses.dataclass(frozen=True)
class Disco(Split, Contested):
    """Channels that are left out, by a network that is trained against an adversary for each attribute it is told of.

    Their mean loss is what ``attribute`` weighs.

    Attributes:
        pruning_ratio: share of the channels that are left out of every image.
        pretraining_steps: steps of client and server on the task, before there is a pruner.
    """

    pruning_ratio: float = 0.6
    pretraining_steps: int = 500
    steps: int = 500

    name: ClassVar[str] = "disco"
    provenance: ClassVar[str] = (
        "DISCO (Singh et al. 2021, arXiv 2012.11025). Pruner and objective are published; schedule, networks and weight are "
        "this project's reconstruction."
    )

    def __post_init__(self):
        super().__post_init__()
        require(0 < self.pruning_ratio < 1, "pruning_ratio", self.pruning_ratio, "in (0, 1)")
        require(self.pretraining_steps >= 0, "pretraining_steps", self.pretraining_steps, "0 or more")

    @property
    def client(self) -> nn.Module:
        """The edge and its pruner."""
        return Pruned(self.edge, self.pruning_ratio)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Client and server; then pruner and server, against the adversaries."""
        terms = ("task", *self.weights.active)
        return (
            Phase("pretrain", self.pretraining_steps, ("client/encoder", "server"), ("task",)),
            Phase("train", self.steps, ("client/pruner", "server"), terms, 1 if self.adversaries else 0),
        )

    def client_loss(self, forward: Forward, batch: Batch) -> Terms:
        """Cross-entropy, and what is maximised: the adversaries' mean loss."""
        lost = [cross_entropy(guess, batch.sensitive[name]).mean() for name, guess in forward.adversaries.items()]
        return super().client_loss(forward, batch) | ({"attribute": jnp.stack(lost).mean()} if lost else {})


class Pruned(nn.Module):
    """Features of which, image by image, a share of the channels is left out.

    Args:
        encoder: ``(x, key, *, train) -> Sent`` of (b, h, w, c).
        ratio: the share, above 0; at least one channel is kept.

    Example:
        >>> from ani_jax.modules.edge import SplitEdge
        >>> module, x = Pruned(SplitEdge(8), 0.75), jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
        >>> (sent, _), _ = module.init_with_output(jax.random.key(0), x, None, train=False)
        >>> sent.shape
        (2, 4, 4, 16)
    """

    encoder: nn.Module
    ratio: float

    @nn.compact
    def __call__(self, x: Images, key: PRNGKey | None, *, train: bool) -> Sent:
        """Sends the channels that are kept."""
        z = self.encoder(x, key, train=train).z  # type: ignore[operator]
        # Zero scores at first, so that every channel is half open.
        scores = _Scores(name="pruner")(z.mean((1, 2)))
        kept = max(1, round((1 - self.ratio) * z.shape[-1]))
        largest = jax.lax.top_k(scores, min(kept + 1, z.shape[-1]))[0]
        threshold = largest[:, -2:].mean(1)
        return Sent(z * jax.nn.sigmoid(SHARPNESS * (scores - threshold[:, None]))[:, None, None], {})


class _Scores(nn.Module):
    """A perceptron that scores channels by their means."""

    @nn.compact
    def __call__(self, means: jax.Array) -> jax.Array:
        hidden = nn.relu(nn.Dense(means.shape[1], name="hidden")(means))
        return nn.Dense(means.shape[1], kernel_init=nn.initializers.zeros, name="score")(hidden)
