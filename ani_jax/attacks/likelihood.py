"""The Bayes attacker against declared Gaussian noise: weighs every image it owns by how likely it explains what was sent.

    p(s | z)  ~  sum over auxiliary images x_j with attribute s of  N(z; mean(x_j), stddev(x_j)^2)^temperature

[ours] METHODS 5 grants an adaptive attacker the declared density; with an endless library and temperature 1 nothing can beat it.
A finite library needs a lower temperature, chosen on ``validation``. A trained network must learn through the noise what is
known here in closed form.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ani_jax.attacks.base import EVERYWHERE, LIBRARY, Asked, Attack, Context, Fitted, register
from ani_jax.attacks.density import Library, declares
from ani_jax.attacks.query import Observed, flat
from ani_jax.targets.attribute import Attribute
from ani_jax.targets.image import Image
from ani_jax.types import Images, Knowledge, PRNGKey

TEMPERATURES = (1.0, 0.5, 0.25, 0.1, 0.05, 0.02, 0.01)
"""Grid of powers that a likelihood is raised to."""
UNDECLARED = "the client declares no Gaussian noise"
"""Why both attacks fail where they have nothing to work with."""


@dataclasses.dataclass(frozen=True)
class Bayes(Attack):
    """What both attacks have in common.

    Attributes:
        temperatures: the grid.
    """

    temperatures: tuple[float, ...] = TEMPERATURES

    levels = EVERYWHERE

    @property
    def name(self) -> str:
        """One name in both families."""
        return "likelihood"

    @classmethod
    def able(cls, knowledge: Knowledge) -> bool:
        """Where the client declares its noise."""
        return knowledge.release is not None and declares(knowledge.release)


@register(Attribute)
@dataclasses.dataclass(frozen=True)
class Likelihood(Bayes):
    """Attribute inference with the client's own noise model."""

    target: Attribute

    family = "attribute"

    def fit(self, context: Context) -> Fitted:
        """Keeps the temperature with the highest likelihood of the true attribute on ``validation``."""
        asked, classes = context.asked, self.target.classes
        labels, truth = (batch.sensitive[self.target.name] for batch in (asked.sample, asked.validation))
        labels = labels[:LIBRARY]
        return _fitted(
            asked,
            self.temperatures,
            lambda density, t: _loss(density, labels, truth, t, classes),
            lambda library, t: Posterior(library, labels, t, classes),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Posterior:
    """A fitted likelihood attacker.

    Attributes:
        library: of the attacker's images.
        labels: (n,), their attribute.
        temperature: power of the likelihood.
        classes: K (static).
    """

    library: Library
    labels: Int[Array, " n"]
    temperature: Float[Array, ""]
    classes: int = dataclasses.field(metadata={"static": True})

    def __call__(self, key: PRNGKey | None, z: Observed) -> Array:
        """Log posterior of each class, (n, K)."""
        del key
        return _posterior(self.library.density(z), self.labels, self.temperature, self.classes)


@register(Image)
@dataclasses.dataclass(frozen=True)
class Reconstruction(Bayes):
    """Model inversion with the client's own noise model: the mean of the posterior over the attacker's images.

        x_hat(z) = sum_j w_j x_j,   w = softmax(temperature * log N(z; mean(x_j), stddev(x_j)^2))

    Temperature 0 is the mean image.
    """

    temperatures: tuple[float, ...] = (*TEMPERATURES, 0.0)

    family = "decoder"

    def fit(self, context: Context) -> Fitted:
        """Keeps the temperature with the lowest MSE on ``validation``."""
        images, truth = context.asked.sample.image[:LIBRARY], context.asked.validation.image
        return _fitted(
            context.asked,
            self.temperatures,
            lambda density, t: _error(density, images, truth, t),
            lambda library, t: PosteriorMean(library, images, t),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PosteriorMean:
    """A fitted likelihood decoder.

    Attributes:
        library: of the attacker's images.
        images: (n, h, w, c), the images themselves.
        temperature: power of the likelihood.
    """

    library: Library
    images: Images
    temperature: Float[Array, ""]

    def __call__(self, key: PRNGKey | None, z: Observed) -> Images:
        """Reconstructions (n, h, w, c)."""
        del key
        return _posterior_mean(self.library.density(z), self.images, self.temperature)


def _fitted(
    asked: Asked,
    temperatures: Sequence[float],
    loss: Callable[[Array, float], Array],
    attacker: Callable[[Library, Array], Any],
) -> Fitted:
    """The attacker at the temperature with the least finite loss on ``validation``."""
    # ``able`` asked the client; raw images, which the same attacks get for a ceiling, declare nothing.
    if asked.library is None or asked.held_density is None:
        return Fitted(None, UNDECLARED)
    losses = [(float(loss(asked.held_density, t)), index) for index, t in enumerate(temperatures)]
    finite = [pair for pair in losses if math.isfinite(pair[0])]
    if not finite:
        return Fitted(None, "no temperature gave a finite loss")
    return Fitted(attacker(asked.library, jnp.float32(temperatures[min(finite)[1]])))


@jax.jit
def _posterior_mean(density: Float[Array, "b n"], images: Images, temperature: Array | float) -> Images:
    weights = jax.nn.softmax(temperature * density, axis=1)
    return (weights @ flat(images)).reshape(-1, *images.shape[1:])


@jax.jit
def _error(density: Float[Array, "b n"], images: Images, truth: Images, temperature: float) -> Float[Array, ""]:
    return jnp.square(_posterior_mean(density, images, temperature) - truth).mean()


@functools.partial(jax.jit, static_argnames="classes")
def _posterior(
    density: Float[Array, "b n"], labels: Int[Array, " n"], temperature: Array | float, classes: int
) -> Float[Array, "b k"]:
    """Log posterior; a class that the library lacks is never chosen, and never NaN."""
    weighted = temperature * density
    rows = labels[None] == jnp.arange(classes)[:, None]
    scores = [jax.nn.logsumexp(jnp.where(own[None], weighted, -jnp.inf), axis=1) for own in rows]
    # Minus infinity less minus infinity would be NaN.
    return jax.nn.log_softmax(jnp.maximum(jnp.stack(scores, axis=1), -1e30), axis=1)


@functools.partial(jax.jit, static_argnames="classes")
def _loss(
    density: Float[Array, "b n"], labels: Int[Array, " n"], truth: Int[Array, " b"], temperature: float, classes: int
) -> Float[Array, ""]:
    """Cross-entropy of the posterior with the true attribute."""
    posterior = _posterior(density, labels, temperature, classes)
    return -jnp.take_along_axis(posterior, truth[:, None], axis=1).mean()
