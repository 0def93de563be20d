"""Would the audit have noticed? Labels of known strength, planted into what this very client sends (METHODS 5.0 d).

A planted label is a function of z by a rule that is fitted on ``auxiliary``, with a part of the labels redrawn at random. It
becomes one more attribute, which the attackers that are fitted anyway must find; nobody can score more than the rule itself.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from ani_jax.attacks.attribute import Reader
from ani_jax.attacks.base import Attack, Family
from ani_jax.attacks.query import summarise
from ani_jax.evaluation import contest
from ani_jax.evaluation.scene import Scene
from ani_jax.records import Control
from ani_jax.targets.attribute import Heads
from ani_jax.targets.metrics import balanced_accuracy

CLASSES = 4
POINTS = (None, 0.25, 0.10)
"""How far over chance the best score lies on each rung, None for as far as it goes."""
ROWS = 2048
"""Rows that rules are fitted on at most."""
LEADING = 16
"""Whitened components of which a parity takes two."""
APART = 0.2
"""Classes of a rule whose frequencies differ from equal ones by more than this part cannot be planted."""

Rule = Callable[[Float[np.ndarray, "n ..."]], Int[np.ndarray, " n"]]
"""What a label is where none is redrawn, from features."""


def plant(scene: Scene) -> tuple[Scene, dict[str, float]]:
    """The scene with planted labels among its attributes, and how far over chance the rule itself scores on test.

    Args:
        scene: of one client.
    """
    z = np.asarray(scene.asked.sample_z)
    rng = np.random.default_rng(scene.seed)
    parts = {
        "sample": (z, scene.asked.sample),
        "validation": (np.asarray(summarise(scene.asked.held)), scene.asked.validation),
        "test": (np.asarray(summarise(scene.test_z)), scene.data.test),
    }
    labels: dict[str, dict[str, np.ndarray]] = {part: {} for part in parts}
    best, classes = {}, {}
    for kind, (count, make) in KINDS.items():
        rule = make(z[:ROWS], rng)
        if rule is None:
            continue
        told = {part: rule(features) for part, (features, _) in parts.items()}
        shares = np.bincount(told["sample"], minlength=count) / len(z)
        if np.abs(count * shares - 1).max() > APART:
            continue
        for points in POINTS:
            name = f"planted {kind}" if points is None else f"planted {kind}, {100 * points:.0f} points"
            redrawn = 0.0 if points is None else 1 - points / (1 - 1 / count)
            for part, true in told.items():
                other = rng.integers(0, count, len(true))
                labels[part][name] = np.where(rng.random(len(true)) < redrawn, other, true).astype(np.int32)
            best[name], classes[name] = balanced_accuracy(told["test"], labels["test"][name]) - 1 / count, count
    sample, validation, test = (
        batch._replace(sensitive={**batch.sensitive, **labels[part]}) for part, (_, batch) in parts.items()
    )
    asked = dataclasses.replace(
        scene.asked,
        sample=sample,
        validation=validation,
        attributes=(*scene.asked.attributes, *classes.items()),
        planted=tuple(classes),
    )
    data = dataclasses.replace(scene.data, validation=validation, test=test)
    return dataclasses.replace(scene, data=data, asked=asked), best


def readers(family: Family) -> tuple[Attack, ...]:
    """Attacks of a family that look for planted labels too: those whose networks have a head for every attribute."""
    return tuple(attack for attack in family.attacks if isinstance(attack, Reader) and family.queries == 1)


def found(scene: Scene, best: dict[str, float], families: Sequence[Family]) -> tuple[Control, ...]:
    """How much of every planted label the networks find that are fitted to the real attributes, with a head for each.

    Args:
        scene: with planted labels.
        best: how far over chance each can be found.
        families: who attacks; of one that was attacked already nothing is fitted again.
    """
    told: dict[str, list[tuple[float, float, str]]] = {name: [] for name in best}
    able = [family for family in families if readers(family)]
    # All of them were answered alike, so they share what was fitted.
    fits, _ = contest.fits_of(scene, able[0], scene.asked)
    for family in able:
        for attack in readers(family):
            fits(attack, family.attacks)
    for attack, fitted in fits.done.items():
        if not isinstance(attack.target, Heads) or not attack.target.planted or fitted.attacker is None:
            continue
        # All that are planted are one part of its answer, so they are asked for at once.
        guess = [np.asarray(fitted.attacker.part(-1)(scene.key, z)) for z in (scene.asked.held, scene.test_z)]
        for target, cut in Heads("planted", attack.target.planted).parts:
            held, test = (
                target.strength(guess[:, cut], batch)
                for guess, batch in zip(guess, (scene.asked.validation, scene.data.test))
            )
            told[target.name].append((held, test - 1 / dict(scene.asked.attributes)[target.name], attack.name))
    chosen = {name: max(rivals, key=lambda rival: rival[0], default=(0.0, None, "")) for name, rivals in told.items()}
    return tuple(Control(name, known, *chosen[name][1:]) for name, known in best.items())


def linear(z: Float[np.ndarray, "n ..."], rng: np.random.Generator) -> Rule | None:
    """Quantiles of the median principal component among those that are not zero."""
    mean, rate, vectors, values = _components(z)
    if not len(values):
        return None
    axis = vectors[:, len(values) // 2]
    score = _projection(mean, rate, axis)
    size, seed = 1e-6 * float(score(z).std()), int(rng.integers(2**31))

    def jittered(features: np.ndarray) -> np.ndarray:
        # Ties must break evenly, and alike whenever the same rows are asked about.
        return score(features) + size * np.random.default_rng(seed).normal(size=len(features))

    cuts = np.quantile(jittered(z), np.arange(1, CLASSES) / CLASSES)
    return lambda features: np.searchsorted(cuts, jittered(features))


def parity(z: Float[np.ndarray, "n ..."], rng: np.random.Generator) -> Rule | None:
    """Whether two of the leading whitened components lie on the same side of their medians."""
    mean, rate, vectors, values = _components(z)
    if len(values) < 2:
        return None
    first, second = rng.choice(min(LEADING, len(values)), 2, replace=False)
    scores = [_projection(mean, rate, vectors[:, index]) for index in (first, second)]
    middles = [np.median(score(z)) for score in scores]
    return lambda features: np.logical_xor(*(score(features) > mid for score, mid in zip(scores, middles))).astype(int)


def extreme(z: Float[np.ndarray, "n ..."], rng: np.random.Generator) -> Rule | None:
    """Which block of positions holds the largest standardised value; blocks are cut to be equally likely."""
    del rng
    mean, deviation = z.mean(0, dtype=np.float64), z.std(0, dtype=np.float64)
    rate = np.where(deviation > 1e-6 * np.abs(mean), 1 / np.maximum(deviation, 1e-30), 0)

    def where(features: np.ndarray) -> np.ndarray:
        seen = (features - mean) * rate
        cells = seen.reshape(len(seen), -1, seen.shape[-1] if seen.ndim > 2 else 1)
        return cells.max(2).argmax(1)

    if not rate.any():
        return None
    share = np.bincount(where(z), minlength=z[0].size) / len(z)
    # A position belongs where the middle of its share falls.
    block = np.minimum(CLASSES * (share.cumsum() - share / 2), CLASSES - 1).astype(int)
    return lambda features: block[where(features)]


KINDS: dict[str, tuple[int, Callable[..., Rule | None]]] = {
    "linear": (CLASSES, linear),
    "parity": (2, parity),
    "extreme": (CLASSES, extreme),
}
"""Name -> number of classes, and what fits the rule; None where this client sends nothing that it could be planted in."""


def _components(z: Float[np.ndarray, "n ..."]) -> tuple[np.ndarray, ...]:
    """Mean and 1 / deviation of flat features, their principal directions that are not zero and these variances."""
    flat = z.reshape(len(z), -1).astype(np.float64)
    mean, deviation = flat.mean(0), flat.std(0)
    rate = np.where(deviation > 1e-6 * np.abs(mean), 1 / np.maximum(deviation, 1e-30), 0)
    seen = (flat - mean) * rate
    # The smaller of the two products has the same eigenvalues.
    wide = seen.shape[1] > len(seen)
    values, vectors = np.linalg.eigh(seen @ seen.T if wide else seen.T @ seen)
    kept = np.flatnonzero(values > 1e-6 * max(values[-1], 1e-20))[::-1]
    values, vectors = values[kept], vectors[:, kept]
    vectors = seen.T @ vectors / np.sqrt(values) if wide else vectors
    # Of either sign, the one whose largest entry is positive: libraries differ.
    turned = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(len(values))])
    return mean, rate, vectors * turned, values / len(seen)


def _projection(mean: np.ndarray, rate: np.ndarray, axis: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda features: ((features.reshape(len(features), -1) - mean) * rate) @ axis
