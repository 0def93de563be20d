"""What some methods need beyond the contract; of all but noise, training step and fresh state ask whether a defence has it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from ani_jax.defenses.base import Adversary, Defense, Forward, Optimizer, Terms
from ani_jax.defenses.options import REPEATS, Convex, weight
from ani_jax.losses.checks import require
from ani_jax.losses.noise import gaussian_rate
from ani_jax.losses.task import cross_entropy
from ani_jax.modules.adversaries import ConvClassifier
from ani_jax.modules.erasing import beside, leace
from ani_jax.modules.probes import Heard
from ani_jax.modules.sender import CLEAN, Sender
from ani_jax.types import Batch, Data, Features, Images, Source

DRAWN = 16_384
"""Drawings of ``defend`` that a map which erases is fitted to."""
DRAW = 2**32 - 4
"""What their key is folded with: a step that no training reaches."""


@dataclasses.dataclass(frozen=True)
class Noisy(Defense):
    """A defence whose client may send its features at unit variance, with noise of a known size, on a grid.

    [reconstruction] No method that this is mixed into publishes it: a deterministic client hides little from a patient attacker.

    Attributes:
        release_stddev: deviation of Gaussian noise that is sent with every feature, in units of the feature's own; 0 for none.
        release_bits: bits of every number that is sent; 0 for float32. Either sends features at unit variance.
        repeats: whose noise the release has: "fresh" with every query, or "memoised", a function of the image and of a secret of
            the device, so that asking again tells nothing.
        excess: weight of the nats that the noise lets through of an image beside its label: without noise, no end of them.
    """

    release_stddev: float = 0.0
    release_bits: int = 0
    repeats: str = "fresh"
    excess: float = weight(0.0, private=True)

    def __post_init__(self):
        super().__post_init__()
        require(0 <= self.release_stddev <= 100, "release_stddev", self.release_stddev, "in [0, 100]")
        require(0 <= self.release_bits <= 16, "release_bits", self.release_bits, "0 (float32) to 16")
        require(self.repeats in REPEATS, "repeats", self.repeats, f"one of {', '.join(REPEATS)}")
        require(bool(self.release_stddev) or not self.excess, "excess", self.excess, "0 with release_stddev=0")
        fine = "above 0 with repeats=memoised: the low bits of float32 noise tell what it was added to"
        require(not self.memoised or self.release_bits > 0, "release_bits", self.release_bits, fine)

    @property
    def stochastic(self) -> bool:
        """Whether it sends noise."""
        return self.release_stddev > 0

    @property
    def memoised(self) -> bool:
        """Whether that noise is the image's own."""
        return self.stochastic and self.repeats == "memoised"

    def beyond(self, forward: Forward, batch: Batch) -> Terms:
        """The term that ``excess`` weighs, where it does: see :func:`ani_jax.losses.noise.gaussian_rate`."""
        if not self.excess:
            return {}
        clean, stddev = forward.aux[CLEAN], jnp.float32(self.release_stddev)
        return {"excess": gaussian_rate(clean, stddev, batch.label, self.classes, axis_name=self.axis_name)}

    def sent(self, edge: nn.Module, erased: int = 0) -> nn.Module:
        """The edge, and what is done to its features before they are sent; ``erased`` directions of them are not."""
        if not (self.release_stddev or self.release_bits or erased):
            return edge
        return Sender(edge, self.release_stddev, self.release_bits, self.memoised, self.axis_name, erased)


