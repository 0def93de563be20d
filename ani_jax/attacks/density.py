"""What a client declares of its Gaussian noise, for every image that an attacker owns.

All attacks on a client's answers share one library: it is as costly as asking the client.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ani_jax.attacks.query import CHUNK, Observed, flat, moments
from ani_jax.types import Images, Release


def declares(release: Release) -> bool:
    """Whether a client declares independent Gaussian noise."""
    return release.mean is not None and release.stddev is not None


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
        if not declares(release):
            raise ValueError("release: declares no mean and stddev; must declare both for a likelihood attack")
        parts = [_natural(release, images[start : start + CHUNK]) for start in range(0, len(images), CHUNK)]
        return cls(*(jnp.concatenate(part) for part in zip(*parts, strict=True)))

    def density(self, z: Observed) -> Float[Array, "b n"]:
        """:meth:`log_density`, ``CHUNK`` images at a time."""
        chunks = (z[:, start : start + CHUNK] for start in range(0, z.shape[1], CHUNK))
        return jnp.concatenate([self.log_density(chunk) for chunk in chunks])

    @jax.jit
    def log_density(self, z: Observed) -> Float[Array, "b n"]:
        """Log density of k releases (k, b, ...) of each image under each Gaussian, up to a constant."""
        mean, variance = (flat(moment) for moment in moments(z))
        # The k squares sum to k (mean^2 + variance), so any number of releases costs two products.
        each = mean @ self.slope.T - 0.5 * (jnp.square(mean) + variance) @ self.precision.T + self.constant[None]
        return z.shape[0] * each


@jax.jit
def _natural(release: Release, images: Images) -> tuple[Array, Array, Array]:
    mean, stddev = (flat(declared(release.variables, images)) for declared in (release.mean, release.stddev))  # type: ignore[misc]
    # A declared 0 makes it infinite: no temperature then gives a finite loss, and the attack says that it failed.
    precision = stddev**-2
    return mean * precision, precision, -(0.5 * mean**2 * precision + jnp.log(stddev)).sum(1)
