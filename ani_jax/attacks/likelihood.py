"""The Bayes attacker against declared noise: weighs every image it owns by how likely it explains what was sent.

    p(s | z)  ~  sum over auxiliary images x_j with attribute s of  p(z | x_j)^temperature

[ours] METHODS 5 grants an adaptive attacker the declared density; with an endless library and temperature 1 nothing can beat it.
A finite library needs a lower temperature, chosen on ``validation``; whether more images would still help is shown by what a
quarter and a half of them find. A trained network must learn through the noise what is known here in closed form.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ani_jax.attacks.base import EVERYWHERE, Asked, Attack, Context, Fitted, register
from ani_jax.attacks.density import BLOCK, Library, Pairs, declares
from ani_jax.attacks.network import settled
from ani_jax.attacks.query import Observed, flat
from ani_jax.records import Look
from ani_jax.targets.attribute import Attribute
from ani_jax.targets.image import Image
from ani_jax.types import Images, Knowledge, PRNGKey

TEMPERATURES = (1.0, 0.5, 0.25, 0.1, 0.05, 0.02, 0.01)
"""Grid of powers that a likelihood is raised to."""
UNDECLARED = "the client declares no density of what it sends"
"""Why both attacks fail where they have nothing to work with."""
CONVERGED, GAINING = "library converged", "still gaining with more images: a lower bound"


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

    def answer(self, asked: Asked) -> Any:
        """What each image of the library stands for: (n, ...)."""
        raise NotImplementedError

    def attacker(self, library: Library | Pairs | None, answer: Array, temperature: float) -> Any:
        """The attacker before its temperature is known, or with a part of its library's answers."""
        raise NotImplementedError

    def fit(self, context: Context) -> Fitted:
        """Keeps the temperature that ``validation`` selects, for a quarter, a half and all of the library."""
        asked, target, batch = context.asked, self.target, context.asked.validation
        # ``able`` asked the client; raw images, which the same attacks get for a ceiling, declare nothing.
        if asked.library is None or asked.held_density is None:
            return Fitted(None, UNDECLARED)
        density, answer, aim, curve = asked.held_density, self.answer(asked), target.aim(batch), []
        temperature, size = 1.0, density.shape[1]
        for rows in sorted({max(1, size // 4), max(1, size // 2), size}):
            part, best = self.attacker(None, answer[:rows], 1.0), None
            for tried in self.temperatures:
                guess = dataclasses.replace(part, temperature=jnp.float32(tried)).weighed(density[:, :rows])
                loss = float(target.selection(guess, batch, aim).mean())
                if math.isfinite(loss) and (best is None or loss < best[0]):
                    best, temperature = (loss, guess), tried
            if best is None:
                return Fitted(None, "no temperature gave a finite loss")
            strength = target.strength(target.balanced(np.asarray(best[1]), asked.sample), batch)
            curve.append(Look(rows, best[0], strength))
        found = self.attacker(asked.library, answer[:size], temperature)
        return Fitted(found, curves=(tuple(curve),), ended=CONVERGED if settled([curve], target) else GAINING)


@register(Attribute)
@dataclasses.dataclass(frozen=True)
class Likelihood(Bayes):
    """Attribute inference with the client's own noise model."""

    target: Attribute

    family = "attribute"

    def answer(self, asked: Asked) -> Array:
        """The attribute of each image."""
        return asked.owned.sensitive[self.target.name]  # type: ignore[union-attr]

    def attacker(self, library: Library | Pairs | None, answer: Array, temperature: float) -> "Posterior":
        """Class scores."""
        return Posterior(library, answer, jnp.float32(temperature), self.target.classes)


@dataclasses.dataclass(frozen=True)
class Weighing:
    """A fitted attacker: holds what was sent against its library, ``BLOCK`` images at a time."""

    library: Library | Pairs | None

    def weighed(self, density: Float[Array, "b n"]) -> Array:
        """The guess from the log density of each image of the library."""
        raise NotImplementedError

    def __call__(self, key: PRNGKey | None, z: Observed) -> Array:
        """Guesses from k releases of n images."""
        del key
        assert self.library is not None
        starts = range(0, z.shape[1], BLOCK)
        # Compiled code has no use for the library.
        alone = dataclasses.replace(self, library=None)
        # Of all images at once the densities alone would be gigabytes.
        densities = (jnp.asarray(self.library.density(z[:, start : start + BLOCK])) for start in starts)
        return jnp.concatenate([alone.weighed(density) for density in densities])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Posterior(Weighing):
    """A fitted likelihood attacker.

    Attributes:
        library: of the attacker's images.
        labels: (n,), their attribute.
        temperature: power of the likelihood.
        classes: K (static).
    """

    labels: Int[Array, " n"]
    temperature: Float[Array, ""]
    classes: int = dataclasses.field(metadata={"static": True})

    @jax.jit
    def weighed(self, density: Float[Array, "b n"]) -> Array:
        """Log posterior of each class, (n, K); a class that the library lacks is never chosen, and never NaN."""
        weighted = self.temperature * density
        rows = self.labels[None] == jnp.arange(self.classes)[:, None]
        scores = [jax.nn.logsumexp(jnp.where(own[None], weighted, -jnp.inf), axis=1) for own in rows]
        # Minus infinity less minus infinity would be NaN.
        return jax.nn.log_softmax(jnp.maximum(jnp.stack(scores, axis=1), -1e30), axis=1)


@register(Image)
@dataclasses.dataclass(frozen=True)
class Reconstruction(Bayes):
    """Model inversion with the client's own noise model: the mean of the posterior over the attacker's images.

        x_hat(z) = sum_j w_j x_j,   w = softmax(temperature * log p(z | x_j))

    Temperature 0 is the mean image.
    """

    temperatures: tuple[float, ...] = (*TEMPERATURES, 0.0)

    family = "decoder"

    def answer(self, asked: Asked) -> Array:
        """The images."""
        return asked.owned.image  # type: ignore[union-attr]

    def attacker(self, library: Library | Pairs | None, answer: Array, temperature: float) -> "PosteriorMean":
        """Reconstructions."""
        return PosteriorMean(library, answer, jnp.float32(temperature))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PosteriorMean(Weighing):
    """A fitted likelihood decoder.

    Attributes:
        library: of the attacker's images.
        images: (n, h, w, c), the images themselves.
        temperature: power of the likelihood.
    """

    images: Images
    temperature: Float[Array, ""]

    @jax.jit
    def weighed(self, density: Float[Array, "b n"]) -> Images:
        """Reconstructions (n, h, w, c)."""
        weights = jax.nn.softmax(self.temperature * density, axis=1)
        return (weights @ flat(self.images)).reshape(-1, *self.images.shape[1:])
