"""``cem``: conditional entropy maximisation (Xia et al. 2025, arXiv 2503.00383), classes that are tight beside the noise.

    min over client, server of  CE(server(z), y) + conditional_entropy * L_C,        z = u + release_stddev * eps
    L_C = mean over classes c of  sum_j pi_cj relu(log(v_cj + 0.01) - log(tau release_stddev^2 + 0.01))

with ``v_cj`` the variance of the clean features u of class c about the j-th of their clusters, and ``pi_cj`` the share of the
class that it holds. A mixture of Gaussians of these variances bounds the entropy of x given z from below [published], as far as
it describes the features. Clusters are found by k-means over ``defend``, anew ``rounds`` times. [reconstruction] features at unit
variance, without which the variance would shrink by scale alone; the mean over features in v; the schedule.
"""

import dataclasses
import itertools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ani_jax.defenses.base import Forward, Phase, Terms
from ani_jax.defenses.mixins import Prepared
from ani_jax.defenses.options import weight
from ani_jax.defenses.registry import register
from ani_jax.defenses.split import Split
from ani_jax.losses.checks import require
from ani_jax.modules.sender import CLEAN, Sender
from ani_jax.types import Batch, Data, Labels, Source

TAU = 0.125
"""Share of the noise's variance below which a cluster is tight enough. [published]"""
FLOOR = 0.01
"""What is added within the logarithms. [published]"""
DRAWN = 2048
"""Drawings of ``defend`` that clusters are found from."""
DRAW = 2**32 - 5
"""What their key is folded with: a step that no training reaches."""
LLOYD = 10
"""Iterations of k-means."""


