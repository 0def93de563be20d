"""What a client declares of its Gaussian noise, for every image that an attacker owns.

Members of every attack share one library of a client: it is as costly as asking the client.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ani_jax.types import Features, Images, Release

CHUNK = 256
"""Images that go through a client or an attacker at once: one compiled shape, bounded memory."""
Observed = Float[Array, "k n ..."]
"""k releases of each of n images."""


def flat(z: Features) -> Float[Array, "n d"]:
    """Features as vectors."""
    return z.reshape(z.shape[0], -1)


def moments(z: Observed) -> tuple[Features, Features]:
    """Mean and variance over the k releases of each image.

    One release is added after the other: XLA's reduction over the first of few, large rows takes 17 times as long on the
    CPU (64 x 256 x 3,072, jax 0.10.2).

    Example:
        >>> [moment.tolist() for moment in moments(jnp.array([[[1.0]], [[3.0]]]))]
        [[[2.0]], [[1.0]]]
    """
    zero, count = jnp.zeros_like(z[0]), z.shape[0]
    mean = jax.lax.scan(lambda total, one: (total + one, None), zero, z)[0] / count
    return mean, jax.lax.scan(lambda total, one: (total + jnp.square(one - mean), None), zero, z)[0] / count


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
        return jnp.concatenate([_density(self, z[:, start : start + CHUNK]) for start in range(0, z.shape[1], CHUNK)])

    def log_density(self, z: Observed) -> Float[Array, "b n"]:
        """Log density of k releases (k, b, ...) of each image under each Gaussian, up to a constant."""
        mean, variance = (flat(moment) for moment in moments(z))
        each = mean @ self.slope.T - 0.5 * (jnp.square(mean) + variance) @ self.precision.T + self.constant[None]
        return z.shape[0] * each


@jax.jit
def _natural(release: Release, images: Images) -> tuple[Array, Array, Array]:
    mean, stddev = (flat(declared(release.variables, images)) for declared in (release.mean, release.stddev))  # type: ignore[misc]
    precision = stddev**-2
    return mean * precision, precision, -(0.5 * mean**2 * precision + jnp.log(stddev)).sum(1)


@jax.jit
def _density(library: Library, z: Observed) -> Float[Array, "b n"]:
    return library.log_density(z)
