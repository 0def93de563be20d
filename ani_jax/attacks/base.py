"""What every attack is made of: the contract with the audit, and what attackers see of a client.

An attack is one way to fit an attacker to one target. It is a frozen dataclass in a file of its own that registers itself, with
its settings for every level of an audit; attacks of one *family* compete: the audit fits all of them on ``auxiliary``, chooses
one on ``validation`` and scores it once on ``test``.
"""

import contextlib
import ctypes
import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol, Self, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ani_jax.attacks.density import Library, Pairs, declares, gaussian, library_of
from ani_jax.attacks.query import CHUNK, Observed, answers, flat, gathered, observed, padded, summarise
from ani_jax.records import BURST, Look
from ani_jax.targets.base import Target
from ani_jax.types import Batch, Features, Knowledge, PRNGKey, Release, Source

PATIENCE = 2
"""Penalties in a row that may do worse than the best before a path of them ends: behind it fits only get worse. [ours]"""
PART = 4096
"""Rows in double precision at once."""
SAMPLE = 2048
"""Auxiliary rows where no level says how many."""
LIBRARY = 16_384
"""Images of the sample at most whose declared noise an attacker weighs, where no level says how many."""

OnEvent = Callable[[Mapping[str, Any]], None]


@runtime_checkable
class Attacker(Protocol):
    """A fitted attacker: a pytree callable, pure."""

    def __call__(self, key: PRNGKey, z: Observed) -> Array:
        """Guesses from k releases of n images: class scores (n, K), or images (n, h, w, c) in [0, 1]."""
        ...


class Fitted(NamedTuple):
    """What fitting gave.

    Attributes:
        attacker: the attacker; after a failure the last one that was finite, None if there never was one.
        failed: why fitting ended early, None if it did not.
        note: what a reader must know of the client, found while fitting; "" for nothing.
        curves: of what is trained in stages, for each of its target's parts.
        ended: why it was trained no longer, "" for what is not trained in stages.
        last: where more training would go on; None where nothing would.
    """

    attacker: Any
    failed: str | None = None
    note: str = ""
    curves: tuple[tuple[Look, ...], ...] = ()
    ended: str = ""
    last: Any = None


@dataclasses.dataclass(frozen=True)
class Level:
    """How much an audit may compute: rows, releases and, in every attack's own file, steps.

    Never seconds: what an audit finds must not depend on how fast or busy a machine is.

    Attributes:
        name: of the level.
        sample: auxiliary rows that attackers learn from, each drawn anew.
        queries: how often a stochastic client is asked about the same image.
        bursts: how many near-duplicates of each image it is asked about, which real devices send: noise that is the same
            whenever an image is the same does not average out over repeats, and does over these.
        insistent: whether a client without noise is asked about bursts too.
        often: rows where each is asked about several times, or is a burst, which takes that much longer; 0 for ``sample``.
        library: images of the sample at most whose declared noise an attacker weighs, however often the client is asked.
        test: images that are scored at most; of a larger split a seeded sample, the same for every client.
        validation: likewise, images that attackers are chosen on.
        repeated: as many of both at most where each is asked about several times, which takes that much more memory.
        plants: whether labels of known strength are planted, which the audit must find.
        base: of a level of your own, the one of ``LEVELS`` whose settings attacks take and whose critics the criterion; ""
            for its own name.
        settings: name of a registered attack's class -> settings on top of those; None leaves the attack out.
    """

    name: str
    sample: int
    queries: tuple[int, ...]
    often: int = 0
    library: int = LIBRARY
    bursts: tuple[int, ...] = ()
    insistent: bool = False
    test: int = 2048
    validation: int = 1024
    repeated: int = 1024
    plants: bool = True
    base: str = ""
    settings: Mapping[str, Mapping[str, Any] | None] = dataclasses.field(default_factory=dict)

    def rows(self, queries: int) -> int:
        """Auxiliary rows that attackers learn from.

        Example:
            >>> LEVELS["standard"].rows(1), LEVELS["standard"].rows(64)
            (40000, 10240)
        """
        return self.sample if queries == 1 else self.often or self.sample


