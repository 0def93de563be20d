"""``ani``: Adaptive Noise Injection (Kariyappa, Dia & Qureshi 2021, arXiv 2104.02261), noise tailored to each input.

    min over injector (and server)   CE(server(z), y) - entropy * R,      R = mean(log stddev) or mean(log m)

[published] a light client network injects noise that is tailored to each input before it is sent; it needs no knowledge of the
sensitive attribute; "up to 48.5% degradation in sensitive-task accuracy with <1% degradation in primary accuracy"; better than
fixed noise. [reconstruction] the network, the noise's form, the objective and every default here.

What to know before trusting it: an entropy bound speaks of the noise alone, yet stddev(x) and the shift may themselves tell the
attribute; independent noise averages out over repeated queries and over a stroke. The audit attacks what is really sent.
"""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ani_jax.defenses.base import Defense, Forward, Phase, Terms
from ani_jax.defenses.mixins import Measured
from ani_jax.defenses.options import REPEATS, weight
from ani_jax.defenses.registry import register
from ani_jax.losses.checks import require
from ani_jax.losses.noise import gaussian_rate, mask_log_reward, mean_log_scale
from ani_jax.losses.task import cross_entropy
from ani_jax.modules.adversaries import depth_to_space, space_to_depth
from ani_jax.modules.attention import batch_norm
from ani_jax.modules.cloud import CnnCloud
from ani_jax.modules.edge import check_images
from ani_jax.modules.grid import rounded
from ani_jax.modules.kernels import Conv, max_pool
from ani_jax.modules.pseudorandom import normal, secret_of
from ani_jax.modules.sender import FINE, sent_log_prob
from ani_jax.types import Batch, Features, Images, PRNGKey, Sent

NOISES = ("additive", "masking", "masking_uniform")
"""Kinds of noise: Gaussian added to the image, Gaussian or uniform noise blended over it."""
SHIFTS = ("input", "global", "off")
"""What the shift of the mean depends on."""
SCALES = ("input", "global")
"""What the noise's scale depends on."""

# 16 left more to read: 44.8% of inks instead of 31.7% at seed 0, by an audit that has since been beaten (docs/RESULTS.md).
FEATURES = 32
"""Channels of the network's convolutions."""
QUIET = -6.0
"""Initial rho: a quarter of a percent of the largest noise, so that training starts from an almost clean image."""
GAIN = 30.0
"""Factor of a learned map: one parameter a pixel must move as fast under Adam as a head that sums over many features."""
GRID = 1 / 256
"""Step of the grid that what is sent with memoised noise is rounded to: the low bits of float32 noise would tell the mean."""
QUIETEST = GRID / FINE
"""Smallest stddev of memoised noise, so that the grid is fine for it."""
TAIL = 4.0
"""Standard deviations of the loudest noise that the released range leaves room for."""


