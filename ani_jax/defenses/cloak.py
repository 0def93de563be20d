"""``cloak``: Cloak (Mireshghallah et al. 2021, arXiv 2003.12154), one learned mean and scale of noise for all images (METHODS 3).

    z = x + mu + sigma * eps,     min over mu, sigma of  CE(server(z), y) - entropy * mean log sigma

with a server that was trained on clean images and stays as it was; then pixels whose sigma is above ``threshold`` are replaced by
a constant, and the server is trained on what is left. [published] the objective and the suppression. What ``ani`` tailors to each
image is one map for all here. Trap: the mean of logs is paid, never the log of a mean, under which one loud pixel hides many.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from ani_jax.defenses.base import Defense, Forward, Phase, Terms
from ani_jax.defenses.options import weight
from ani_jax.defenses.registry import register
from ani_jax.losses.checks import require
from ani_jax.losses.noise import mean_log_scale
from ani_jax.losses.task import cross_entropy
from ani_jax.modules.cloud import CnnCloud
from ani_jax.types import Batch, Data, Features, Images, PRNGKey, Sent

STDDEV_MIN = 1e-4
"""Smallest deviation. [published]"""
FIRST = -5.0
"""Where rho begins: nearly clean."""
GAIN = 30.0
"""What the maps' parameters are multiplied by, so that Adam's steps carry them through a sigmoid's range in hundreds of steps."""


@register
@dataclasses.dataclass(frozen=True)
class Cloak(Defense):
    """One map of noise, learned for a server that stays as it was.

    Attributes:
        pretraining_steps: steps of the server on clean images.
        finishing_steps: steps of the server on what is left, once pixels are suppressed.
        stddev_max: largest deviation of the noise, in units of the image's range.
        threshold: pixels of a larger deviation are suppressed.
        entropy: weight of the noise's mean log deviation.
    """

    pretraining_steps: int = 400
    finishing_steps: int = 200
    stddev_max: float = 2.0
    threshold: float = 1.0
    width: int = 16
    steps: int = 400
    learning_rate: float = 1e-2
    entropy: float = weight(1.0, private=True)

    name: ClassVar[str] = "cloak"
    provenance: ClassVar[str] = (
        "Cloak (Mireshghallah et al. 2021, arXiv 2003.12154). Objective and suppression are published; schedule, network, "
        "threshold and weight are this project's reconstruction."
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("pretraining_steps", "finishing_steps"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(self.stddev_max > STDDEV_MIN, "stddev_max", self.stddev_max, f"above {STDDEV_MIN}")
        require(self.threshold > 0, "threshold", self.threshold, "above 0")

    @property
    def stochastic(self) -> bool:
        """It always sends noise."""
        return True

    @property
    def client(self) -> nn.Module:
        """Two maps, and the noise."""
        return Cloaked(self.stddev_max)

    @property
    def server(self) -> nn.Module:
        """The undefended network, whole."""
        return CnnCloud(self.classes, self.width, depth=0, axis_name=self.axis_name)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The server on clean images; the noise; the server on what is left of them."""
        terms = ("task", *self.weights.active)
        return (
            Phase("pretrain", self.pretraining_steps, ("server",), ("task",)),
            Phase("train", self.steps, ("client/maps",), terms, prepare=self.begin),
            Phase("suppress", self.finishing_steps, ("server",), ("task",), prepare=self.suppress),
        )

    def begin(self, state: Any, data: Data) -> Any:
        """Turns the noise on."""
        del data
        return told(state, on=jnp.float32(1))

    def suppress(self, state: Any, data: Data) -> Any:
        """Leaves out what is noisier than the threshold, and turns the noise on where nobody has."""
        del data
        sigma = deviation(state.params["client"]["maps"]["rho"], self.stddev_max)
        return told(state, on=jnp.float32(1), kept=(sigma <= self.threshold).astype(jnp.float32))

    def client_loss(self, forward: Forward, batch: Batch) -> Terms:
        """Cross-entropy, and minus the mean log deviation of the noise."""
        reward = mean_log_scale(jnp.log(forward.aux["stddev"])[None])[0]
        return {"task": cross_entropy(forward.logits, batch.label).mean(), "entropy": -reward}


def told(state: Any, **values: Array) -> Any:
    """A state whose client knows better whether there is noise, and what is left out."""
    client = {**state.statistics["client"], **values}
    return dataclasses.replace(state, statistics={**state.statistics, "client": client})


def deviation(rho: Array, largest: float) -> Array:
    """The noise's deviation by its parameter, from ``STDDEV_MIN`` to ``largest``."""
    return STDDEV_MIN + (largest - STDDEV_MIN) * jax.nn.sigmoid(FIRST + GAIN * rho)


class _Maps(nn.Module):
    """What is learned: a shift and a rho of every pixel."""

    @nn.compact
    def __call__(self, shape: tuple[int, ...]) -> tuple[Array, Array]:
        shift: Array = self.param("shift", nn.initializers.zeros, shape)
        rho: Array = self.param("rho", nn.initializers.zeros, shape)
        return shift, rho


class Cloaked(nn.Module):
    """Images with noise of one map for all; pixels that are suppressed are the same in every image, and have none.

    Args:
        stddev_max: largest deviation.

    Example:
        >>> module, x = Cloaked(2.0), jnp.ones((2, 8, 8, 3))
        >>> variables = module.init(jax.random.key(0), x, jax.random.key(1), train=False)
        >>> bool((module.apply(variables, x, jax.random.key(1), train=False).z == x).all())
        True
    """

    stddev_max: float

    declares: ClassVar = ("mean", "log_prob")

    def __call__(self, x: Images, key: PRNGKey, *, train: bool) -> Sent:
        """Draws what is sent; one key, noise of its own for every element. Without noise before its training begins."""
        mean, sigma, stddev = self.moments(x)
        return Sent(mean + sigma * jax.random.normal(key, x.shape), {"stddev": stddev})

    def mean(self, x: Images) -> Features:
        """The mean of z given x."""
        return self.moments(x)[0]

    def log_prob(self, z: Features, x: Images) -> Float[Array, " b"]:
        """Log density of z given x in nats, summed over the elements that are not suppressed."""
        mean, sigma, _ = self.moments(x)
        heard = sigma > 0
        each = norm.logpdf((z - mean) / jnp.where(heard, sigma, math.inf)) - jnp.log(jnp.where(heard, sigma, 1))
        return jnp.where(heard, each, 0).reshape(z.shape[0], -1).sum(1)

    @nn.compact
    def moments(self, x: Images) -> tuple[Features, Array, Array]:
        """Mean of z given x, deviation of what is sent and that which is learned, both (h, w, c)."""
        shift, rho = _Maps(name="maps")(x.shape[1:])
        on = self.variable("batch_stats", "on", jnp.zeros, ()).value
        kept = self.variable("batch_stats", "kept", jnp.ones, x.shape[1:]).value
        stddev = deviation(rho, self.stddev_max)
        return on * shift[None] + kept[None] * x, (on * kept * stddev)[None], stddev
