"""How much of an image comes back where a client is taken for linear around it: of client and data alone, without an attack.

[ours] The client's Jacobian J at an image, its declared noise and the covariance of images make a linear channel with a Gaussian
prior, whose least squared error and information are known in closed form; both are averaged over images. With the mean of
J^T J in place of each, the error is the Bayesian bound of Hwang and Maeng 2026 (arXiv 2608.23382, Corollary 1). [read] Their S is
the Fisher information of the prior, which a covariance's inverse is only where images are Gaussian, and is else at most: so these
are **estimates, never bounds**. A client that bends within the noise's reach says more, or less, than its tangent.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ani_jax.attacks.decoder import product
from ani_jax.losses.checks import require, require_rank
from ani_jax.types import Inputs, Release


class Prior(NamedTuple):
    """A Gaussian for images, along its principal directions.

    Attributes:
        directions: (p, ...) orthonormal, of an image's shape, by falling variance.
        variances: (p,) along them, squared units of x.
        total: that of all directions, these and the others.
    """

    directions: Float[Array, "p ..."]
    variances: Float[Array, " p"]
    total: Float[Array, ""]


class Linearised(NamedTuple):
    """What comes back of images.

    Attributes:
        explained: mean over images of the share of the prior's variance that is known once z is: in [0, 1], an R².
        bound: the same with the mean of all images' information in place of each one's, which is never less.
        nats: mean over images of the information about x in z.
    """

    explained: Float[Array, ""]
    bound: Float[Array, ""]
    nats: Float[Array, ""]


def gaussian_prior(images: Inputs, labels: Int[Array, " n"], classes: int = 1, count: int = 256) -> Prior:
    """The Gaussian of images around the mean of their class.

    Args:
        images: (n, ...), or any vectors.
        labels: (n,) of ``classes``; zeros and 1 for what is around the mean of all.
        classes: how many there are.
        count: directions, at most; no more are kept than there are images or elements.

    Returns:
        The prior.

    Raises:
        ValueError: fewer than 2 images, or ``count`` under 1.

    Example:
        >>> x = jnp.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> found = gaussian_prior(x, jnp.zeros(4, int))
        >>> found.variances.round(2).tolist(), round(found.total.item(), 2)
        ([4.5, 0.5], 5.0)
    """
    require(images.shape[0] >= 2, "len(images)", images.shape[0], "at least 2")
    require(count >= 1, "count", count, "1 or more")
    rows = images.reshape(images.shape[0], -1)
    member = jax.nn.one_hot(labels, classes, dtype=rows.dtype)
    means = product(member.T, rows) / jnp.maximum(member.sum(0), 1)[:, None]
    rows = rows - means[labels]
    _, values, directions = jnp.linalg.svd(rows, full_matrices=False)
    variances = jnp.square(values) / rows.shape[0]
    return Prior(directions[:count].reshape(-1, *images.shape[1:]), variances[:count], variances.sum())


def moments(
    release: Release, x: Inputs, quiet: Float[Array, ""] | float
) -> tuple[Float[Array, "b m"], Float[Array, "b m"]]:
    """Mean and deviation of what is sent of images, flat, with ``quiet`` for what is not declared to be Gaussian noise.

    Args:
        release: its ``mean`` and ``stddev`` where declared; else it is asked, with one key for all.
        x: the images.
        quiet: stddev above 0 that is added to the declared noise, in units of z: what a client without noise is read with.

    Example:
        >>> [one.tolist() for one in moments(Release((), lambda variables, x, key: 2 * x), jnp.ones((1, 1)), 0.5)]
        [[[2.0]], [[0.5]]]
    """
    mean = release(x, jax.random.key(0)) if release.mean is None else release.mean(release.variables, x)
    loud = jnp.zeros_like(mean) if release.stddev is None else release.stddev(release.variables, x)
    stddev = jnp.sqrt(jnp.square(jnp.broadcast_to(loud, mean.shape)) + quiet**2)
    return mean.reshape(x.shape[0], -1), stddev.reshape(x.shape[0], -1)


@jax.jit
def linearised(release: Release, images: Inputs, prior: Prior, quiet: Float[Array, ""] | float) -> Linearised:
    """What the tangents of a client at some images let through.

        M = I + sum_i [ a_i a_i^T + 2 b_i b_i^T ],   a_i, b_i = (d mean_i, d stddev_i) / stddev_i

    with derivatives along sqrt(variance) * direction is the precision of the image given z in units of the prior's;
    1/2 log det M are the nats, M^-1 is what stays open.

    Args:
        release: the client, which is differentiated forwards.
        images: (b, ...), at which that is done.
        prior: of what it is asked about.
        quiet: as for :func:`moments`.

    Returns:
        Means over the images.

    Raises:
        ValueError: images of another shape than the prior's.

    Example:
        >>> prior = Prior(jnp.eye(2), jnp.array([4.0, 1.0]), jnp.array(5.0))
        >>> half = Release((), lambda variables, x, key: x[:, :1])
        >>> found = linearised(half, jnp.ones((3, 2)), prior, 2.0)
        >>> round(found.explained.item(), 3), round(found.nats.item(), 3) == round(float(jnp.log(2) / 2), 3)
        (0.4, True)
    """
    require_rank(prior.variances, "prior.variances", 1)
    require(
        images.shape[1:] == prior.directions.shape[1:],
        "images.shape",
        images.shape,
        f"(b, *{prior.directions.shape[1:]})",
    )
    ways = prior.directions * jnp.sqrt(prior.variances).reshape(-1, *[1] * (images.ndim - 1))

    def information(image: Array) -> Array:
        at, along = jax.linearize(lambda x: moments(release, x[None], quiet), image)
        mean, stddev = (change[:, 0] / at[1] for change in jax.vmap(along)(ways))
        return product(mean, mean.T) + 2 * product(stddev, stddev.T)

    def known(information: Array) -> tuple[Array, Array]:
        # Eigenvalues are no less than 0 but for rounding.
        values, vectors = jnp.linalg.eigh(information)
        gained = jnp.maximum(values, 0)
        share = product(jnp.square(vectors), gained / (1 + gained))
        return (prior.variances * share).sum() / prior.total, jnp.log1p(gained).sum() / 2

    told = jax.lax.map(information, images)
    explained, nats = jax.lax.map(known, told)
    return Linearised(explained.mean(), known(told.mean(0))[0], nats.mean())
