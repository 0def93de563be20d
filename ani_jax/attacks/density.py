"""What a client declares of its noise, for every image that an attacker owns.

All attacks on a client's answers share one library: it is as costly as asking the client.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ani_jax.attacks.query import AT_ONCE, CHUNK, Observed, flat, moments, padded, query
from ani_jax.types import Images, PRNGKey, Release

BLOCK = 1024
"""Releases, and rows of a library, that are multiplied at once."""
ROUNDED = 8e4
"""Sums of squares up to so many nats are right to 0.01 in float32 (measured: 0.009 at 3,072 features)."""
PAIRS = 4096
"""Rows at most of a library whose density is declared pair by pair, at one release; fewer by the square root of k at k."""
PAIRED = 64
"""Releases that are held against ``CHUNK`` images at once."""
UNEXPLAINED = 1e-3
"""What images keep between them that are declared impossible, where others are not: a guess must never be certain."""


def gaussian(release: Release) -> bool:
    """Whether a client declares independent Gaussian noise."""
    return release.mean is not None and release.stddev is not None


def declares(release: Release) -> bool:
    """Whether a client declares the distribution of what it sends."""
    return gaussian(release) or release.log_prob is not None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Library:
    """Gaussians; all pairs of releases and images are two matrix products.

        log p(z_1 .. z_k | x_j)  =  S_1 . v_j / s_j^2  -  S_2 . 1 / (2 s_j^2)  -  k * constant_j

    with v = mean - centre, S_1 and S_2 the sums over the k releases of z - centre and of its square. At small deviations these
    are large numbers that nearly cancel, so the host adds them up in float64, which not every accelerator has.

    Attributes:
        mean: (n, d).
        stddev: (n, d), or (1, d) where it is the same for all images.
        centre: (d,), the mean of all means.
        constant: (n,), the part of minus the log density that z does not touch.
    """

    mean: Float[np.ndarray, "n d"]
    stddev: Float[np.ndarray, "m d"]
    centre: Float[np.ndarray, " d"]
    constant: Float[np.ndarray, " n"]

    @classmethod
    def of(cls, release: Release, images: Images) -> "Library":
        """The distributions of what a client sends for each of some images.

        Raises:
            ValueError: the release does not declare independent Gaussian noise.
        """
        if not gaussian(release):
            raise ValueError("release: declares no mean and stddev; must declare both for a likelihood attack")
        parts = [declared(release, images[start : start + CHUNK]) for start in range(0, len(images), CHUNK)]
        return cls.made(*(np.concatenate([np.asarray(one) for one in part]) for part in zip(*parts, strict=True)))

    @classmethod
    def made(cls, mean: Float[np.ndarray, "n d"], stddev: Float[np.ndarray, "m d"]) -> "Library":
        """From the moments themselves."""
        # Half the memory and half the time of most clients.
        stddev = stddev[:1] if (stddev == stddev[:1]).all() else stddev
        # A declared 0 makes it infinite: no temperature then gives a finite loss, and the attack says that it failed.
        with np.errstate(all="ignore"):
            whole = cls(mean, stddev, mean.mean(0), np.empty(len(mean)))
            for rows, apart, precision in whole.blocks(np.float64):
                whole.constant[rows] = 0.5 * (apart * apart * precision - np.log(precision)).sum(1)
        return whole

    def density(self, z: Observed) -> Float[np.ndarray, "b n"]:
        """:meth:`log_density` in float32, ``BLOCK`` releases at a time."""
        found = np.empty((z.shape[1], len(self.mean)), np.float32)
        for start in range(0, z.shape[1], BLOCK):
            found[start : start + BLOCK] = self.log_density(z[:, start : start + BLOCK])
        return found

    def log_density(self, z: Observed) -> Float[np.ndarray, "b n"]:
        """Log density of k releases (k, b, ...) of each image under each Gaussian, less that under the likeliest."""
        first, second = (np.zeros((z.shape[1], len(self.centre))) for _ in range(2))
        # The k squares are summed, so any number of releases costs two products.
        for one in np.asarray(z).reshape(*z.shape[:2], -1):
            away = np.subtract(one, self.centre, dtype=np.float64)
            first += away
            second += np.square(away, out=away)
        found = np.empty((z.shape[1], len(self.mean)))
        with np.errstate(all="ignore"):
            size = (second @ (1 / np.square(self.stddev.min(0)))).max() + len(z) * np.ptp(self.constant)
            # False for what is not a number, too: then float64.
            kind = np.float32 if size < ROUNDED else np.float64
            first, second = first.astype(kind), second.astype(kind)
            for rows, apart, precision in self.blocks(kind):
                found[:, rows] = first @ (apart * precision).T - 0.5 * second @ precision.T
                found[:, rows] -= len(z) * self.constant[rows]
            return found - found.max(1, keepdims=True)

    def blocks(self, kind: type) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Which rows, how far their means are from the centre, and 1 / variance; ``BLOCK`` rows at a time."""
        for start in range(0, len(self.mean), BLOCK):
            rows = slice(start, start + BLOCK)
            stddev = self.stddev[rows] if len(self.stddev) > 1 else self.stddev
            # Subtracted in that precision: rounded to float32 a distance would be off by parts of a small deviation.
            yield rows, np.subtract(self.mean[rows], self.centre, dtype=kind), 1 / np.square(stddev, dtype=kind)