@register
@dataclasses.dataclass(frozen=True)
class Ani(Measured, Defense):
    """Adaptive noise on the image itself; the whole classifier runs at the provider.

    Attributes:
        network: the injector's form, "unet" or "cnn".
        noise: "additive", "masking" (Gaussian) or "masking_uniform".
        shift: what the shift of the mean depends on: "input", "global" (one learned map) or "off".
        scale: what the noise's scale depends on: "input", or "global" (one learned map). With a global shift as well, this is
            the additive noise of Cloak (Mireshghallah et al. 2021).
        shift_bound: largest shift of a pixel whose range is 1.
        stddev_max: largest stddev of the noise.
        repeats: whose noise a release has: "fresh" with every query, or "memoised", a function of the image and of a secret of
            the device, rounded to a grid of a 256th, so that asking again tells nothing; additive noise alone.
        finetuned: train the server with the injector; otherwise it stays as pre-trained.
        pretraining_steps: steps of the server on images that are all but clean (noise of a quarter of a percent).
        entropy: weight of the noise's entropy R; a utility budget scales it.
        excess: weight of the nats that noise and mean let through of an image beside its label; likewise, of additive noise
            alone. [ours]
    """

    network: str = "unet"
    noise: str = "additive"
    # The shift carries most of the protection: by the audit of then, 84.6% of inks without it, 31.7% with (docs/RESULTS.md).
    shift: str = "input"
    scale: str = "input"
    shift_bound: float = 1.0
    # A prototype whose largest stddev was 3 reached it at once (METHODS 2.1).
    stddev_max: float = 10.0
    repeats: str = "fresh"
    finetuned: bool = True
    pretraining_steps: int = 60
    entropy: float = weight(0.5, private=True)
    excess: float = weight(0.0, private=True)

    width: int = 32
    steps: int = 600

    name: ClassVar[str] = "ani"
    provenance: ClassVar[str] = (
        "Adaptive Noise Injection (Kariyappa, Dia & Qureshi 2021, arXiv 2104.02261). The idea and its headline are published; "
        "network, noise, objective and defaults are this project's reconstruction."
    )

    def __post_init__(self):
        super().__post_init__()
        allowed_names = {"network": NETWORKS, "noise": NOISES, "shift": SHIFTS, "scale": SCALES, "repeats": REPEATS}
        for name, allowed in allowed_names.items():
            require(getattr(self, name) in allowed, name, getattr(self, name), f"one of {', '.join(allowed)}")
        require(0 < self.shift_bound <= 1, "shift_bound", self.shift_bound, "in (0, 1]")
        require(0.01 <= self.stddev_max <= 100, "stddev_max", self.stddev_max, "in [0.01, 100]")
        additive = self.noise == "additive"
        require(additive or not self.excess, "excess", self.excess, f"0 with noise={self.noise}")
        require(additive or not self.memoised, "repeats", self.repeats, f"fresh with noise={self.noise}")
        require(not self.memoised or self.stddev_max > QUIETEST, "stddev_max", self.stddev_max, f"above {QUIETEST}")
        require(self.pretraining_steps >= 0, "pretraining_steps", self.pretraining_steps, "0 or more")
        # Pixels are folded 2x2 and halved twice more.
        fits = self.image_shape is None or not (self.image_shape[0] % 8 or self.image_shape[1] % 8)
        require(fits, "image_shape", self.image_shape, "of sides that are multiples of 8")

    @property
    def stochastic(self) -> bool:
        """It always sends noise."""
        return True

    @property
    def memoised(self) -> bool:
        """Whether that noise is the image's own."""
        return self.repeats == "memoised"

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
            memoised=self.memoised,
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
            Phase("train", self.steps, parties, ("task", *self.weights.active)),
        )

    def client_loss(self, forward: Forward, batch: Batch) -> Terms:
        """Cross-entropy, and minus the noise's entropy per element."""
        task, amount = cross_entropy(forward.logits, batch.label).mean(), forward.aux["amount"]
        # A mean of logs: under the log of a mean, one very noisy pixel hides many quiet ones (METHODS 2.1).
        reward = mean_log_scale(jnp.log(amount)) if self.noise == "additive" else mask_log_reward(amount)
        terms = {"task": task, "entropy": -reward.mean()}
        if self.excess:
            location = forward.aux["location"]
            terms["excess"] = gaussian_rate(location, amount, batch.label, self.classes, axis_name=self.axis_name)
        return terms

    def measurements(self, forward: Forward, batch: Batch) -> Terms:
        """How much noise there is, and how far the mean was moved."""
        moved = abs(forward.aux["location"] - batch.image).mean()
        return {"amount": forward.aux["amount"].mean(), "moved": moved}


class Noise(NamedTuple):
    """The distribution of what is sent: ``z = location + scale * unit``, independent per element.

    Attributes:
        location: the mean of z, before the released range clips it.
        scale: stddev of Gaussian noise, width of uniform noise.
        amount: what the defender is paid for: the stddev of additive noise, the share m of masking noise.
    """

    location: Images
    scale: Images
    amount: Images