@register
@dataclasses.dataclass(frozen=True)
class ConditionalEntropy(Prepared, Split):
    """A split with Gaussian noise whose features are tight about a few centres of each class.

    Attributes:
        release_stddev: deviation of the noise, in training and after it, in units of each feature's own.
        clusters: J, of each class.
        rounds: how often they are found anew.
        pretraining_steps: steps on the task alone.
        conditional_entropy: weight of L_C.
    """

    release_stddev: float = 1.0
    clusters: int = 3
    rounds: int = 8
    pretraining_steps: int = 200
    steps: int = 800
    conditional_entropy: float = weight(1.0, private=True)

    name: ClassVar[str] = "cem"
    provenance: ClassVar[str] = (
        "Conditional entropy maximisation (Xia et al. 2025, arXiv 2503.00383). The objective is published; unit variance, "
        "schedule, networks and weight are this project's reconstruction."
    )

    def __post_init__(self):
        super().__post_init__()
        require(0 < self.release_stddev <= 100, "release_stddev", self.release_stddev, "in (0, 100]")
        require(self.clusters >= 1, "clusters", self.clusters, "at least 1")
        require(1 <= self.rounds <= self.steps, "rounds", self.rounds, f"1 to {self.steps}, the steps")
        require(self.pretraining_steps >= 0, "pretraining_steps", self.pretraining_steps, "0 or more")

    @property
    def stochastic(self) -> bool:
        """It always sends noise."""
        return True

    @property
    def client(self) -> nn.Module:
        """The edge, at unit variance, and the noise."""
        return Sender(self.edge, self.release_stddev, axis_name=self.axis_name)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The task alone; then rounds, each with clusters of its own."""
        parties, terms = ("client", "server"), ("task", *self.weights.active)
        ends = [self.steps * place // self.rounds for place in range(self.rounds + 1)]
        return (
            Phase("pretrain", self.pretraining_steps, parties, ("task",)),
            *(
                Phase(f"round_{place + 1}", after - before, parties, terms, prepare=self.prepare)
                for place, (before, after) in enumerate(itertools.pairwise(ends))
            ),
        )

    def init_extra(self) -> dict[str, Array]:
        """Centres at 0."""
        return {"centres": jnp.zeros((self.classes, self.clusters, math.prod(self.feature_shape)))}

    def prepare(self, state: Any, data: Data) -> Any:
        """Finds the clusters of every class in ``defend``."""
        key = jax.random.fold_in(jax.random.fold_in(state.key, DRAW), state.step)
        batch = jax.jit(Source.draw, static_argnums=2)(data.defend, key, DRAWN)
        variables = {"params": state.params["client"], "batch_stats": state.statistics["client"]}
        clean = jax.jit(lambda own, x: self.client.apply(own, x, method="mean"))(variables, batch.image)
        flat = clean.reshape(len(clean), -1)
        found = jax.jit(centres, static_argnums=(2, 3))(flat, batch.label, self.classes, self.clusters)
        return dataclasses.replace(state, extra={"centres": found})

    def client_loss(self, forward: Forward, batch: Batch) -> Terms:
        """Cross-entropy, and L_C of the batch."""
        clean = forward.aux[CLEAN].reshape(len(batch.image), -1)
        tight = spread(clean, batch.label, forward.extra["centres"], TAU * self.release_stddev**2)
        return super().client_loss(forward, batch) | {"conditional_entropy": tight}


def centres(z: Float[Array, "n d"], labels: Labels, classes: int, count: int) -> Float[Array, "{classes} {count} d"]:
    """Centres of each class by k-means (Lloyd 1982), from the class's first members on.

    Args:
        z: features, in random order.
        labels: of them.
        classes: how many there are.
        count: centres of each; one that nobody is near stays where it is.

    Example:
        >>> z = jnp.array([[0.0], [10.0], [0.2], [10.2], [5.0]])
        >>> [round(float(centre), 2) for centre in centres(z, jnp.array([0, 0, 0, 0, 1]), 2, 2)[0, :, 0]]
        [0.1, 10.1]
    """

    def of(member: Float[Array, " n"]) -> Float[Array, "count d"]:
        def once(_: int, found: Array) -> Array:
            near = nearest(z, found) * member[:, None]
            size = near.sum(0)[:, None]
            return jnp.where(size > 0, near.T @ z / jnp.maximum(size, 1), found)

        return jax.lax.fori_loop(0, LLOYD, once, z[jax.lax.top_k(member, count)[1]])

    return jax.vmap(of)(jax.nn.one_hot(labels, classes).T)


def nearest(z: Float[Array, "n d"], centres: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """1 at the centre that each example is nearest to."""
    # Squared distances, but for what all centres have in common.
    squared = jnp.square(centres).sum(1)[None] - 2 * z @ centres.T
    return jax.nn.one_hot(squared.argmin(1), len(centres))


def spread(z: Float[Array, "b d"], labels: Labels, centres: Float[Array, "c j d"], enough: float) -> Float[Array, ""]:
    """L_C: how far the features of each class scatter about its centres, beyond ``enough`` variance; in nats.

    Args:
        z: clean features.
        labels: of them.
        centres: of each class, which count as constants.
        enough: variance below which nothing is asked.

    Example:
        >>> centres = jnp.zeros((2, 1, 3))
        >>> spread(jnp.zeros((4, 3)), jnp.array([0, 0, 1, 1]), centres, 0.1).item()
        0.0
    """
    own = jax.lax.stop_gradient(centres)[labels]
    squared = jnp.square(z[:, None] - own).mean(2)
    # Which cluster an example belongs to counts as a constant too.
    near = jax.nn.one_hot(squared.argmin(1), centres.shape[1])
    member = jax.nn.one_hot(labels, len(centres))
    held = jnp.einsum("bc,bj->cj", member, near)
    variance = jnp.einsum("bc,bj->cj", member, near * squared) / jnp.maximum(held, 1)
    beyond = nn.relu(jnp.log(variance + FLOOR) - jnp.log(enough + FLOOR))
    size = held.sum(1)
    there = size > 0
    return jnp.where(there, (held * beyond).sum(1) / jnp.maximum(size, 1), 0).sum() / jnp.maximum(there.sum(), 1)
