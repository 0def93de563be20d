"""What every attack is made of: asking a client, standardising its answers, the contract with the audit.

An *attack* is a family that competes for one target (the ink, the image); its *members* are single attackers (one
architecture, one learning rate). The audit fits every member on ``auxiliary``, chooses one on ``validation`` and
scores it once on ``test``.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ani_jax.attacks.library import CHUNK, Library, declares, moments
from ani_jax.attacks.library import Observed as Observed
from ani_jax.attacks.library import flat as flat
from ani_jax.types import Batch, Features, Images, Knowledge, PRNGKey, Release, Source

AT_ONCE = 16
"""Releases of one image that are asked for in one call."""
SAMPLE = 2048
"""Auxiliary images that closed forms and the standardisation are fitted on."""
REDRAWS = 4
"""Times as many where the client is stochastic and asked once."""

OnEvent = Callable[[Mapping[str, Any]], None]


class Attacker(Protocol):
    """A fitted attacker: a pytree callable, pure."""

    def __call__(self, key: PRNGKey, z: Observed) -> Array:
        """Guesses from k releases of n images: class scores (n, K), or images (n, h, w, c) in [0, 1]."""
        ...


class Fitted(NamedTuple):
    """What fitting a member gave.

    Attributes:
        attacker: the attacker; after a failure the last one that was finite, None if there never was one.
        failed: why fitting ended early, None if it did not.
        note: what a reader must know of the client, found while fitting; "" for nothing.
    """

    attacker: Attacker | None
    failed: str | None = None
    note: str = ""


class Member(Protocol):
    """One attacker before it is fitted: static, hashable."""

    @property
    def name(self) -> str:
        """What distinguishes it within its attack."""
        ...

    @property
    def steps(self) -> int:
        """Optimisation steps that it is given, 0 for a closed form."""
        ...

    def fit(
        self, key: PRNGKey, view: "View", on_event: OnEvent | None = None, earlier: Sequence[Fitted] = ()
    ) -> Fitted:
        """Learns from what the threat model grants, and may build on what the members before it found."""
        ...


@dataclasses.dataclass(frozen=True)
class Attack:
    """A family of members that compete for one target.

    Attributes:
        name: family, e.g. "attribute".
        target: "image", or the attribute's name.
        members: who competes, in order; the first of equals is chosen.
        queries: k, releases of the same image that every member sees.
        mismatched: whether the members' images come from another distribution (METHODS 5.7).
        images: scored at most, and chosen on at most, where every image costs an optimisation of its own; 0 for all.
            Retrieval is then among these.
    """

    name: str
    target: str
    members: tuple[Member, ...]
    queries: int = 1
    mismatched: bool = False
    images: int = 0


@dataclasses.dataclass(frozen=True)
class _Call:
    """``apply`` of a wrapped callable: equal for equal functions, so attacks on them compile once."""

    function: Callable[..., Features]
    keyed: bool

    def __call__(self, variables: Any, x: Images, key: PRNGKey) -> Features:
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
    keyed = _takes_key(function)
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


def _takes_key(function: Callable[..., Any]) -> bool:
    parameters = inspect.signature(function).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    if len(required) in (1, 2) and len(positional) >= 1:
        return len(required) == 2 or (len(positional) > 1 and positional[1].name == "key")
    raise ValueError(f"release={function!r}: takes {len(required)} arguments; must take images, or images and a key")


def query(release: Release, images: Images, key: PRNGKey, queries: int = 1) -> Observed:
    """Asks a client ``queries`` times about each image, ``CHUNK`` images at a time.

    Args:
        release: the client.
        images: (n, h, w, c).
        key: every call to the client gets a key of its own.
        queries: k.

    Returns:
        (k, n, ...) features.

    Raises:
        ValueError: features whose first axis is not the images', or that are not floating point.

    Example:
        >>> query(as_release(lambda x: x), jnp.ones((3, 2, 2, 1)), jax.random.key(0), 2).shape
        (2, 3, 2, 2, 1)
    """
    return jnp.concatenate(list(_answers(release, images, key, queries)), axis=1)


def _answers(release: Release, images: Images, key: PRNGKey, queries: int) -> Iterator[Observed]:
    """The k releases of ``CHUNK`` images after the other."""
    one_by_one = queries > 1 and release.stochastic and not _maps(release, images[:1], key)
    at_once = 1 if one_by_one else min(queries, AT_ONCE)
    for index, start in enumerate(range(0, images.shape[0], CHUNK)):
        part, size = _padded(images[start : start + CHUNK], 0)
        keys = jax.random.split(jax.random.fold_in(key, index), -(-queries // at_once))
        yield jnp.concatenate([_ask_jitted(release, part, one, at_once)[:, :size] for one in keys])[:queries]


def _maps(release: Release, images: Images, key: PRNGKey) -> bool:
    """Whether a client can be mapped over keys; a callback or an exported program cannot."""
    try:
        jax.eval_shape(functools.partial(_ask_often, queries=2), release, images, key)
    except NotImplementedError:
        return False
    return True


def ask(release: Release, images: Images, key: PRNGKey, queries: int = 1) -> Observed:
    """:func:`query` without chunks, to be called inside compiled code."""
    z = release(images, key)[None] if queries == 1 else _ask_often(release, images, key, queries)
    if z.ndim < 3 or z.shape[1] != images.shape[0] or not jnp.issubdtype(z.dtype, jnp.floating):
        raise ValueError(
            f"release: gave {z.shape[1:]} of {z.dtype} for {images.shape[0]} images; must be floats, a row an image"
        )
    return z


def _ask_often(release: Release, images: Images, key: PRNGKey, queries: int) -> Observed:
    if not release.stochastic:
        z = release(images, key)
        return jnp.broadcast_to(z[None], (queries, *z.shape))
    # What does not depend on the noise, a network that chooses its scale say, is computed once for all keys.
    return jax.vmap(release, (None, 0))(images, jax.random.split(key, queries))


_ask_jitted = jax.jit(ask, static_argnums=3)


@jax.jit
def summarise(z: Observed) -> Features:
    """What an attacker with a fixed input sees of k releases: the release itself, or mean and stddev beside each other.

    Example:
        >>> summarise(jnp.array([[[1.0]], [[3.0]]])).tolist()
        [[2.0, 1.0]]
    """
    if z.shape[0] == 1:
        return z[0]
    mean, variance = moments(z)
    return jnp.concatenate([mean, jnp.sqrt(variance)], axis=-1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Whitener:
    """Standardises features with fixed statistics, so that shifting or rescaling what is sent buys nothing.

    Attributes:
        mean: of each feature.
        rate: 1 / stddev of each feature, 0 for a feature that never changes.
    """

    mean: Array
    rate: Array

    @classmethod
    def of(cls, z: Features) -> "Whitener":
        """Statistics of (n, ...) features.

        Example:
            >>> Whitener.of(jnp.array([[1.0, 7.0], [3.0, 7.0]]))(jnp.array([[3.0, 7.0]])).tolist()
            [[1.0, 0.0]]
        """
        mean, stddev = z.mean(0), z.std(0)
        # A constant is not exactly constant after rounding: below a millionth of its size nothing is left of a signal.
        alive = stddev > 1e-6 * jnp.abs(mean)
        return cls(mean, jnp.where(alive, 1 / jnp.where(alive, stddev, 1), 0))

    def __call__(self, z: Features) -> Features:
        """Standardised features."""
        return (z - self.mean[None]) * self.rate[None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class View:
    """All that an attacker has: its grant, its own images, and what the client answered for some of them.

    Members of every attack share one view of a client, so the client is asked once for what does not change.

    Attributes:
        knowledge: the client (and the provider's network, where granted).
        auxiliary: images to learn from, drawn anew at will.
        validation: images to select by.
        sample: fixed auxiliary images, for closed forms.
        sample_z: summarised features of ``sample``, not standardised.
        held: k releases of the validation images.
        whitener: standardisation learnt on ``sample_z``.
        library: the declared noise of ``sample``, None where the client declares none.
        held_density: how likely each image of the library makes the releases of each validation image, likewise.
        queries: k (static).
    """

    knowledge: Knowledge
    auxiliary: Source
    validation: Batch
    sample: Batch
    sample_z: Features
    held: Observed
    whitener: Whitener
    library: Library | None
    held_density: Float[Array, "b n"] | None
    queries: int = dataclasses.field(metadata={"static": True})

    @property
    def held_z(self) -> Features:
        """Summarised features of ``validation``, not standardised."""
        return summarise(self.held)

    @property
    def release(self) -> Release:
        """The client.

        Raises:
            ValueError: the threat model does not grant it.
        """
        return _granted(self.knowledge)


def prepare(
    key: PRNGKey, knowledge: Knowledge, auxiliary: Source, validation: Batch, *, count: int = SAMPLE, queries: int = 1
) -> View:
    """Asks the client about ``count`` auxiliary images and the validation images.

    Args:
        key: of the drawing and of the client's noise.
        knowledge: must grant the release.
        auxiliary: the attacker's images.
        validation: held-out images.
        count: size of the fixed sample; of a stochastic client ``REDRAWS / queries`` times as many are asked about, since
            independent noise is only averaged over by seeing more of it.
        queries: k.

    Raises:
        ValueError: the threat model does not grant the release.

    Example:
        >>> from ani_jax.types import fixed
        >>> batch = Batch(jnp.ones((3, 2, 2, 1)), jnp.arange(3), {})
        >>> knowledge = Knowledge(as_release(lambda x: x))
        >>> prepare(jax.random.key(0), knowledge, Source(batch, fixed), batch, count=5).sample_z.shape
        (5, 2, 2, 1)
    """
    draw_key, sample_key, held_key = jax.random.split(key, 3)
    release = _granted(knowledge)
    count *= max(1, REDRAWS // queries) if release.stochastic else 1
    sample = _draw(auxiliary, draw_key, count)
    # Summarised chunk by chunk: 64 releases of every image at once would take gigabytes.
    sample_z = jnp.concatenate([summarise(z) for z in _answers(release, sample.image, sample_key, queries)])
    held = query(release, validation.image, held_key, queries)
    library = Library.of(release, sample.image) if declares(release) else None
    return View(
        knowledge=knowledge,
        auxiliary=auxiliary,
        validation=validation,
        sample=sample,
        sample_z=sample_z,
        held=held,
        whitener=Whitener.of(sample_z),
        library=library,
        held_density=None if library is None else library.density(held),
        queries=queries,
    )


def _granted(knowledge: Knowledge) -> Release:
    if knowledge.release is None:
        raise ValueError("knowledge.release is None: this attack needs to query the client")
    return knowledge.release


@functools.partial(jax.jit, static_argnums=2)
def _draw(source: Source, key: PRNGKey, count: int) -> Batch:
    return source.draw(key, count)


def in_chunks(attacker: Any, z: Observed) -> Array:
    """Applies ``attacker.on(summarised z)`` to ``CHUNK`` images at a time, in one compiled shape."""
    parts = []
    for start in range(0, z.shape[1], CHUNK):
        part, size = _padded(z[:, start : start + CHUNK], 1)
        parts.append(_on(attacker, part)[:size])
    return jnp.concatenate(parts)


@jax.jit
def _on(attacker: Any, z: Observed) -> Array:
    return attacker.on(summarise(z))


def _padded(x: Array, axis: int) -> tuple[Array, int]:
    """Repeats the last entries of ``axis`` up to ``CHUNK`` of them; returns the original count too."""
    size = x.shape[axis]
    index = jnp.minimum(jnp.arange(CHUNK), size - 1)
    return (x if size == CHUNK else jnp.take(x, index, axis=axis)), size