LEVELS = MappingProxyType(
    {
        level.name: level
        for level in (
            Level("preview", sample=512, queries=(1, 4), plants=False),
            Level("standard", sample=40_000, queries=(1, 64), often=10_240, bursts=(16,), test=6144, validation=3072),
            Level(
                "thorough",
                sample=80_000,
                queries=(1, 4, 16, 64),
                often=20_480,
                library=32_768,
                bursts=(16,),
                insistent=True,
                test=6144,
                validation=3072,
            ),
        )
    }
)
"""By name. "preview" shows that the plumbing works and is no evidence; what is published is "standard" at least."""
RETIRED = MappingProxyType({"smoke": "preview", "quick": "preview"})
"""Levels of before, and what took their place."""


def level_named(name: str, argument: str = "level") -> Level:
    """The level of that name.

    Args:
        name: as in ``LEVELS``.
        argument: what the caller calls it.

    Raises:
        ValueError: there is none; a name of before is answered with its successor.

    Example:
        >>> level_named("quick", "audit")
        Traceback (most recent call last):
        ValueError: audit=quick: is called "preview" now, and no evidence; must be one of preview, standard, thorough
    """
    if name not in LEVELS:
        now = f'is called "{RETIRED[name]}" now, and no evidence; ' if name in RETIRED else ""
        raise ValueError(f"{argument}={name}: {now}must be one of {', '.join(LEVELS)}")
    return LEVELS[name]


EVERYWHERE = MappingProxyType({name: {} for name in LEVELS})
"""Settings of an attack that takes part at every level, always the same."""


@dataclasses.dataclass(frozen=True)
class Attack:
    """One attacker before it is fitted: static and hashable, its fields are its settings.

    A subclass gives ``family``, ``levels`` and :meth:`fit`, and whatever else differs from these defaults.

    Attributes:
        target: what it wants.
        steps: optimisation steps that it is given, 0 for a closed form.
        images: it is scored on at most so many, and chosen on at most so many, where each costs an optimisation of its own; 0
            for all. Retrieval is then among these.
    """

    target: Target
    steps: int = 0
    images: int = 0

    family: ClassVar[str]
    """Whom it competes with; with the target and the number of releases it names a result."""
    levels: ClassVar[Mapping[str, Mapping[str, Any]]]
    """Name of a level -> settings by name; it sits out levels that are missing."""
    bursts: ClassVar[bool] = False
    """Query policy: whether it also attacks bursts; not what takes all releases for those of one image."""
    last: ClassVar[bool] = False
    """Whether it builds on what all others of its family found."""
    owns: ClassVar[Callable[[Source], Source] | None] = None
    """What the attacker's own images are, given ``auxiliary``; None for just those."""

    @property
    def name(self) -> str:
        """What distinguishes it within its family; seeds its key."""
        return type(self).__name__.lower()

    @property
    def caveat(self) -> str:
        """What a reader must know of these settings, "" for nothing."""
        return ""

    @classmethod
    def able(cls, knowledge: Knowledge) -> bool:
        """Whether the threat model grants what it needs; images of its own are nothing without a client to ask."""
        return cls.owns is None or knowledge.release is not None

    @classmethod
    def at(cls, target: Target, level: Level) -> tuple[Self, ...]:
        """The attackers of this kind that compete at a level; none where it sits out."""
        own = cls.levels.get(level.base or level.name)
        # A class that the settings name attacks even where its own levels would have it sit out.
        more = level.settings.get(cls.__name__, None if own is None else {})
        return () if more is None else (cls(target, **{**(own or {}), **more}),)

    def repeated(self) -> Self | None:
        """Query policy: as what it attacks several releases of each image; None where it sits out."""
        return self

    def fit(self, context: "Context") -> Fitted:
        """Learns from what the threat model grants."""
        raise NotImplementedError


K = TypeVar("K", bound=type[Attack])
ATTACKS: dict[type[Target], list[type[Attack]]] = {}
"""Kind of target -> every attack on it."""


