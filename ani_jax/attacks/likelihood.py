"""The Bayes attacker against declared Gaussian noise: weighs every image it owns by how likely it explains what was sent.

    p(s | z)  ~  sum over auxiliary images x_j with attribute s of  N(z; mean(x_j), stddev(x_j)^2)^temperature

[ours] METHODS 5 grants an adaptive attacker the declared density; with an endless library and temperature 1 nothing can beat it.
A finite library needs a lower temperature, chosen on ``validation``. A trained network must learn through the noise what is
known here in closed form.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ani_jax.attacks.base import CHUNK, Fitted, Observed, OnEvent, View, flat
from ani_jax.types import Images, PRNGKey, Release

TEMPERATURES = (1.0, 0.5, 0.25, 0.1, 0.05, 0.02, 0.01)
"""Grid of powers that a likelihood is raised to."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Library:
    """Gaussians in natural form, so that all pairs of releases and images are two matrix products.

    Attributes:
        slope: (n, d), mean / variance.
        precision: (n, d), 1 / variance.
        constant: (n,), the part of the log density that z does not touch.
    """

    slope: Float[Array, "n d"]
    precision: Float[Array, "n d"]
    constant: Float[Array, " n"]

    @classmethod
    def of(cls, release: Release, images: Images) -> "Library":
        """The distributions of what a client sends for each of some images.

        Raises:
            ValueError: the release does not declare independent Gaussian noise.
        """
        if release.mean is None or release.stddev is None:
            raise ValueError("release: declares no mean and stddev; must declare both for a likelihood attack")
        parts = [_natural(release, images[start : start + CHUNK]) for start in range(0, len(images), CHUNK)]
        return cls(*(jnp.concatenate(part) for part in zip(*parts, strict=True)))

    def log_density(self, z: Observed) -> Float[Array, "b n"]:
        """Log density of k releases (k, b, ...) of each image under each Gaussian, up to a constant."""
        mean, square = flat(z.mean(0)), flat(jnp.square(z).mean(0))
        each = mean @ self.slope.T - 0.5 * square @ self.precision.T + self.constant[None]
        return z.shape[0] * each


@jax.jit
def _natural(release: Release, images: Images) -> tuple[Array, Array, Array]:
    mean, stddev = (flat(declared(release.variables, images)) for declared in (release.mean, release.stddev))  # type: ignore[misc]
    precision = stddev**-2
    return mean * precision, precision, -(0.5 * mean**2 * precision + jnp.log(stddev)).sum(1)


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """Attribute inference with the client's own noise model.

    Attributes:
        target: the attribute.
        classes: K.
        temperatures: the grid.
        name: of the member.
    """

    target: str
    classes: int
    temperatures: tuple[float, ...] = TEMPERATURES
    name: str = "likelihood"

    @property
    def steps(self) -> int:
        """0: a closed form."""
        return 0

    def fit(self, key: PRNGKey, view: View, on_event: OnEvent | None = None, earlier: Sequence[Fitted] = ()) -> Fitted:
        """Keeps the temperature with the highest likelihood of the true attribute on ``validation``."""
        del key, on_event, earlier
        library = Library.of(view.release, view.sample.image)
        labels, truth = view.sample.sensitive[self.target], view.validation.sensitive[self.target]
        candidates = [Posterior(library, labels, jnp.float32(t), self.classes) for t in self.temperatures]
        losses = [float(_cross_entropy(candidate(None, view.held), truth)) for candidate in candidates]
        loss, best = min((value if math.isfinite(value) else math.inf, index) for index, value in enumerate(losses))
        return Fitted(candidates[best]) if loss < math.inf else Fitted(None, "no temperature gave a finite likelihood")


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
        parts = [_posterior(self, z[:, start : start + CHUNK]) for start in range(0, z.shape[1], CHUNK)]
        return jnp.concatenate(parts)


@jax.jit
def _posterior(attacker: Posterior, z: Observed) -> Array:
    weighted = attacker.temperature * attacker.library.log_density(z)
    chosen = attacker.labels[None] == jnp.arange(attacker.classes)[:, None]
    scores = [jax.nn.logsumexp(jnp.where(rows[None], weighted, -jnp.inf), axis=1) for rows in chosen]
    return jax.nn.log_softmax(jnp.maximum(jnp.stack(scores, axis=1), -1e30), axis=1)


def _cross_entropy(log_posterior: Array, labels: Array) -> Array:
    return -jnp.take_along_axis(log_posterior, labels[:, None], axis=1).mean()