class NoiseInjector(nn.Module):
    """Decides, pixel by pixel, how an image is shifted and how much noise it is sent with (METHODS 2.1) [reconstruction].

    With ``(s, rho) = q(x)``, ``c = clip(x + shift_bound * tanh(s), 0, 1)`` and ``eps ~ N(0, 1)`` drawn for every element of
    every image:

        additive         z = c + stddev * eps,         stddev = stddev_min + (stddev_max - stddev_min) * sigmoid(rho)
        masking          z = (1 - m) * c + m * n,      m = sigmoid(rho),  n ~ N(1/2, stddev_max^2)
        masking_uniform  the same with                                    n ~ U(0, 1)

    The mean stays in the range of images, so that noise cannot be outgrown by scale; z is clipped to the declared
    ``released_range``, which Gaussian noise leaves room of four of its largest standard deviations.

    Args:
        network: "unet", two further halvings and back with skips, or "cnn", three convolutions; both work on 2x2 pixels
            folded into channels, which costs a quarter of the time of full resolution.
        noise: one of ``NOISES``.
        shift: what the shift depends on: the image, nothing (one learned map), or no shift at all.
        scale: what rho depends on: the image, or nothing (one learned map: the "cloak" baseline's form).
        shift_bound: largest shift of a pixel, in units of the image's range; 1 can repaint anything.
        stddev_min: smallest stddev of additive noise, > 0; of what is memoised at least ``QUIETEST``.
        stddev_max: largest.
        memoised: whether, out of training, additive noise is a function of the image and of the device, which the key then is,
            and z is rounded to a grid of step ``GRID``.
        axis_name: the mapped axis that batch statistics are averaged over, or ``None``.

    Returns:
        ``Sent(z, {"amount", "location"})`` with z of the image's shape.

    Raises:
        ValueError: an unknown mode, or image sides that 8 does not divide.

    Example:
        >>> module, x = NoiseInjector(), jnp.full((2, 8, 8, 3), 0.5)
        >>> variables = module.init(jax.random.key(0), x, jax.random.key(1), train=False)
        >>> z = module.apply(variables, x, jax.random.key(1), train=False).z
        >>> z.shape, bool((z[0] == z[1]).any())
        ((2, 8, 8, 3), False)
    """

    network: str = "unet"
    noise: str = "additive"
    shift: str = "input"
    scale: str = "input"
    shift_bound: float = 1.0
    stddev_min: float = 1e-3
    stddev_max: float = 10.0
    memoised: bool = False
    axis_name: str | None = None

    @property
    def released_range(self) -> tuple[float, float]:
        """Lowest and highest value that z can take."""
        tail = 0.0 if self.noise == "masking_uniform" else TAIL * self.stddev_max
        return -tail, 1.0 + tail

    @property
    def grid(self) -> tuple[float, float, int]:
        """Smallest and largest number that is sent, and how many there are; 0 for any."""
        low, high = self.released_range
        if not self.memoised:
            return low, high, 0
        first, last = round(low / GRID), round(high / GRID)
        return GRID * first, GRID * last, last - first + 1

    def __call__(self, x: Images, key: PRNGKey, *, train: bool) -> Sent:
        """Draws what is sent; one key, noise of its own for every element."""
        noise = self.describe(x, train=train)
        # One draw for every element: noise that a batch shares vanishes from the difference of two releases.
        if self.noise == "masking_uniform":
            unit = jax.random.uniform(key, x.shape, x.dtype, -0.5, 0.5)
        elif self.memoised and not train:
            unit = normal(secret_of(key), x, x[0].size).reshape(x.shape)
        else:
            unit = jax.random.normal(key, x.shape, x.dtype)
        return Sent(self.kept(noise, unit), {"amount": noise.amount, "location": noise.location})

    def given(self, x: Images, unit: Images) -> Images:
        """What is sent with standard normal noise that somebody else has drawn."""
        if self.noise == "masking_uniform":
            # Uniform in (-1/2, 1/2): what a normal number's distribution function says of it.
            unit = jax.lax.erf(unit / math.sqrt(2)) / 2
        return self.kept(self.describe(x, train=False), unit)

    def kept(self, noise: Noise, unit: Images) -> Images:
        """A draw within the range and on the grid."""
        # A declared range, and a kept one: noise that may grow without bound is undone by scaling (METHODS 2.1).
        z = jnp.clip(noise.location + noise.scale * unit, *self.released_range)
        return rounded(z, GRID) if self.memoised else z

    def mean(self, x: Images) -> Features:
        """The mean of z given x, but for what clipping the far tails moves."""
        return self.describe(x, train=False).location

    @property
    def declares(self) -> tuple[str, ...]:
        """What an adaptive attacker is granted; uniform noise has no stddev that describes it."""
        known = ("given", "mean", "log_prob")
        return known if self.noise == "masking_uniform" else (*known, "stddev")

    def stddev(self, x: Images) -> Features:
        """The stddev of Gaussian noise given x."""
        return self.describe(x, train=False).scale

    def log_prob(self, z: Features, x: Images) -> Float[Array, " b"]:
        """Log density of z given x in nats, summed over elements; of a clipped element, the log mass beyond the bound."""
        noise = self.describe(x, train=False)
        low, high = self.released_range
        if self.noise == "masking_uniform":
            unit = (z - noise.location) / noise.scale
            # Rounding may put a draw at the very edge outside of it.
            each = jnp.where(jnp.abs(unit) <= 0.5 + 1e-5, -jnp.log(noise.scale), -jnp.inf)
        else:
            step = GRID if self.memoised else 0.0
            each = sent_log_prob(z, noise.location, noise.scale, step, (low, high))
        return each.reshape(z.shape[0], -1).sum(1)

    @nn.compact
    def describe(self, x: Images, *, train: bool) -> Noise:
        """The distribution of z given x."""
        for name, allowed in (("network", NETWORKS), ("noise", NOISES), ("shift", SHIFTS), ("scale", SCALES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: {getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        check_images(x, 8)
        tailored = ("shift",) * (self.shift == "input") + ("rho",) * (self.scale == "input")
        maps: dict[str, Any] = {"shift": jnp.zeros((1, 1, 1, 1))}
        if self.shift == "global":
            maps["shift"] = GAIN * self.param("shift", nn.initializers.zeros, x.shape[1:])[None]
        if self.scale == "global":
            maps["rho"] = QUIET + GAIN * self.param("rho", nn.initializers.zeros, x.shape[1:])[None]
        if tailored:
            features = NETWORKS[self.network](self.axis_name, name="network")(space_to_depth(x), train=train)
            for name in tailored:
                # Zero kernels: whatever the network says at first, every image is sent almost clean.
                head = nn.Dense(
                    4 * x.shape[-1],
                    kernel_init=nn.initializers.zeros,
                    bias_init=nn.initializers.constant(QUIET if name == "rho" else 0.0),
                    name=name,
                )
                maps[name] = depth_to_space(head(features))
        x = jnp.clip(x, 0.0, 1.0)
        centre = jnp.clip(x + self.shift_bound * jnp.tanh(maps["shift"]), 0.0, 1.0)
        share = jnp.broadcast_to(jax.nn.sigmoid(maps["rho"]), x.shape)
        if self.noise == "additive":
            least = max(self.stddev_min, QUIETEST) if self.memoised else self.stddev_min
            stddev = least + (self.stddev_max - least) * share
            return Noise(centre, stddev, stddev)
        width = 1.0 if self.noise == "masking_uniform" else self.stddev_max
        return Noise((1 - share) * centre + share / 2, share * width, share)


class _Layer(nn.Module):
    """conv3x3, batch normalisation, ReLU."""

    features: int
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w f"]:
        return nn.relu(batch_norm(train, self.axis_name, name="norm")(Conv(self.features, name="conv")(x)))


class _Cnn(nn.Module):
    """Three convolutions at one resolution."""

    axis_name: str | None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w f"]:
        for index in range(3):
            x = _Layer(FEATURES, self.axis_name, name=f"layer_{index}")(x, train=train)
        return x


class _Unet(nn.Module):
    """Down by convolution and pooling, up by convolution and unfolding, skips between equal resolutions."""

    axis_name: str | None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w f"]:
        skips = []
        for index in range(2):
            skips.append(_Layer(FEATURES, self.axis_name, name=f"down_{index}")(x, train=train))
            x = max_pool(skips[-1])
        x = _Layer(FEATURES, self.axis_name, name="bottom")(x, train=train)
        for index in (1, 0):
            x = depth_to_space(_Layer(2 * FEATURES, self.axis_name, name=f"up_{index}")(x, train=train))
            x = jnp.concatenate([x, skips[index]], -1)
        return x


NETWORKS: dict[str, Any] = {"unet": _Unet, "cnn": _Cnn}
"""Kinds of network."""