def register(kind: type[Target]) -> Callable[[K], K]:
    """Makes an attack known; to be written above its class, as ``@register(Image)``."""

    def add(attack: K) -> K:
        ATTACKS.setdefault(kind, []).append(attack)
        return attack

    return add


@dataclasses.dataclass(frozen=True)
class Family:
    """Attacks that compete for one target, each seeing as many releases of every image.

    Attributes:
        name: of the family.
        target: what they want.
        attacks: who competes, in order; the first of equals is chosen.
        queries: k.
        burst: whether these are near-duplicates of each image.
    """

    name: str
    target: Target
    attacks: tuple[Attack, ...]
    queries: int = 1
    burst: bool = False

    @property
    def title(self) -> str:
        """Name of its result: "attribute ink", "decoder image k=4", "attribute ink burst=16"."""
        # Also the seed of every attacker's key, by crc32: rewording it changes every number of every record.
        return f"{self.name} {self.target.name}{self.often}"

    @property
    def often(self) -> str:
        """How often it asks, as its title says it."""
        return "" if self.queries == 1 else f" {'burst' if self.burst else 'k'}={self.queries}"

    @property
    def asks(self) -> str:
        """What it asks of which images; families of which this is the same are answered alike."""
        return f"{self.often}{self.name if self.owns else ''}"

    @property
    def recorded(self) -> str:
        """Its name in records and reports, where it stands beside the number of releases."""
        return f"{self.name}{BURST if self.burst else ''}"

    @property
    def owns(self) -> Callable[[Source], Source] | None:
        """What its attackers' own images are, see :class:`Attack`."""
        # All attacks of a family must own the same images: they are asked about once.
        return self.attacks[0].owns if self.attacks else None


def answered_alike(families: Iterable[Family]) -> tuple[tuple[Family, ...], ...]:
    """Families in groups that ask the same of the same images, those of the first one first."""
    groups: dict[str, list[Family]] = {}
    for family in families:
        groups.setdefault(family.asks, []).append(family)
    return tuple(map(tuple, groups.values()))


def families(targets: Sequence[Target], level: Level, knowledge: Knowledge) -> tuple[Family, ...]:
    """Every registered attack on every target, by family; a stochastic client is asked as often as the level says.

    Args:
        targets: what is wanted.
        level: how much may be computed.
        knowledge: what the threat model grants.

    Raises:
        ValueError: a level whose ``base`` is no level, or whose ``settings`` name no registered attack.

    Example:
        >>> from ani_jax.targets.attribute import Attribute
        >>> [found] = families((Attribute("ink", 4),), LEVELS["preview"], Knowledge(None))
        >>> found.title, [attack.name for attack in found.attacks]
        ('attribute ink', ['probe', 'discriminant', 'perceptron, standardised'])
    """
    # Asked here, since a level is made before attacks register; a misspelt name would quietly change who attacks.
    if level.base not in ("", *LEVELS):
        raise ValueError(f"level.base={level.base}: must be one of {', '.join(LEVELS)}")
    known = {kind.__name__ for kinds in ATTACKS.values() for kind in kinds}
    for name in level.settings:
        if name not in known:
            raise ValueError(f"level.settings={name}: must be one of {', '.join(sorted(known))}")
    release = knowledge.release
    bursts = level.bursts if release is not None and (release.stochastic or level.insistent) else ()
    found: list[Family] = []
    for target in targets:
        rivals: dict[str, list[Attack]] = {}
        for kind in ATTACKS.get(type(target), ()):
            if kind.able(knowledge):
                rivals.setdefault(kind.family, []).extend(kind.at(target, level))
        # By name: a new file must not change the order of a record.
        for name, attacks in sorted(rivals.items()):
            # Closed forms first: networks build on what they find.
            ordered = sorted(attacks, key=lambda attack: (attack.last, attack.steps > 0))
            # Without noise, or with what it remembers, a client that is asked again says the same again.
            for queries in level.queries if release is not None and release.varies else (1,):
                able = tuple(ordered) if queries == 1 else _repeated(ordered)
                found += [Family(name, target, able, queries)] if able else []
            able = _repeated(attack for attack in ordered if attack.bursts)
            found += [Family(name, target, able, queries, burst=True) for queries in bursts if able]
    return tuple(found)


