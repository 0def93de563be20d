"""How hard inversion is, by information: I(x; z), the entropy of z, the effective information volume (METHODS 2.3, 6).

[published] The criterion's three parts (Liu 2025, arXiv 2501.00824). [reconstruction] Their exact form here: the noise
that makes I(x; z) finite, the two entropy estimates, and one root mean square for all elements of z. [ours] Beside them
stand quantities of the client's tangents and of its declared noise, which aim at squared error. The closed forms that are fitted
to what it sends, linear and in a kernel, compete in the audit as decoders: they are an attack's own error.
"""

import contextlib
from collections.abc import Callable, Sequence
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ani_jax.attacks.base import SAMPLE, Asked, prepare
from ani_jax.attacks.query import CHUNK, as_release, flat, observed, summarise
from ani_jax.information.channel import ceiling
from ani_jax.information.critics import Critics, finite
from ani_jax.information.estimates import TRUTHS, estimate_information
from ani_jax.information.linearised import gaussian_prior, linearised, moments
from ani_jax.losses import estimates
from ani_jax.losses.checks import require
from ani_jax.records import Criterion, Estimate
from ani_jax.types import Data, Features, Inputs, Knowledge, Labels, PRNGKey, Release

LEVELS = MappingProxyType({"standard": Critics(steps=500), "thorough": Critics(steps=1000)})
"""Levels of an audit that measure it -> their critics."""
ROWS = 4096
"""Auxiliary rows that critics are trained on at most: a critic is small, and these show every original several times."""
NEIGHBOUR_SAMPLE = 2048
"""Examples behind the nearest-neighbour entropy, at most: its memory is quadratic."""
TANGENTS = 32
"""Test images at which a client is differentiated, evenly spaced among all."""
COVERED = 2048
"""Auxiliary rows behind covariances, at most."""


