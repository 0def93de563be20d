"""Would the audit have noticed? All is sent, or nothing; and labels of known strength are planted (METHODS 5.0 d).

A planted label is a function of z by a rule that is fitted on ``auxiliary``, with a part of the labels redrawn at random. It
is one more attribute, which the strongest attackers of the real ones must find; nobody can score more than the rule itself.

They learn it apart from the real ones. [ours] Measured on a client of ``funnel`` at seed 100: local curves with heads for
planted labels beside the real ones read 96.0% of inks after 2,496 steps, without them 98.4%.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ani_jax.attacks.attribute import Reader
from ani_jax.attacks.base import Family, Standardiser
from ani_jax.attacks.discriminant import Discriminant
from ani_jax.attacks.query import flat, summarise
from ani_jax.attacks.views import positions, principal
from ani_jax.evaluation import contest
from ani_jax.evaluation.scene import NOTHING, RAW, Ceiling, Scene, named
from ani_jax.records import AttackResult, Control
from ani_jax.targets.attribute import Attribute, Heads
from ani_jax.targets.base import Target
from ani_jax.targets.metrics import balanced, balanced_accuracy
from ani_jax.types import Batch, Features, PRNGKey

CLASSES = 4
POINTS = (None, 0.25, 0.10)
"""How far over chance the best score lies on each rung, None for as far as it goes."""
ROWS = 2048
"""Rows that rules are fitted on at most."""
LEADING = 16
"""Whitened components of which a parity takes two."""
APART = 0.2
"""Classes of a rule whose frequencies differ from equal ones by more than this part cannot be planted."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scores:
    """Standardised features in some directions.

    Attributes:
        standardise: before it.
        axes: (d, a), the directions.
    """

    standardise: Standardiser
    axes: Float[Array, "d a"]

    def __call__(self, z: Features) -> Float[Array, "n a"]:
        """Projections."""
        return flat(self.standardise(z)) @ self.axes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantile:
    """In which of equally likely intervals a score lies; ties are broken evenly, by jitter.

    Attributes:
        scores: one direction.
        cuts: ends of the intervals.
        jitter: its deviation.
    """

    scores: Scores
    cuts: Float[Array, " c"]
    jitter: Float[Array, ""]

    def __call__(self, key: PRNGKey, z: Features) -> Int[Array, " n"]:
        """Labels."""
        score = self.scores(z)[:, 0]
        return jnp.searchsorted(self.cuts, score + self.jitter * jax.random.normal(key, score.shape))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Agreement:
    """Whether two scores lie on different sides of their medians.

    Attributes:
        scores: two directions.
        middles: the medians.
    """

    scores: Scores
    middles: Float[Array, " 2"]

    def __call__(self, key: PRNGKey, z: Features) -> Int[Array, " n"]:
        """Labels."""
        del key
        return (self.scores(z) > self.middles[None]).sum(1) % 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Place:
    """In which block of positions the largest standardised value lies.

    Attributes:
        standardise: before it.
        block: (p,), the block of every position.
    """

    standardise: Standardiser
    block: Int[Array, " p"]

    def where(self, z: Features) -> Int[Array, " n"]:
        """The position itself."""
        return positions(self.standardise(z)).max(2).argmax(1)

    def __call__(self, key: PRNGKey, z: Features) -> Int[Array, " n"]:
        """Labels."""
        del key
        return self.block[self.where(z)]


Rule = Callable[[PRNGKey, Features], Int[Array, " n"]]
"""What a label is where none is redrawn, from features."""


class Rung(NamedTuple):
    """One planted label.

    Attributes:
        name: of the label.
        kind: of its rule.
        classes: how many.
        redrawn: part of the labels that is drawn anew.
    """

    name: str
    kind: str
    classes: int
    redrawn: float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Plants:
    """All that is planted: labels of whatever the client sends, so that fresh noise gets labels of its own.

    Attributes:
        rules: by kind.
        rungs: the labels (static).
    """

    rules: dict[str, Rule]
    rungs: tuple[Rung, ...] = dataclasses.field(metadata={"static": True})

    def truth(self, key: PRNGKey, z: Features) -> dict[str, Int[Array, " n"]]:
        """What the rules say, by kind."""
        return {kind: rule(key, z).astype(jnp.int32) for kind, rule in self.rules.items()}

    def __call__(self, key: PRNGKey, z: Features) -> dict[str, Int[Array, " n"]]:
        """Labels by name, a part of them redrawn."""
        rule_key, *keys = jax.random.split(key, len(self.rungs) + 1)
        truth, found = self.truth(rule_key, z), {}
        for (name, kind, classes, redrawn), own in zip(self.rungs, keys, strict=True):
            when_key, what_key = jax.random.split(own)
            other = jax.random.randint(what_key, (len(z),), 0, classes)
            found[name] = jnp.where(jax.random.bernoulli(when_key, redrawn, (len(z),)), other, truth[kind])
        return found