def _repeated(attacks: Iterable[Attack]) -> tuple[Attack, ...]:
    return tuple(one for attack in attacks if (one := attack.repeated()) is not None)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Standardiser:
    """Standardises features with fixed statistics, so that shifting or rescaling what is sent buys nothing.

    Attributes:
        mean: of each feature.
        rate: 1 / stddev of each feature, 0 for a feature that never changes.
    """

    mean: Array
    rate: Array

    @classmethod
    def of(cls, z: Features) -> "Standardiser":
        """Statistics of (n, ...) features.

        Example:
            >>> Standardiser.of(jnp.array([[1.0, 7.0], [3.0, 7.0]]))(jnp.array([[3.0, 7.0]])).tolist()
            [[1.0, 0.0]]
        """
        mean, stddev = z.mean(0), z.std(0)
        # A constant is not exactly constant after rounding: below a millionth of its size nothing is left of a signal.
        alive = stddev > 1e-6 * jnp.abs(mean)
        return cls(mean, jnp.where(alive, 1 / jnp.where(alive, stddev, 1), 0))

    def __call__(self, z: Features) -> Features:
        """Standardised features."""
        return (z - self.mean[None]) * self.rate[None]

    def doubled(self, z: Features, begin: int = 0, end: int | None = None) -> Iterator[tuple[slice, Any]]:
        """The same of some rows, flat and in double precision, each part with its place among them: all would be gigabytes.

        Example:
            >>> z = jnp.array([[1.0], [2.0], [3.0]])
            >>> [(part.start, rows.tolist()) for part, rows in Standardiser(z[0], z[0]).doubled(z, 1)]
            [(0, [[1.0], [2.0]])]
        """
        end = len(z) if end is None else end
        for start in range(begin, end, PART):
            stop = min(start + PART, end)
            yield slice(start - begin, stop - begin), np.asarray(flat(self(z[start:stop])), np.float64)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Asked:
    """All that an attacker has: its grant, its own images, and what the client answered for some of them.

    Attackers of every family share one of these for each number of releases, so the client is asked once.

    Attributes:
        knowledge: the client (and the provider's network, where granted).
        auxiliary: images to learn from, drawn anew at will.
        validation: images to select by.
        sample: fixed auxiliary images, for closed forms.
        sample_z: summarised features of ``sample``, not standardised.
        held: k releases of the validation images.
        standardise: learnt on ``sample_z``.
        owned: the images whose declared noise is weighed, those of ``sample`` first; None where the client declares none.
        library: that noise, of the first of them at least; likewise.
        held_density: how likely each image of the library makes the releases of each validation image, likewise.
        queries: k (static).
        attributes: name and number of classes of all that may be inferred (static).
        plants: where these are planted (see :mod:`ani_jax.evaluation.controls`), a key and features -> their labels; else None.
    """

    knowledge: Knowledge
    auxiliary: Source
    validation: Batch
    sample: Batch
    sample_z: Features
    held: Observed
    standardise: Standardiser
    owned: Batch | None
    library: Library | Pairs | None
    held_density: Float[Array, "b n"] | None
    queries: int = dataclasses.field(metadata={"static": True})
    attributes: tuple[tuple[str, int], ...] = dataclasses.field(default=(), metadata={"static": True})
    plants: Any = None

    @property
    def held_z(self) -> Features:
        """Summarised features of ``validation``, not standardised."""
        return summarise(self.held)

    @property
    def fresh(self) -> bool:
        """Whether the client can be asked at every step, and then says something else each time."""
        return self.knowledge.release is not None and self.knowledge.release.stochastic

    @property
    def release(self) -> Release:
        """The client.

        Raises:
            ValueError: the threat model does not grant it.
        """
        if self.knowledge.release is None:
            raise ValueError("knowledge.release is None: this attack needs to query the client")
        return self.knowledge.release


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """What an attack is fitted with.

    Attributes:
        key: of everything random; depends on the attack's name alone, so that adding one leaves the others as they were.
        asked: what the client answered.
        fitted: another attack on the same answers -> what it found; fitted once, however many ask.
        emit: receives "step" and "loss" of a long fit.
        rivals: who else competes in its family.
    """

    key: PRNGKey
    asked: Asked
    fitted: Callable[[Attack], Fitted]
    emit: OnEvent | None = None
    rivals: tuple[Attack, ...] = ()

    def best(self, attacks: Sequence[Attack]) -> Any:
        """The strongest attacker among some, by their target's selection on ``validation``; None where there is none."""
        found = [(self.loss(attack), index) for index, attack in enumerate(attacks)]
        # Not a number is less than nothing, so it is left out rather than compared.
        able = [pair for pair in found if pair[0] < jnp.inf]
        return self.fitted(attacks[min(able)[1]]).attacker if able else None

    def needed(self, attack: Attack) -> Any:
        """The attacker of an attack that another cannot do without.

        Raises:
            ValueError: it has none.
        """
        found = self.fitted(attack)
        if found.attacker is None:
            raise ValueError(found.failed)
        return found.attacker

    def loss(self, attack: Attack) -> float:
        """What attackers of its target are selected by, infinite for one that failed."""
        found, batch = self.fitted(attack), self.asked.validation
        if found.attacker is None or found.failed is not None:
            return float("inf")
        guess = found.attacker(self.key, self.asked.held)
        value = float(attack.target.selection(guess, batch, attack.target.aim(batch)).mean())
        # Not a number compares false with everything: the least of a list would then hang on its order.
        return value if value == value else float("inf")