@dataclasses.dataclass(frozen=True)
class Hiding(Defense):
    """A defence that is told what to hide.

    Attributes:
        hide: names of the attributes to hide, comma-separated; "" means the data's first sensitive attribute.
    """

    hide: str = ""

    def __post_init__(self):
        super().__post_init__()
        # Options are checked before there is data too: then it may not be known which attributes there are.
        if not self.hides or not (self.attributes or self.classes is not None):
            return
        known, once = [name for name, _ in self.attributes], "each once, comma-separated"
        require(bool(known), "defense", self.name, "another where the data has no sensitive attribute")
        require(set(self._names) <= set(known), "hide", self.hide, f"names out of {', '.join(known)}, {once}")
        require(len(set(self._names)) == len(self._names), "hide", self.hide, "names each given once")

    @property
    def hides(self) -> bool:
        """Whether there is anything to hide; what is not hidden need not be there."""
        return True

    @property
    def hidden(self) -> dict[str, int]:
        """Name -> number of classes of each attribute to hide."""
        return {name: dict(self.attributes)[name] for name in self._names} if self.hides else {}

    def directions(self, given_label: bool) -> int:
        """How many :meth:`erase` takes out at most."""
        return sum(classes - 1 for classes in self.hidden.values()) * (self.classes if given_label else 1)

    def erase(self, state: Any, data: Data, features: Callable[[Any, Images], Features], given_label: bool) -> Any:
        """Fits the client's :class:`ani_jax.modules.erasing.Erasing`, named "erase", to ``defend``.

        Args:
            state: of training; what its map holds is not asked for.
            data: whose hidden attributes go.
            features: what the map is given, of a state and images.
            given_label: whether they go from what is known beside the label, and not only on average over it.
        """
        batch = jax.jit(Source.draw, static_argnums=2)(data.defend, jax.random.fold_in(state.key, DRAW), DRAWN)
        asked = jax.jit(features)
        found = [asked(state, batch.image[start : start + 1024]) for start in range(0, DRAWN, 1024)]
        flat = np.concatenate(found).reshape(DRAWN, -1).astype(np.float64)
        own, label = [np.asarray(batch.sensitive[name]) for name in self.hidden], np.asarray(batch.label)
        told = [beside(one, label) if given_label else np.eye(one.max() + 1)[one] for one in own]
        mean, into, out = leace(flat, np.concatenate(told, 1), self.directions(given_label))
        fitted = {"mean": mean, "into": into, "out": out}
        client = state.statistics["client"]
        client = {**client, "erase": {name: jnp.asarray(value, jnp.float32) for name, value in fitted.items()}}
        return dataclasses.replace(state, statistics={**state.statistics, "client": client})

    @property
    def _names(self) -> tuple[str, ...]:
        known = tuple(name for name, _ in self.attributes)
        return tuple(name.strip() for name in self.hide.split(",")) if self.hide else known[:1]


@dataclasses.dataclass(frozen=True)
class Contested(Hiding):
    """A defence whose adversaries read what it hides; the task keeps what its weights leave of 1.

    Attributes:
        adversary_width: channels of the adversaries.
        adversary_rate: their step size.
        attribute: weight of the hidden attributes, which share it equally; at 0 none is hidden.
    """

    adversary_width: int = 64
    adversary_rate: float = 1e-3
    attribute: float = weight(0.5, private=True)

    def __post_init__(self):
        # Before what is hidden is looked for: here there is an option that does without.
        possible = self.classes is None or bool(self.attributes) or not self.attribute
        require(possible, "attribute", self.attribute, "0 where the data has no sensitive attribute")
        super().__post_init__()
        require(self.adversary_width >= 1, "adversary_width", self.adversary_width, "at least 1")
        require(0 < self.adversary_rate < 1, "adversary_rate", self.adversary_rate, "in (0, 1)")

    @property
    def hides(self) -> bool:
        """Whether an attribute is hidden; none is at weight 0."""
        return bool(self.attribute)

    @property
    def weights(self) -> Convex:
        """The task keeps what they leave of 1."""
        return Convex.of(self)

    @property
    def adversaries(self) -> tuple[Adversary, ...]:
        """For each hidden attribute, and of its name, a convolutional classifier that hears features at unit variance."""

        def one(name: str, classes: int) -> Adversary:
            def loss(guess: Array, batch: Batch) -> Float[Array, ""]:
                return cross_entropy(guess, batch.sensitive[name]).mean()

            heard = Heard(ConvClassifier(classes, self.adversary_width), False, self.axis_name)
            return Adversary(name, heard, loss, Optimizer(self.adversary_rate))

        return tuple(one(*hidden) for hidden in self.hidden.items())


class Proved:
    """A defence of which something is known for certain."""

    @property
    def proved(self) -> tuple[str, ...]:
        """What is, a sentence each with what it assumes; of a defence that was built for data."""
        raise NotImplementedError


class Measured:
    """A defence that logs more than its losses."""

    def measurements(self, forward: Forward, batch: Batch) -> Terms:
        """Quantities that nobody optimises."""
        raise NotImplementedError


class Prepared:
    """A defence that needs statistics of the training data: a phase's ``prepare`` fills ``state.extra``, which losses see."""

    def init_extra(self) -> dict[str, Array]:
        """The arrays before any phase has filled them: a saved state has one layout in every phase."""
        raise NotImplementedError


class Reversible:
    """A defence that knows phases with ``reversal``: adversaries and client learn in one backward pass (Ganin 2015)."""

    def reversal_scales(self, weights: Mapping[str, Array]) -> Mapping[str, Array]:
        """Adversary's name -> factor of the reversed gradient of its own loss.

        The term that the factor stands for gives the defender no other gradient in such a phase.

        Args:
            weights: ``state.weights``.
        """
        raise NotImplementedError