SENT = {RAW: "the input itself", NOTHING: "nothing"}
"""What is said of clients that send all or nothing."""


def ends(ceilings: Sequence[Ceiling], wanted: Sequence[Target], test: Batch) -> tuple[Control, ...]:
    """What attackers find where the client sends the image itself, and where it sends nothing.

    Args:
        ceilings: what they found.
        wanted: the targets.
        test: the images that it was scored on.
    """
    targets, found = {target.name: target for target in wanted}, []
    for one in ceilings:
        target = targets[one.target]
        score = None if one.strength is None else target.advantage(one.strength, test)
        # How well an attribute can be read from the image, nobody knows: what is found is its ceiling.
        most = None if target.ceilings else target.advantage(target.perfect, test)
        known = most if one.client == RAW else 0.0
        found.append(Control(f"{one.target} where {SENT[one.client]} is sent", known, score, one.attacker))
    return tuple(found)


def plant(scene: Scene) -> tuple[Scene, dict[str, float]]:
    """The scene with planted labels for its attributes, and how far over chance the rule itself scores on test.

    Args:
        scene: of one client.
    """
    asked, key = scene.asked, named(scene.key, "planted")
    plants = planted(np.asarray(asked.sample_z[:ROWS]), scene.seed)
    if not plants.rungs:
        return scene, {}
    parts = (asked.sample_z, asked.sample), (asked.held_z, asked.validation), (summarise(scene.test_z), scene.data.test)
    keys = jax.random.split(key, len(parts))
    sample, validation, test = (
        batch._replace(sensitive=_labels(plants, own, z)) for (z, batch), own in zip(parts, keys, strict=True)
    )
    classes = tuple((rung.name, rung.classes) for rung in plants.rungs)
    told = dataclasses.replace(plants, rungs=tuple(rung._replace(redrawn=0.0) for rung in plants.rungs))
    truth = _labels(told, keys[-1], parts[-1][0])
    best = {
        name: balanced_accuracy(truth[name], np.asarray(test.sensitive[name])) - 1 / count for name, count in classes
    }
    asked = dataclasses.replace(asked, sample=sample, validation=validation, attributes=classes, plants=plants)
    data = dataclasses.replace(scene.data, validation=validation, test=test)
    return dataclasses.replace(scene, data=data, asked=asked), best


def planted(z: Float[np.ndarray, "n ..."], seed: int) -> Plants:
    """Rules fitted on some features, for all labels that can be planted in them.

    Args:
        z: auxiliary features.
        seed: of the choice between components.
    """
    rng, rules, rungs = np.random.default_rng(seed), {}, []
    for kind, (count, make) in KINDS.items():
        rule = make(z, rng)
        if rule is None:
            continue
        shares = np.bincount(np.asarray(rule(jax.random.key(seed), jnp.asarray(z))), minlength=count) / len(z)
        if np.abs(count * shares - 1).max() > APART:
            continue
        rules[kind] = rule
        for points in POINTS:
            name = f"planted {kind}" if points is None else f"planted {kind}, {100 * points:.0f} points"
            rungs.append(Rung(name, kind, count, 0.0 if points is None else 1 - points / (1 - 1 / count)))
    return Plants(rules, tuple(rungs))


def _labels(plants: Plants, key: PRNGKey, z: Features) -> dict[str, np.ndarray]:
    """Labels of many rows, ``ROWS`` at a time."""
    starts = range(0, len(z), ROWS)
    parts = [_told(plants, jax.random.fold_in(key, start), z[start : start + ROWS]) for start in starts]
    return jax.tree.map(lambda *labels: np.concatenate(labels), *parts)


_told = jax.jit(Plants.__call__)


def readers(family: Family) -> dict[str, Reader]:
    """Attacks of a family that look for planted labels too, by name: those whose networks have a head for every attribute."""
    return {attack.name: attack for attack in family.attacks if isinstance(attack, Reader) and family.queries == 1}


