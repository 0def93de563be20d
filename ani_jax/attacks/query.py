"""Asking a client: any function as a release, k releases of each image, and what an attacker sees of them."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ani_jax.types import Batch, Features, Inputs, Logits, PRNGKey, Release

CHUNK = 256
"""Images that go through a client or an attacker at once: one compiled shape, bounded memory."""
AT_ONCE = 16
"""Releases of one image that are asked for in one call."""
BRIGHTER = 0.05
"""How much brighter or darker a near-duplicate is at most."""
Observed = Float[Array, "k n ..."]
"""k releases of each of n images."""


@dataclasses.dataclass(frozen=True)
class _Call:
    """``apply`` of a wrapped callable: equal for equal functions, so attacks on them compile once."""

    function: Callable[..., Features]
    keyed: bool

    def __call__(self, variables: Any, x: Inputs, key: PRNGKey) -> Features:
        args, keywords = variables
        return self.function(*args, x, key, **keywords) if self.keyed else self.function(*args, x, **keywords)


def as_release(function: Callable[..., Features] | Release) -> Release:
    """Wraps ``f(x)`` or ``f(x, key)`` as a :class:`ani_jax.types.Release`.

    The arguments bound in a ``jax.tree_util.Partial`` become the release's traced variables, so that the attackers of
    two sets of weights share their compiled code; a closure's weights are constants of its own compilation.

    Args:
        function: a JAX function of images, or of images and a key; a release is returned as it is.

    Returns:
        The release; stochastic if the function takes a key.

    Raises:
        ValueError: the function takes another number of arguments.

    Example:
        >>> release = as_release(lambda x: 2 * x)
        >>> release(jnp.ones((1, 1, 1, 1)), jax.random.key(0)).item(), release.stochastic
        (2.0, False)
    """
    if isinstance(function, Release):
        return function
    if not callable(function):
        raise ValueError(f"release={function!r}: must be callable, f(x) or f(x, key)")
    parameters = inspect.signature(function).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    if len(required) not in (1, 2):
        raise ValueError(
            f"release={function!r}: takes {len(required)} arguments; must take images, or images and a key"
        )
    # A key that has a default is still a key: f(x, key=None) may be noisy.
    keyed = len(required) == 2 or (len(positional) > 1 and positional[1].name == "key")
    if isinstance(function, jax.tree_util.Partial):
        return Release((function.args, dict(function.keywords)), _Call(function.func, keyed), stochastic=keyed)
    return Release(((), {}), _Call(_hashable(function), keyed), stochastic=keyed)


def as_predictor(function: Callable[[Features], Array]) -> Callable[[Features], Array]:
    """Makes ``predict(z)`` a pytree callable, so that it can be handed through compiled code.

    Example:
        >>> len(jax.tree.leaves(as_predictor(lambda z: z)))
        0
    """
    return function if isinstance(function, jax.tree_util.Partial) else jax.tree_util.Partial(_hashable(function))


def _hashable(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, or a closure over it where it cannot be hashed (a model object of another library)."""
    try:
        hash(function)
    except TypeError:
        return lambda *args: function(*args)
    return function


def near(images: Inputs, key: PRNGKey) -> Inputs:
    """Near-duplicates, as in a burst of photographs: each shifted by up to a pixel, and a little brighter or darker.

    Args:
        images: (n, h, w, c) in [0, 1]; what a shift uncovers repeats the edge. Of vectors the length alone is changed.
        key: of shifts and brightness, which every image has of its own.

    Example:
        >>> near(jnp.full((3, 2, 2, 1), 0.5), jax.random.key(0)).shape
        (3, 2, 2, 1)
    """
    shift_key, light_key = jax.random.split(key)
    if images.ndim != 4:
        return images * (1 + jax.random.uniform(light_key, (len(images), 1), images.dtype, -BRIGHTER, BRIGHTER))
    begin = jax.random.randint(shift_key, (len(images), 2), 0, 3)
    bordered = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    moved = jax.vmap(lambda one, at: jax.lax.dynamic_slice(one, (*at, 0), images.shape[1:]))(bordered, begin)
    light = jax.random.uniform(light_key, (len(images), 1, 1, 1), images.dtype, -BRIGHTER, BRIGHTER)
    return (moved + light).clip(0, 1)


