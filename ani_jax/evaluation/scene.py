"""What the attacks of one audit share: the client's answers, asked for once, and what guesses are scored against."""

import dataclasses
import gc
import hashlib
import itertools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from ani_jax.attacks.base import Asked, Family, Fits, Level, OnEvent, prepare
from ani_jax.attacks.query import Observed, as_release, observed
from ani_jax.evaluation.references import answered, recorded, send_nothing, send_raw
from ani_jax.records import AttackResult, Evidence, Picture, to_json
from ani_jax.targets.base import Answers, Target
from ani_jax.targets.metrics import Bootstrap
from ani_jax.types import Batch, Data, Features, Knowledge, Logits, PRNGKey, Release

GALLERY = 8
"""Test images that the evidence shows."""
RAW, NOTHING, RANDOM = "raw input", "nothing", "random encoder"
"""Clients that are attacked beside the one in question: what sends all, what sends nothing, its own architecture untrained."""


@dataclasses.dataclass(frozen=True)
class Ceiling:
    """What attackers find where another client is asked.

    Attributes:
        client: its name.
        target: name of what was sought.
        strength: of the strongest on test, None where none ran through.
        attacker: which one, chosen on ``validation``.
    """

    client: str
    target: str
    strength: float | None
    attacker: str


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """One client before its attackers.

    Attributes:
        data: the splits, sampled down to what the level scores; ``test`` never reaches an attacker.
        level: what attackers may compute.
        seed: of everything random.
        key: made from it.
        reference: the evidence of the undefended split, where there is one.
        random: the client's architecture with fresh random weights, where the caller gave it.
        emit: receives events.
        bootstrap: of the test images.
        asked: what attackers see of the client, asked once an image.
        test_z: one release of each test image.
        answers: the provider's, None without its network.
        shown: indices of the test images in galleries.
        rows: which of the audit's test images these are.
        order: the order in which fewer of them are taken: those of the galleries first.
        ceilings: what the same attackers find of other clients.
        others: what else was asked for, by name; filled on demand.
        scenes: this one with fewer images, by their number; likewise.
        fits: what attackers found, by who was asked; likewise: what several families build on is fitted once.
    """

    data: Data
    level: Level
    seed: int
    key: PRNGKey
    reference: Evidence | None
    random: Release | None
    emit: OnEvent
    bootstrap: Bootstrap
    asked: Asked
    test_z: Observed
    answers: Answers | None
    shown: np.ndarray
    rows: np.ndarray
    order: np.ndarray
    ceilings: "tuple[Ceiling, ...]" = ()
    others: dict[str, tuple[Asked, Observed]] = dataclasses.field(default_factory=dict)
    scenes: dict[int, "Scene"] = dataclasses.field(default_factory=dict)
    fits: dict[str, Fits] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        knowledge: Knowledge,
        data: Data,
        level: Level,
        seed: int,
        reference: Evidence | None = None,
        random: Release | None = None,
        on_event: OnEvent | None = None,
    ) -> "Scene":
        """Samples the splits that are larger than the level scores and asks the client about them."""
        sampled = {name: _sample(getattr(data, name), getattr(level, name), seed) for name in ("test", "validation")}
        data, key = dataclasses.replace(data, **sampled), jax.random.key(seed)
        asked, test_z = _look(key, "view 1", knowledge, data, level, 1)
        if not np.isfinite(np.asarray(asked.sample_z)).any():
            raise ValueError("release: gave not one finite number; nothing can be learnt from that")
        # Of one class after the other, not all of them from the start of the split.
        labels = np.asarray(data.test.label)
        each = itertools.cycle([np.flatnonzero(labels == label) for label in np.unique(labels)])
        found = (rows[(7 * place) % len(rows)] for place, rows in enumerate(itertools.islice(each, GALLERY)))
        shown = np.array(list(dict.fromkeys(found)))
        others = np.setdiff1d(np.arange(len(labels)), shown)
        return cls(
            data=data,
            level=level,
            seed=seed,
            key=key,
            reference=reference,
            random=random,
            emit=on_event or (lambda event: None),
            bootstrap=Bootstrap.of(data.test.group, len(data.test.label), seed),
            asked=asked,
            test_z=test_z,
            answers=answered(knowledge.predict, asked, test_z) if knowledge.predict else recorded(asked, data),
            shown=shown,
            rows=np.arange(len(labels)),
            order=np.concatenate([shown, np.random.default_rng(seed).permutation(others)]),
        )

    @property
    def predict(self) -> Callable[[Features], Logits] | None:
        """The provider's network, where it was given."""
        return self.asked.knowledge.predict

    @property
    def nats(self) -> float | None:
        """What no query says more of an image than, by the client's declared constants; None where it declares none."""
        release = self.asked.knowledge.release
        if release is None or release.capacity is None:
            return None
        return float(release.capacity(release.variables, self.asked.sample_z[0].size))

    def fewer(self, images: int) -> "Scene":
        """This scene with at most so many test images (see :meth:`cut`), about which alone the client is asked more often."""
        if not images or len(self.data.test.label) <= images:
            return self
        if images not in self.scenes:
            self.scenes[images] = self.cut(images, self.asked, self.test_z)[0]
        return self.scenes[images]

    def cut(self, images: int, asked: Asked, test_z: Observed) -> "tuple[Scene, Asked, Observed]":
        """At most so many test images, those of the galleries first, and half as many to choose on; 0 is all.

        Args:
            images: how many.
            asked: what the client answered in this scene, however often it was asked.
            test_z: likewise.
        """
        if not images or len(self.data.test.label) <= images:
            return self, asked, test_z
        rows = self.order[: max(images, len(self.shown))]
        # What chooses may err by more than what is reported: half as many, of which 64 releases each are half a gigabyte.
        held = _chosen(len(self.data.validation.label), -(-images // 2), self.seed)
        test, validation = _take(self.data.test, rows), _take(self.data.validation, held)

        def few(asked: Asked) -> Asked:
            density = asked.held_density
            density = None if density is None else density[held]
            return dataclasses.replace(asked, validation=validation, held=asked.held[:, held], held_density=density)

        said, own = self.answers, few(self.asked)
        scene = dataclasses.replace(
            self,
            data=dataclasses.replace(self.data, test=test, validation=validation),
            bootstrap=Bootstrap.of(test.group, len(rows), self.seed),
            asked=own,
            test_z=self.test_z[:, rows],
            answers=None if said is None else dataclasses.replace(said, test=said.test[rows]),
            # The same images as in every other gallery: they come first in this split.
            shown=np.arange(len(self.shown)),
            rows=self.rows[rows],
            order=np.arange(len(rows)),
            others={},
            scenes={},
            fits={},
        )
        return scene, own if asked is self.asked else few(asked), test_z[:, rows]

    @property
    def gallery(self) -> Picture | None:
        """The images of the galleries as they are, where they can be shown."""
        images = np.asarray(self.data.test.image)[self.shown]
        return Picture.of(images) if images.ndim == 4 and images.shape[-1] in (1, 3) else None

    def undefended(self, family: Family) -> AttackResult | None:
        """What the same family found on the reference; None where it was not there, or there is none."""
        # It says the same however often it is asked: without noise its evidence has one query alone.
        results = {
            (result.attack, result.queries): result
            for result in (self.reference.attacks if self.reference else ())
            if result.target == family.target.name
        }
        return results.get((family.recorded, family.queries), results.get((family.name, 1)))

    def paired(self, before: Sequence[float]) -> np.ndarray | None:
        """What the reference's evidence has image by image; None where that is not of the very images of this scene."""
        if (told := self.reference) is None or not len(before):
            return None
        same = (told.dataset, told.seed, told.level) == (self.data.name, self.seed, self.level.name)
        if not same or told.gallery != self.gallery:
            return None
        values = np.asarray(before, np.float64)
        if len(values) == len(self.rows):
            return values
        # Where this family is scored on fewer images than the reference's, these are among them.
        return values[self.rows] if len(values) == told.sizes.get("test") and len(values) > self.rows.max() else None

    def look(self, family: Family) -> tuple[Asked, Observed]:
        """What the client answered to a family: k releases of the attackers' images, and of the test images."""
        owns = family.owns
        if owns is None:
            return self.ask(family.queries, family.burst)
        own = dataclasses.replace(self.data, auxiliary=owns(self.data.auxiliary))
        return self._ask(f"{family.name} {family.queries}", self.asked.knowledge, family.queries, own)

    def ask(self, queries: int, burst: bool = False) -> tuple[Asked, Observed]:
        """What the client answered to whoever asks so often, about the auxiliary images as they are or near-duplicates."""
        # Title and key of what every family shares are older than the word "asked".
        shared = (self.asked, self.test_z)
        if queries == 1:
            return shared
        return self._ask(f"{'burst' if burst else 'view'} {queries}", self.asked.knowledge, queries, burst=burst)

    def other(self, name: str) -> tuple[Asked, Observed]:
        """The same where another client is asked: one of those named above."""
        clients = {RAW: as_release(send_raw), NOTHING: as_release(send_nothing), RANDOM: self.random}
        return self._ask(name, Knowledge(clients[name]))

    def _ask(
        self, name: str, knowledge: Knowledge, queries: int = 1, data: Data | None = None, burst: bool = False
    ) -> tuple[Asked, Observed]:
        if name not in self.others:
            # About the same images, unless they are others: less memory, and less that differs between two clients.
            like, level = (self.asked if data is None else None), self.level
            if data is not None:
                # Of images of another kind, which closed forms alone learn from, all rows would be a gigabyte beside these.
                level = dataclasses.replace(level, sample=level.often or level.sample)
            self.others[name] = _look(self.key, name, knowledge, data or self.data, level, queries, burst, like)
        return self.others[name]

    def ceiling(self, client: str, target: Target) -> float | None:
        """The strength that was found where another client is asked; None where none was."""
        found = {(one.client, one.target): one.strength for one in self.ceilings}
        return found.get((client, target.name))

    def settle(self) -> None:
        """Drops whatever was answered to others than those who ask once for the images as they are, and who learnt from it."""
        self.others.clear()
        self.scenes.clear()
        for who in [who for who in self.fits if who]:
            del self.fits[who]
        # What is fitted and what it was fitted with name each other: such rings stay until Python looks for them.
        gc.collect()

    def digest(self, client: bool = True) -> str:
        """Sixteen hexadecimal digits of all that determines a result beside the attack.

        Args:
            client: whether it is of this client. A client is what it answers, so weights hidden in a closure count too.
        """
        said = None if self.answers is None else (self.answers.sample, self.answers.test)
        own = (self.asked.held, self.test_z, said, self.random) if client else ()
        found = hashlib.sha256(f"{self.seed} {self.level} {self.data.name} {self.data.sensitive}".encode())
        rows = (self.asked.sample, self.asked.validation, self.data.test)
        # What was recorded of these rows is the client's.
        rows = rows if client else tuple(batch._replace(z=None, answer=None) for batch in rows)
        for leaf in jax.tree.leaves((rows, own)):
            found.update(np.asarray(leaf).tobytes())
        found.update(to_json(self.reference).encode() if client and self.reference is not None else b"")
        return found.hexdigest()[:16]


def named(key: PRNGKey, name: str) -> Array:
    """A key that depends on a name, so that adding an attack leaves every other one as it was."""
    # Not hash(), which differs from process to process.
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def _look(
    key: PRNGKey,
    name: str,
    knowledge: Knowledge,
    data: Data,
    level: Level,
    queries: int,
    burst: bool = False,
    like: Asked | None = None,
) -> tuple[Asked, Observed]:
    keys = jax.random.split(named(key, name))
    asked = prepare(
        keys[0],
        knowledge,
        data.auxiliary,
        data.validation,
        count=level.rows(queries),
        queries=queries,
        burst=burst,
        library=level.library,
        attributes=tuple((task.name, task.classes) for task in data.sensitive),
        like=like,
    )
    return asked, observed(knowledge.release, data.test, keys[1], queries, burst)


def _sample(batch: Batch, most: int, seed: int) -> Batch:
    """The batch, or a seeded sample of it: what a larger one costs grows without telling more."""
    return batch if len(batch.label) <= most else _take(batch, _chosen(len(batch.label), most, seed))


def _chosen(count: int, most: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).choice(count, min(count, most), replace=False))


def _take(batch: Batch, rows: np.ndarray) -> Any:
    return jax.tree.map(lambda values: values[rows], batch)