def found(scene: Scene, results: Mapping[Family, AttackResult]) -> tuple[Control, ...]:
    """How much of each planted label is found: by the strongest network of each attribute, and of linear ones by what is linear.

    Args:
        scene: of one client.
        results: what its attackers found. Views, and what they build on, are not fitted again.
    """
    able = {family: result for family, result in results.items() if readers(family)}
    first = next(iter(able))
    fits, _ = contest.fits_of(scene, first, scene.asked)
    known = {attack: one for attack, one in fits.done.items() if attack.family != first.name}
    scene, best = plant(scene)
    told: dict[str, list[tuple[float, float | None, str, float | None]]] = {
        name: [(0.0, None, "", None)] for name in best
    }
    if not best:
        return ()
    fits, _ = contest.fits_of(scene, first, scene.asked, "planted, ")
    fits.done.update(known)
    sent, batches = (scene.asked.held, scene.test_z), (scene.asked.validation, scene.data.test)

    def note(target: Target, name: str, guess: Sequence[np.ndarray]) -> None:
        batch = batches[1]
        labels = np.asarray(batch.sensitive[target.name])
        correct = (guess[1].argmax(1) == labels).astype(np.float64)
        # A planted label is an attribute, and this its strength.
        score = scene.bootstrap.estimate(lambda weights: balanced(correct, labels, weights))
        test, low = (None if end is None else target.advantage(end, batch) for end in (score.value, score.low))
        told[target.name].append((target.strength(guess[0], batches[0]), test, name, low))

    strongest = []
    for family, result in able.items():
        some = readers(family)
        scored = [(one.validation or 0.0, one.name) for one in result.attackers if one.name in some]
        strongest.append(some[max(scored)[1]] if scored else next(iter(some.values())))
        # What one layer tells costs little, unless noise must be drawn at every step.
        strongest += [] if scene.asked.fresh else [one for one in some.values() if one.form == "linear"]
    heads = Heads("planted", tuple(Attribute(*one) for one in scene.asked.attributes))
    for attack, name in {one.alone(heads): one.name for one in strongest}.items():
        if (attacker := fits(attack).attacker) is not None:
            guess = [np.asarray(attacker(scene.key, z)) for z in sent]
            for target, cut in heads.parts:
                note(target, name, [part[:, cut] for part in guess])
    # What a line tells is also the discriminant's, which hears directions that networks learn last.
    lines = [Attribute(rung.name, rung.classes) for rung in scene.asked.plants.rungs if rung.kind == "linear"]
    for attack in first.attacks:
        for target in lines if isinstance(attack, Discriminant) else ():
            if (attacker := fits(dataclasses.replace(attack, target=target)).attacker) is not None:
                note(target, attack.name, [np.asarray(attacker(scene.key, z)) for z in sent])
    chosen = {name: max(rivals, key=lambda rival: rival[0]) for name, rivals in told.items()}
    return tuple(Control(name, known, *chosen[name][1:]) for name, known in best.items())


def linear(z: Float[np.ndarray, "n ..."], rng: np.random.Generator) -> Quantile | None:
    """Quantiles of the median principal component among those that are not zero."""
    standardise, axes = _components(z)
    if not axes.shape[1]:
        return None
    scores = Scores(standardise, axes[:, axes.shape[1] // 2, None])
    own = np.asarray(scores(jnp.asarray(z)))[:, 0]
    jitter = 1e-6 * own.std()
    cuts = np.quantile(own + jitter * rng.normal(size=len(own)), np.arange(1, CLASSES) / CLASSES)
    return Quantile(scores, jnp.asarray(cuts, jnp.float32), jnp.float32(jitter))


def parity(z: Float[np.ndarray, "n ..."], rng: np.random.Generator) -> Agreement | None:
    """Whether two of the leading whitened components lie on the same side of their medians."""
    standardise, axes = _components(z)
    if axes.shape[1] < 2:
        return None
    scores = Scores(standardise, axes[:, rng.choice(min(LEADING, axes.shape[1]), 2, replace=False)])
    return Agreement(scores, jnp.median(scores(jnp.asarray(z)), axis=0))


def extreme(z: Float[np.ndarray, "n ..."], rng: np.random.Generator) -> Place | None:
    """Which block of positions holds the largest standardised value; blocks are cut to be equally likely."""
    del rng
    standardise = Standardiser.of(jnp.asarray(z))
    if not standardise.rate.any():
        return None
    place = Place(standardise, jnp.zeros(positions(jnp.asarray(z[:1])).shape[1], jnp.int32))
    share = np.bincount(np.asarray(place.where(jnp.asarray(z))), minlength=len(place.block)) / len(z)
    # A position belongs where the middle of its share falls.
    block = np.minimum(CLASSES * (share.cumsum() - share / 2), CLASSES - 1).astype(np.int32)
    return dataclasses.replace(place, block=jnp.asarray(block))


KINDS: dict[str, tuple[int, Callable[..., Rule | None]]] = {
    "linear": (CLASSES, linear),
    "parity": (2, parity),
    "extreme": (CLASSES, extreme),
}
"""Name -> number of classes, and what fits the rule; None where this client sends nothing that it could be planted in."""


def _components(z: Float[np.ndarray, "n ..."]) -> tuple[Standardiser, Float[Array, "d r"]]:
    """Principal directions of standardised features that are not zero, the largest first."""
    standardise = Standardiser.of(jnp.asarray(z))
    _, vectors = principal(np.asarray(flat(standardise(jnp.asarray(z))), np.float64), 1e-6)
    vectors = vectors[:, ::-1]
    # Of either sign, the one whose largest entry is positive: libraries differ.
    turned = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])])
    return standardise, jnp.asarray(vectors * turned, jnp.float32)