def query(release: Release, images: Inputs, key: PRNGKey, queries: int = 1, burst: bool = False) -> Observed:
    """Asks a client ``queries`` times about each image, ``CHUNK`` images at a time.

    Args:
        release: the client.
        images: (n, h, w, c), or vectors (n, d).
        key: every call to the client gets a key of its own; ``CHUNK`` images are sent by one device.
        queries: k.
        burst: whether it is asked about k near-duplicates of each image instead, see :func:`near`.

    Returns:
        (k, n, ...) features.

    Raises:
        ValueError: features whose first axis is not the images', or that are not floating point.

    Example:
        >>> query(as_release(lambda x: x), jnp.ones((3, 2, 2, 1)), jax.random.key(0), 2).shape
        (2, 3, 2, 2, 1)
    """
    return gathered(answers(release, images, key, queries, burst), len(images), axis=1)


def observed(release: Release | None, batch: Batch, key: PRNGKey, queries: int = 1, burst: bool = False) -> Observed:
    """:func:`query` about the images of a batch; what was recorded of them, once each, where there is no client to ask.

    Example:
        >>> recorded = Batch(jnp.zeros((1, 0)), jnp.zeros(1, int), {}, z=jnp.array([[5.0]]))
        >>> observed(None, recorded, jax.random.key(0)).tolist()
        [[[5.0]]]
    """
    if release is not None:
        return query(release, batch.image, key, queries, burst)
    if batch.z is None or queries != 1:
        raise ValueError(f"release=None: must be a client, to be asked {queries} times; once, recorded rows would do")
    return batch.z[None]