def criterion(
    key: PRNGKey,
    release: Callable[..., Features] | Release | Asked,
    data: Data,
    critics: Critics = Critics(),  # noqa: B008
    *,
    noise: float = 0.1,
    threshold: float = 0.1,
    sample: int = SAMPLE,
    self_test: Sequence[float] = TRUTHS,
) -> Criterion:
    """The inversion-difficulty criterion of a client.

    Critics learn from ``auxiliary``, are chosen on ``validation`` and read on ``test``. Volume and entropies are of z on
    ``test`` divided by its root mean square on ``auxiliary`` (one number for all elements), so that scaling z changes
    neither; the entropies add N(0, noise^2), without which ReLU features have none.

    Args:
        key: of images, critics and noise.
        release: the client: a release, any JAX function ``f(x)`` or ``f(x, key)``, or what it was asked once an image,
            whose images are then used.
        data: ``auxiliary``, ``validation`` and ``test``.
        critics: as for :func:`ani_jax.information.estimates.estimate_information`.
        noise: likewise; in the entropies in root mean squares of z.
        threshold: of the volume, in root mean squares of z, 0 or more.
        sample: auxiliary images to draw where ``release`` is a client.
        self_test: as there; each costs as much as the estimate.

    Returns:
        The criterion; what is undefined is None, and ``caveats`` says why.

    Raises:
        ValueError: an argument is outside its range, several queries an image, or ``test`` under 4 images.

    Example:
        >>> from ani_jax.types import Batch, Source, Task, fixed
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> batches = [Batch(jax.random.uniform(one, (200, 1, 1, 1)), jnp.arange(200) % 2, {}) for one in keys]
        >>> own = Source(batches[0], fixed)
        >>> data = Data(own, batches[1], own, batches[1], batches[2], "noise", Task("none", ("a", "b")), ())
        >>> critics = Critics("infonce", 1, 100, 16, learning_rate=1e-2)
        >>> found = criterion(jax.random.key(1), lambda x: 7 * x, data, critics, noise=0.5, sample=200, self_test=())
        >>> found.information.value > 0.2, 0.8 < found.volume_ratio < 1
        (True, True)
    """
    require(threshold >= 0, "threshold", threshold, "0 or more")
    ask_key, query_key, critic_key, noise_key = jax.random.split(key, 4)
    if not isinstance(release, Asked):
        release = prepare(ask_key, Knowledge(as_release(release)), data.auxiliary, data.validation, count=sample)
    asked = release
    require(asked.queries == 1, "release.queries", asked.queries, "1")
    own, test_z = flat(asked.sample_z[:ROWS]), flat(summarise(observed(asked.knowledge.release, data.test, query_key)))
    information = estimate_information(
        critic_key,
        (asked.sample.image[:ROWS], own),
        (asked.validation.image, asked.held_z),
        (data.test.image, test_z),
        critics,
        noise=noise,
        self_test=self_test,
    )
    scale = finite(jnp.sqrt(jnp.square(own).mean()))
    gaussian, nearest, volume, told = None, None, None, {}
    # Neither None nor 0, by which nothing can be divided.
    if scale and noise and asked.knowledge.release is not None:
        images, labels = asked.sample.image[:COVERED], asked.sample.label[:COVERED]
        at = data.test.image[:: -(-data.test.image.shape[0] // TANGENTS)]
        told = quantities(asked.knowledge.release, images, labels, at, noise * scale)
    if scale:
        found = _of_features(noise_key, test_z / scale, noise, threshold)
        volume, gaussian, nearest = (None if value is None else finite(value) for value in found)
    return Criterion(
        information=information,
        mean_abs=finite(jnp.abs(test_z).mean()),
        entropy_gaussian=gaussian,
        entropy_knn=nearest,
        volume=volume,
        volume_ratio=None if volume is None else volume / information.dimensions[0],
        threshold=float(threshold),
        scale=scale,
        caveats=_caveats(noise, scale, gaussian, nearest, test_z.shape),
        quantities=told,
    )


def quantities(
    release: Release, images: Inputs, labels: Labels, at: Float[Array, "t ..."], quiet: float
) -> dict[str, Estimate]:
    """What is known of how hard inversion is without critics, and without anything fitted to images and features.

    Args:
        release: the client.
        images: the covariance of which, around the mean of their class, is the prior.
        labels: their classes.
        at: where the client is differentiated.
        quiet: deviation above 0 that is added to declared noise, in units of z: what a client without noise is read with.

    Returns:
        "tangent", the R² over the class mean of the linear channel that the client is around an image; "tangent_bound", the
        same with all images' mean information, and "tangent_nats" (:mod:`ani_jax.information.linearised`); these are left out
        where the client has no forward derivative. "ceiling" and "ceiling_told": nats that Gaussian noise lets through, and
        beside the label (:mod:`ani_jax.information.channel`).
    """
    found: dict[str, Estimate] = {}
    prior = gaussian_prior(images, labels, int(labels.max()) + 1)
    # A callback into another framework and an exported program have none.
    with contextlib.suppress(NotImplementedError, TypeError, ValueError):
        told = linearised(release, at, prior, quiet)
        names = {"tangent": told.explained, "tangent_bound": told.bound, "tangent_nats": told.nats}
        found |= {name: Estimate(finite(value)) for name, value in names.items()}
    heard = jax.jit(moments)
    parts = [heard(release, images[start : start + CHUNK], quiet) for start in range(0, images.shape[0], CHUNK)]
    mean, stddev = (np.concatenate(one) for one in zip(*parts, strict=True))
    if np.isfinite(mean).all() and np.isfinite(stddev).all():
        found |= {"ceiling": ceiling(mean, stddev), "ceiling_told": ceiling(mean, stddev, np.asarray(labels))}
    return found


@jax.jit
def _of_features(
    key: PRNGKey, z: Features, noise: Float[Array, ""], threshold: Float[Array, ""]
) -> tuple[Array, Array | None, Array]:
    """Volume of scaled z, then the Gaussian and the nearest-neighbour entropy of it with noise; None where undefined."""
    volume = (jnp.abs(z) > threshold).sum(axis=1).mean()
    # ReLU features are 0 with positive probability, which has no density; the volume above is of z as it is sent.
    z = z + noise * jax.random.normal(key, z.shape, z.dtype)
    gaussian = estimates.gaussian_entropy(z) if z.shape[0] > z.shape[1] else None
    # Evenly spaced rows rather than the first: a data set may be sorted by drawing or by class.
    return volume, gaussian, estimates.kozachenko_leonenko_entropy(z[:: -(-z.shape[0] // NEIGHBOUR_SAMPLE)])


def _caveats(
    noise: float, scale: float | None, gaussian: float | None, nearest: float | None, shape: tuple[int, ...]
) -> tuple[str, ...]:
    caveats = ["estimates, not bounds; mean |z| changes with the scale of z"]
    if not scale:
        return (*caveats, "z is 0 or not finite on auxiliary: no entropy, no volume")
    caveats.append(f"entropies of z / rms + N(0, {noise:g}^2); the nearest-neighbour one is biased in many dimensions")
    if shape[0] <= shape[1]:
        caveats.append(f"no Gaussian entropy: {shape[0]} examples for {shape[1]} dimensions")
    elif gaussian is None:
        caveats.append("no Gaussian entropy: singular covariance, or z is not finite; noise above 0 removes the former")
    if nearest is None:
        caveats.append("no nearest-neighbour entropy: duplicates, or z is not finite; noise above 0 removes the former")
    return tuple(caveats)