@jax.jit
def declared(release: Release, images: Images) -> tuple[Array, ...]:
    """Flat mean and stddev of what a client sends for each of some images, as far as it declares them."""
    found = [one(release.variables, images) for one in (release.mean, release.stddev) if one is not None]
    return tuple(flat(one) for one in found)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pairs:
    """Distributions of any kind: the density is asked for of every pair of a release and an image.

    Where some images explain what was sent and others cannot have (noise that is bounded), those others keep
    ``UNEXPLAINED`` between them; where no image can have, which is the rule for a finite library, Gaussians of the same mean and
    spread say which is nearest.

    Attributes:
        release: which declares ``log_prob``.
        images: (n, h, w, c), at most ``PAIRS`` of them.
        nearest: the Gaussians.
    """

    release: Release
    images: Images
    nearest: Library

    @classmethod
    def of(cls, release: Release, images: Images, key: PRNGKey, queries: int) -> "Pairs":
        """Asks ``AT_ONCE`` times about each image, for its mean where that is not declared and for how far noise spreads."""
        images = images[: int(PAIRS / queries**0.5)]
        parts = []
        for start in range(0, len(images), CHUNK):
            part = images[start : start + CHUNK]
            mean, variance = moments(query(release, part, jax.random.fold_in(key, start), AT_ONCE))
            if release.mean is not None:
                mean = declared(release, part)[0]
            parts.append((np.asarray(flat(mean)), np.asarray(flat(variance))))
        mean, variance = (np.concatenate(part) for part in zip(*parts, strict=True))
        # One spread for all images: that of a few releases of one says little. An element without noise must not divide by 0.
        spread = np.sqrt(variance.mean(0, keepdims=True))
        return cls(release, images, Library.made(mean, np.maximum(spread, 1e-3 * max(spread.max(), 1e-6))))

    def density(self, z: Observed) -> Float[np.ndarray, "b n"]:
        """Log density of k releases (k, b, ...) under each image, up to a constant for all of them; never infinite."""
        exact, size = np.empty((z.shape[1], len(self.images)), np.float32), max(1, PAIRED // len(z))
        for row in range(0, len(self.images), CHUNK):
            part, count = padded(self.images[row : row + CHUNK], 0)
            for start in range(0, z.shape[1], size):
                # The last release fills up the last part: one compiled shape.
                own = jnp.asarray(z)[:, np.minimum(np.arange(start, start + size), z.shape[1] - 1)]
                told = np.asarray(_pairs(self.release, own, part))[: z.shape[1] - start, :count]
                exact[start : start + size, row : row + count] = told
        return np.asarray(_softened(exact, self.nearest.density(z))) if np.isneginf(exact).any() else exact


@jax.jit
def _pairs(release: Release, z: Observed, images: Images) -> Float[Array, "b n"]:
    def against(one: Array) -> Float[Array, " n"]:
        return release.log_prob(release.variables, jnp.broadcast_to(one[None], (len(images), *one.shape)), images)  # type: ignore[misc]

    # Mapped over releases alone: what depends on the images alone, a network that chooses a scale say, is computed once.
    return jax.vmap(jax.vmap(against))(z).sum(0)


@jax.jit
def _softened(exact: Float[Array, "b n"], nearest: Float[Array, "b n"]) -> Float[Array, "b n"]:
    possible = jnp.logical_not(jnp.isneginf(exact))
    some = possible.any(1, keepdims=True)
    # Of a row without any, minus infinity less minus infinity would be NaN.
    total = jnp.where(some, jax.nn.logsumexp(jnp.where(some, exact, 0.0), axis=1, keepdims=True), 0.0)
    rest = jax.nn.log_softmax(nearest, axis=1) + jnp.where(some, jnp.log(UNEXPLAINED), 0.0)
    return jnp.where(possible, exact - total, rest)


def library_of(release: Release, images: Images, key: PRNGKey, queries: int) -> Library | Pairs:
    """The distributions of what a client that :func:`declares` sends for each of some images.

    Args:
        release: the client.
        images: of the attacker.
        key: of the few releases that :class:`Pairs` asks for.
        queries: k, by which pairs cost more.
    """
    return Library.of(release, images) if gaussian(release) else Pairs.of(release, images, key, queries)