def answers(release: Release, images: Inputs, key: PRNGKey, queries: int, burst: bool = False) -> Iterator[Observed]:
    """The k releases of ``CHUNK`` images after the other."""
    at_once = min(queries, AT_ONCE)
    if queries > 1 and (release.varies or burst):
        # A callback or an exported program cannot be mapped over keys.
        try:
            jax.eval_shape(functools.partial(ask, queries=2, burst=burst), release, images[:1], key)
        except NotImplementedError:
            at_once = 1
    for index, start in enumerate(range(0, images.shape[0], CHUNK)):
        part, size = padded(images[start : start + CHUNK], 0)
        # Rounded up; the last call's surplus is cut off below.
        device = jax.random.fold_in(key, index)
        keys = jax.random.split(device, -(-queries // at_once))
        calls = (_ask_jitted(release, part, one, at_once, burst, device) for one in keys)
        yield jnp.concatenate([call[:, :size] for call in calls])[:queries]


def ask(
    release: Release,
    images: Inputs,
    key: PRNGKey,
    queries: int = 1,
    burst: bool = False,
    device: PRNGKey | None = None,
) -> Observed:
    """:func:`query` without chunks, to be called inside compiled code; ``device`` (else ``key``) is whose noise is memoised."""
    device = key if device is None else device

    def once(key: PRNGKey) -> Features:
        shown = near(images, jax.random.fold_in(key, 0)) if burst else images
        z = release(shown, device if release.memoised else key)
        if z is None:
            raise ValueError("release: gave None; must be floats, a row an image")
        return z

    if queries == 1:
        z = once(key)[None]
    elif burst or release.varies:
        # What does not depend on the noise, a network that chooses its scale say, is computed once for all keys.
        z = jax.vmap(once)(jax.random.split(key, queries))
    else:
        z = once(key)
        z = jnp.broadcast_to(z[None], (queries, *z.shape))
    if z.ndim < 3 or z.shape[1] != images.shape[0] or not jnp.issubdtype(z.dtype, jnp.floating):
        raise ValueError(
            f"release: gave {z.shape[1:]} of {z.dtype} for {images.shape[0]} images; must be floats, a row an image"
        )
    return z


_ask_jitted = jax.jit(ask, static_argnums=(3, 4))


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
    # Two passes: the mean square less the squared mean would lose small noise to rounding.
    zero, count = jnp.zeros_like(z[0]), z.shape[0]
    mean = jax.lax.scan(lambda total, one: (total + one, None), zero, z)[0] / count
    return mean, jax.lax.scan(lambda total, one: (total + jnp.square(one - mean), None), zero, z)[0] / count


@jax.jit
def summarise(z: Observed) -> Features:
    """What an attacker with a fixed input sees of k releases: the release itself, or four statistics of them on its last axis.

    Mean, deviation, least and largest value. Noise with bounds is read off its range, whose middle errs by the k-th part of
    them, where the mean errs by the root of k: at 64 uniform releases by 0.02 of their half-width against 0.07.

    Example:
        >>> summarise(jnp.array([[[1.0]], [[3.0]]])).tolist()
        [[2.0, 1.0, 1.0, 3.0]]
    """
    if z.shape[0] == 1:
        return z[0]
    mean, variance = moments(z)
    # One after the other, as moments are.
    (least, largest), _ = jax.lax.scan(
        lambda ends, one: ((jnp.minimum(ends[0], one), jnp.maximum(ends[1], one)), None), (z[0], z[0]), z
    )
    # How much noise an image gets is a signal itself (METHODS 5.6).
    return jnp.concatenate([mean, jnp.sqrt(variance), least, largest], axis=-1)


def gathered(parts: Iterable[Any], count: int, axis: int = 0) -> Any:
    """Chunks of a pytree beside each other.

    Written in place: all chunks at once, beside what becomes of them, would take the memory twice and leave it in pieces.

    Args:
        parts: the chunks.
        count: of all their rows together.
        axis: of the rows.

    Example:
        >>> gathered(iter([jnp.ones((2, 3)), jnp.zeros((1, 3))]), 3)[:, 0].tolist()
        [1.0, 1.0, 0.0]
    """
    whole, begin = None, 0
    for part in parts:
        if whole is None:
            whole = jax.tree.map(
                lambda leaf: jnp.zeros((*leaf.shape[:axis], count, *leaf.shape[axis + 1 :]), leaf.dtype), part
            )
        whole = _written(whole, part, begin, axis)
        begin += jax.tree.leaves(part)[0].shape[axis]
    return whole


@functools.partial(jax.jit, static_argnums=3, donate_argnums=0)
def _written(whole: Any, part: Any, begin: int, axis: int) -> Any:
    def one(into: Array, leaf: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(into, leaf, begin, axis)

    return jax.tree.map(one, whole, part)


def padded(x: Array, axis: int) -> tuple[Array, int]:
    """Repeats the last entries of ``axis`` up to ``CHUNK`` of them; returns the original count too."""
    size = x.shape[axis]
    index = jnp.minimum(jnp.arange(CHUNK), size - 1)
    return (x if size == CHUNK else jnp.take(x, index, axis=axis)), size


def predicted(predict: Callable[[Features], Logits], z: Features) -> np.ndarray:
    """The provider's logits (n, K), ``CHUNK`` rows at a time.

    Raises:
        ValueError: ``predict`` does not return (n, K) logits.
    """
    parts, predict = [], as_predictor(predict)
    for start in range(0, len(z), CHUNK):
        part, size = padded(z[start : start + CHUNK], 0)
        logits = _logits(predict, part)
        if logits.ndim != 2 or len(logits) != CHUNK:
            raise ValueError(f"predict: gave shape {logits.shape} for {CHUNK} images; must be (images, classes)")
        parts.append(np.asarray(logits)[:size])
    return np.concatenate(parts)


# Once, since jit knows a function by its identity: one made for every chunk would be compiled for every chunk.
_logits = jax.jit(lambda predict, z: predict(z))
