"""``siamese``: components of features, contrasted, with noise (Osia et al. 2017, arXiv 1703.02952; METHODS 3).

    z = (P^T (f(x) - mean)) / scale + noise_stddev * eps,       P the leading components of f over the training data
    min over f, server of  CE(server(z), y) + contrastive * C,  C = mean over pairs of  d^2 if y = y',  relu(1 - d)^2 otherwise

with ``d`` the root mean squared difference of two images' clean z. [published] dimensionality reduction and siamese fine-tuning
towards the primary label, and noise. [reconstruction] everything else. Trap: after the components are found f may still grow
beside noise of a fixed size, of which only the pairs of one class complain.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ani_jax.defenses.base import Forward, Phase, Terms
from ani_jax.defenses.options import weight
from ani_jax.defenses.registry import register
from ani_jax.defenses.split import Split
from ani_jax.losses import pairwise
from ani_jax.losses.checks import require
from ani_jax.modules.additive import Additive
from ani_jax.modules.sender import CLEAN
from ani_jax.types import Batch, Data, Features, Images, Logits, Source

DRAWN = 2048
"""Drawings of ``defend`` that components are found from."""
DRAW = 2**32 - 3
"""What their key is folded with: a step that no training reaches."""


@register
@dataclasses.dataclass(frozen=True)
class Siamese(Split):
    """Few principal components, alike within a class.

    Attributes:
        components: how many are sent.
        noise_stddev: deviation of Gaussian noise beside them, in units of their mean deviation when they were found.
        pretraining_steps: steps of client and server on the task, before components are found.
        contrastive: weight of the contrast.
    """

    components: int = 16
    noise_stddev: float = 0.5
    pretraining_steps: int = 500
    steps: int = 500
    contrastive: float = weight(0.5, private=True)

    name: ClassVar[str] = "siamese"
    provenance: ClassVar[str] = (
        "Hybrid deep learning with siamese fine-tuning (Osia et al. 2017, arXiv 1703.02952). The parts are published; contrast, "
        "schedule, networks and weight are this project's reconstruction."
    )

    def __post_init__(self):
        super().__post_init__()
        require(self.components >= 1, "components", self.components, "at least 1")
        require(0 <= self.noise_stddev <= 100, "noise_stddev", self.noise_stddev, "in [0, 100]")
        require(self.pretraining_steps >= 0, "pretraining_steps", self.pretraining_steps, "0 or more")

    @property
    def stochastic(self) -> bool:
        """Whether it sends noise."""
        return self.noise_stddev > 0

    @property
    def client(self) -> nn.Module:
        """The edge, and its components."""
        return Projected(self.edge, self.noise_stddev, components=self.components)

    @property
    def server(self) -> nn.Module:
        """A linear layer back to the edge's features, and the remaining backbone."""
        return Expanded(self.feature_shape, super().server)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The task alone, through fixed directions; then the features' own components, and the contrast."""
        parties, terms = ("client", "server"), ("task", *self.weights.active)
        return (
            Phase("pretrain", self.pretraining_steps, parties, ("task",)),
            Phase("train", self.steps, parties, terms, prepare=self.prepare),
        )

    def prepare(self, state: Any, data: Data) -> Any:
        """Finds the components of ``defend``, for the client, and lets the server begin with their inverse."""
        batch = jax.jit(Source.draw, static_argnums=2)(data.defend, jax.random.fold_in(state.key, DRAW), DRAWN)
        features = jax.jit(self.features)(state, batch.image)
        flat = features.reshape(len(features), -1)
        mean = flat.mean(0)
        _, sizes, directions = jnp.linalg.svd(flat - mean[None], full_matrices=False)
        scale = sizes[: self.components].mean() / len(flat) ** 0.5 + 1e-6
        directions = directions[: self.components].T
        client = {**state.statistics["client"], "mean": mean, "directions": directions / scale}
        expand = {"kernel": directions.T * scale, "bias": jnp.copy(mean)}
        return dataclasses.replace(
            state,
            statistics={**state.statistics, "client": client},
            params={**state.params, "server": {**state.params["server"], "expand": expand}},
        )

    def client_loss(self, forward: Forward, batch: Batch) -> Terms:
        """Cross-entropy, and the contrast of all pairs of the batch."""
        clean = forward.aux[CLEAN]
        squared = pairwise.squared_distances(clean) / clean.shape[1]
        same = batch.label[:, None] == batch.label[None]
        # The root has no gradient at 0, where a pair is one image with itself.
        apart = jnp.square(nn.relu(1 - pairwise.safe_power(squared, 0.5)))
        off = 1 - jnp.eye(len(clean))
        contrast = (off * jnp.where(same, squared, apart)).sum() / off.sum()
        return super().client_loss(forward, batch) | {"contrastive": contrast}


class Projected(Additive):
    """Features along fixed directions, with Gaussian noise.

    Args:
        encoder: ``(x, key, *, train) -> Sent``.
        noise: deviation.
        components: directions; the first coordinates, until somebody finds better ones.

    Example:
        >>> from ani_jax.modules.edge import SplitEdge
        >>> module, x = Projected(SplitEdge(8), 0.5, components=5), jnp.ones((2, 16, 16, 3))
        >>> module.init_with_output(jax.random.key(0), x, jax.random.key(1), train=False)[0].z.shape
        (2, 5)
    """

    components: int = 1

    @nn.compact
    def clean(self, x: Images, *, train: bool) -> Float[Array, "b m"]:
        """The components."""
        z = self.encoder(x, None, train=train).z  # type: ignore[operator]
        flat = z.reshape(z.shape[0], -1)
        mean = self.variable("batch_stats", "mean", jnp.zeros, flat.shape[1:]).value
        directions = self.variable("batch_stats", "directions", jnp.eye, flat.shape[1], self.components).value
        return (flat - mean[None]) @ directions


class Expanded(nn.Module):
    """A linear layer to features of some shape, and what was there for them.

    Args:
        shape: of one image's features.
        rest: ``(z, *, train) -> logits``.

    Example:
        >>> from ani_jax.modules.cloud import SplitCloud
        >>> module, z = Expanded((4, 4, 16), SplitCloud(10, width=8)), jnp.ones((2, 5))
        >>> module.init_with_output(jax.random.key(0), z, train=False)[0].shape
        (2, 10)
    """

    shape: tuple[int, ...]
    rest: nn.Module

    @nn.compact
    def __call__(self, z: Features, *, train: bool) -> Logits:
        """Classifies components."""
        height, width, channels = self.shape
        features = nn.Dense(height * width * channels, name="expand")(z)
        return self.rest(features.reshape(z.shape[0], *self.shape), train=train)  # type: ignore[operator]