class Fits:
    """Fits attacks on what one client answered, each once: what one builds on another has found already.

    Args:
        asked: the answers.
        key: of each attack.
        emit: receives the events of each, see ``Context.emit``.
        whole: fits what asks for no fewer images, where these answers are some of others; None where they are all.
    """

    def __init__(
        self,
        asked: Asked,
        key: Callable[[Attack], PRNGKey],
        emit: Callable[[Attack, Mapping[str, Any]], None] = lambda attack, event: None,
        whole: "Fits | None" = None,
    ):
        self.asked, self.key, self.emit, self.whole = asked, key, emit, whole
        self.done: dict[Attack, Fitted] = {}

    def fewer(self, asked: Asked) -> "Fits":
        """The same for some of the answers: what is fitted on all of them, such as a decoder to start from, need not be again."""
        return Fits(asked, self.key, self.emit, self)

    def __call__(self, attack: Attack, rivals: Sequence[Attack] = ()) -> Fitted:
        """What the attack found; whatever a stranger's client raises inside it becomes a result that says so."""
        if self.whole is not None and not attack.images:
            return self.whole(attack, rivals)
        if attack not in self.done:
            others = tuple(one for one in rivals if one is not attack)
            context = Context(self.key(attack), self.asked, self, functools.partial(self.emit, attack), others)
            try:
                self.done[attack] = attack.fit(context)
            # Exception, not BaseException: the user may still stop an audit.
            except Exception as error:
                self.done[attack] = Fitted(None, reason(error))
            # Free pages go back to the kernel, where the C library can: behind a dozen networks they were six gigabytes.
            with contextlib.suppress(OSError, AttributeError, TypeError):
                ctypes.CDLL(None).malloc_trim(0)
        return self.done[attack]


def reason(error: Exception) -> str:
    r"""One line about an exception, without what differs from process to process.

    Example:
        >>> reason(ValueError("bad <object at 0x7f3a>\nand more"))
        'ValueError: bad <object at 0x>'
    """
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {re.sub(r'0x[0-9a-f]+', '0x', lines[0])[:200]}".removesuffix(": ")


