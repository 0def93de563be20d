"""``ani``: Adaptive Noise Injection (Kariyappa, Dia & Qureshi 2021, arXiv 2104.02261), noise tailored to each input.

    min over injector (and server)   CE(server(z), y) - entropy * R,      R = mean(log stddev) or mean(log m)

[published] a light client network injects noise that is tailored to each input before it is sent; it needs no knowledge of the
sensitive attribute; "up to 48.5% degradation in sensitive-task accuracy with <1% degradation in primary accuracy"; better than
fixed noise. [reconstruction] the network, the noise's form, the objective and every default here.

What to know before trusting it: an entropy bound speaks of the noise alone, yet stddev(x) and the shift may themselves tell the
attribute; independent noise averages out over repeated queries and over a stroke. The audit attacks what is really sent.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ani_jax.defenses.base import Defense, Forward, Phase, Terms, require, weight
from ani_jax.losses.noise import mask_log_reward, mean_log_scale
from ani_jax.losses.task import cross_entropy
from ani_jax.modules.cloud import CnnCloud
from ani_jax.modules.injector import NETWORKS, NOISES, SCALES, SHIFTS, NoiseInjector
from ani_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class Ani(Defense):
    """Adaptive noise on the image itself; the whole classifier runs at the provider.

    Attributes:
        network: the injector's form, "unet" or "cnn".
        noise: "additive", "masking" (Gaussian) or "masking_uniform".
        shift: what the shift of the mean depends on: "input", "global" (one learned map) or "off".
        scale: what the noise's scale depends on: "input", or "global" (one learned map). With a global shift as well, this is
            the additive noise of Cloak (Mireshghallah et al. 2021).
        shift_bound: largest shift of a pixel whose range is 1.
        stddev_max: largest stddev of the noise.
        finetuned: train the server with the injector; otherwise it stays as pre-trained.
        pretraining_steps: steps of the server on images that are all but clean (noise of a quarter of a percent).
        entropy: weight of the noise's entropy R, the multiplier of a utility budget.
    """

    network: str = "unet"
    noise: str = "additive"
    shift: str = "input"
    scale: str = "input"
    shift_bound: float = 1.0
    stddev_max: float = 10.0
    finetuned: bool = True
    pretraining_steps: int = 60
    entropy: float = weight(0.5)

    width: int = 32
    steps: int = 600

    name: ClassVar[str] = "ani"
    provenance: ClassVar[str] = (
        "Adaptive Noise Injection (Kariyappa, Dia & Qureshi 2021, arXiv 2104.02261). The idea and its headline are published; "
        "network, noise, objective and defaults are this project's reconstruction."
    )
    stochastic: ClassVar[bool] = True
    privacy: ClassVar[tuple[str, ...]] = ("entropy",)

    def __post_init__(self):
        super().__post_init__()
        for name, allowed in (("network", NETWORKS), ("noise", NOISES), ("shift", SHIFTS), ("scale", SCALES)):
            require(getattr(self, name) in allowed, name, getattr(self, name), f"one of {', '.join(allowed)}")
        require(0 < self.shift_bound <= 1, "shift_bound", self.shift_bound, "in (0, 1]")
        require(0.01 <= self.stddev_max <= 100, "stddev_max", self.stddev_max, "in [0.01, 100]")
        require(self.pretraining_steps >= 0, "pretraining_steps", self.pretraining_steps, "0 or more")
        side = self.image_shape[:2]
        require(not (side[0] % 8 or side[1] % 8), "image_shape", self.image_shape, "of sides that are multiples of 8")

    @property
    def client(self) -> nn.Module:
        """The injector; what it sends has the image's shape."""
        return NoiseInjector(
            self.network,
            self.noise,
            self.shift,
            self.scale,
            self.shift_bound,
            stddev_max=self.stddev_max,
            axis_name=self.axis_name,
        )

    @property
    def server(self) -> nn.Module:
        """The undefended network, whole."""
        return CnnCloud(self.classes, self.width, depth=0, axis_name=self.axis_name)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The server alone; then the injector, with or without it."""
        parties = ("client", "server") if self.finetuned else ("client",)
        return (
            Phase("pretrain", self.pretraining_steps, ("server",), ("task",)),
            Phase("train", self.steps, parties, self.active_terms()),
        )

    def client_loss(self, forward: Forward, batch: Batch) -> Terms:
        """Cross-entropy, and minus the noise's entropy per element."""
        return {
            "task": cross_entropy(forward.logits, batch.label).mean(),
            "entropy": -self._reward(forward).mean(),
        }

    def _reward(self, forward: Forward) -> Float[Array, " b"]:
        amount = forward.aux["amount"]
        return mean_log_scale(jnp.log(amount)) if self.noise == "additive" else mask_log_reward(amount)

    def measurements(self, forward: Forward, batch: Batch) -> Terms:
        """How much noise there is, and how far the mean was moved."""
        moved = abs(forward.aux["location"] - batch.image).mean()
        return {"amount": forward.aux["amount"].mean(), "moved": moved}
