"""What every attack is made of: the contract with the audit, and the view of a client that its members share.

An *attack* is a family that competes for one target (the ink, the image); its *members* are single attackers (one
architecture, one learning rate). The audit fits every member on ``auxiliary``, chooses one on ``validation`` and
scores it once on ``test``.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ani_jax.attacks.library import Library, declares
from ani_jax.attacks.query import CHUNK, Observed, answers, padded, query, summarise
from ani_jax.types import Batch, Features, Knowledge, PRNGKey, Release, Source

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
        >>> from ani_jax.attacks.query import as_release
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
    sample_z = jnp.concatenate([summarise(z) for z in answers(release, sample.image, sample_key, queries)])
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
        part, size = padded(z[:, start : start + CHUNK], 1)
        parts.append(_on(attacker, part)[:size])
    return jnp.concatenate(parts)


@jax.jit
def _on(attacker: Any, z: Observed) -> Array:
    return attacker.on(summarise(z))