def prepare(
    key: PRNGKey,
    knowledge: Knowledge,
    auxiliary: Source,
    validation: Batch,
    *,
    count: int = SAMPLE,
    queries: int = 1,
    burst: bool = False,
    library: int = LIBRARY,
    attributes: tuple[tuple[str, int], ...] = (),
    like: "Asked | None" = None,
) -> Asked:
    """Asks the client about ``count`` auxiliary images and the validation images.

    Where there is none to ask, what was recorded of at most so many rows stands for its answers.

    Args:
        key: of the drawing and of the client's noise.
        knowledge: what the threat model grants.
        auxiliary: the attacker's images.
        validation: held-out images.
        count: size of the fixed sample.
        queries: k.
        burst: whether these are near-duplicates of each image, whose density nobody declares.
        library: images of the sample at most whose declared noise is weighed.
        attributes: see :class:`Asked`.
        like: what the same attacker was answered before, of at least ``count`` images: they are asked about again, and what the
            same client declared need not be asked for twice. None draws images.

    Raises:
        ValueError: neither a client nor rows of what it sent.

    Example:
        >>> from ani_jax.attacks.query import as_release
        >>> from ani_jax.types import fixed
        >>> batch = Batch(jnp.ones((3, 2, 2, 1)), jnp.arange(3), {})
        >>> knowledge = Knowledge(as_release(lambda x: x))
        >>> prepare(jax.random.key(0), knowledge, Source(batch, fixed), batch, count=5).sample_z.shape
        (5, 2, 2, 1)
    """
    draw_key, sample_key, held_key = jax.random.split(key, 3)
    release = knowledge.release
    # A row that is recorded once says no more when it is seen twice.
    count = count if release is not None else min(count, auxiliary.size)
    owned = gathered(dealt(auxiliary, draw_key, count), count) if like is None else like.sample
    sample = _first(owned, count)
    # Summarised chunk by chunk: 64 releases of every image at once would take gigabytes.
    if release is None:
        sample_z = observed(release, sample, sample_key, queries, burst)[0]
    else:
        sent = answers(release, sample.image, sample_key, queries, burst)
        sample_z = gathered(map(summarise, sent), len(sample.image))
    held, weighed = observed(release, validation, held_key, queries, burst), None
    if release is not None and declares(release) and not burst:
        owned = _first(owned, library)
        # No release of them is needed, so there may be more of them than a network is shown several releases of.
        if like is not None and like.knowledge is knowledge and gaussian(release):
            weighed = like.library
        else:
            weighed = library_of(release, owned.image, jax.random.fold_in(draw_key, 1), queries)
    return Asked(
        knowledge=knowledge,
        auxiliary=auxiliary,
        validation=validation,
        sample=sample,
        sample_z=sample_z,
        held=held,
        standardise=Standardiser.of(sample_z),
        owned=None if weighed is None else owned,
        library=weighed,
        held_density=None if weighed is None else jnp.asarray(weighed.density(held)),
        queries=queries,
        attributes=attributes,
    )


def _first(batch: Batch, count: int) -> Batch:
    return batch if len(batch.label) <= count else jax.tree.map(lambda values: values[:count], batch)


def dealt(source: Source, key: PRNGKey, count: int) -> Iterator[Batch]:
    """Rows that show every original equally often, shuffled, each drawn anew; ``CHUNK`` at a time.

    Args:
        source: of the originals.
        key: of order and drawing.
        count: rows of all chunks together.
    """
    deal_key, draw_key = jax.random.split(key)
    # Whole decks of the originals, of which the last may be cut short.
    decks = jax.random.split(deal_key, -(-count // source.size))
    order = jnp.concatenate([jax.random.permutation(deck, source.size) for deck in decks])[:count]
    for number, start in enumerate(range(0, count, CHUNK)):
        index, size = padded(order[start : start + CHUNK], 0)
        drawn = _batch(source, jax.random.fold_in(draw_key, number), index)
        yield jax.tree.map(lambda values, size=size: values[:size], drawn)


_batch = jax.jit(Source.batch)


def in_chunks(attacker: Any, z: Observed) -> Array:
    """Applies ``attacker.on(summarised z)`` to ``CHUNK`` images at a time, in one compiled shape."""
    parts = []
    for start in range(0, z.shape[1], CHUNK):
        part, size = padded(z[:, start : start + CHUNK], 1)
        parts.append(_on(attacker, part)[:size])
    return jnp.concatenate(parts)


# Attackers are pytrees: those of one architecture share one program, whatever their weights.
@jax.jit
def _on(attacker: Any, z: Observed) -> Array:
    return attacker.on(summarise(z))
