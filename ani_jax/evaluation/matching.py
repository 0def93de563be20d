"""Whose picture is it? Whoever holds a picture of everybody looks for the one that would have sent this (METHODS 5.2).

Nothing is reconstructed: what was sent is held against what the client sends of each candidate, which anyone who has the client
can find out. Of the own original the candidate is another picture: another drawing, where the data draws its originals several
times, else a near-duplicate, shifted and brightened as in a burst; a client without noise would say the same of the very picture.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Float, Int

from ani_jax.attacks.attribute import NUMBERS
from ani_jax.attacks.base import Asked, reason
from ani_jax.attacks.density import declared, gaussian
from ani_jax.attacks.discriminant import MOST
from ani_jax.attacks.query import AT_ONCE, CHUNK, flat, near, query, summarise
from ani_jax.evaluation.scene import Scene, named
from ani_jax.information.channel import most_right
from ani_jax.records import Attacker, AttackResult, Clause, Estimate, Metric, TargetWords
from ani_jax.targets import metrics
from ani_jax.types import Batch, Features, Inputs, PRNGKey, Release

FAMILY = "matching"
WORDS = TargetWords(
    name="original",
    title="Original",
    metrics=(
        Metric("identified", "identified, top-1", "percent", "points", references=True),
        Metric("over_floor", "over the floor", "points"),
    ),
    strength="identified",
    higher=True,
    leakage="over_floor",
    plotted="identified",
    floor="chance",
    summary=("identified",),
    clauses=(Clause("identified", "top-1 identification of the original"),),
    alone="{} of originals identified",
    beyond="over_floor",
    floors=("chance", "label_mediated"),
)
"""What a report needs to know of whom what was sent belongs to."""
PENALTIES = (1e-4, 1e-2, 1.0, 100.0)
"""Parts of the mean variance that are added to every direction's, up to a plain distance."""


def match(scene: Scene) -> AttackResult:
    """:func:`matched`; whatever a stranger's client raises in it becomes a result that says so."""
    try:
        return matched(scene)
    except Exception as error:
        status = f"failed: {reason(error)}"
        return AttackResult(FAMILY, WORDS.name, 1, "", {}, {}, (), Estimate(None, note=status), status=status)


def matched(scene: Scene) -> AttackResult:
    """How often what was sent lies nearest to what is sent of its own original, among one picture of every test original.

        argmin over candidates c of  (z - f(c))^T (S + penalty * I)^-1 (z - f(c))

    f(c) is the declared mean or that of a few releases, S how what is sent of one original varies, learnt on ``auxiliary``; the
    penalty is chosen on ``validation``.

    Args:
        scene: of a client that can be asked.

    Returns:
        The result, beside chance and what the provider's answer alone tells: of which class the original is.

    Raises:
        ValueError: what is sent is not finite.
    """
    asked, key = scene.asked, named(scene.key, FAMILY)
    batches = asked.validation, scene.data.test
    # For all penalties: what is sent is standardised once.
    sent = [_doubled(asked, z) for z in (asked.held_z, summarise(scene.test_z))]
    held = [
        _doubled(asked, expected(asked.release, pictured(batch, key), jax.random.fold_in(key, number)))
        for number, batch in enumerate(batches)
    ]
    if not all(np.isfinite(z).all() for z in (*sent, *held)):
        raise ValueError("what the client sends is not finite")
    once = bool((another(asked.validation) == np.arange(len(asked.validation.label))).all())
    spread, found = variation(asked, key if once else None), []
    for penalty in PENALTIES if spread is not None else PENALTIES[-1:]:
        told = list(zip(sent, held, strict=True))
        if spread is not None:
            ridge = penalty * max(np.trace(spread) / len(spread), 1e-20)
            root = np.linalg.cholesky(spread + ridge * np.eye(len(spread)))
            told = [tuple(scipy.linalg.solve_triangular(root, one.T, lower=True).T for one in pair) for pair in told]
        hits = [metrics.retrieval(z, f, batch.group, twins=False) for (z, f), batch in zip(told, batches, strict=True)]
        found.append((float(hits[0].mean()), penalty, hits[1]))
    best = max(found, key=lambda one: one[0])
    test = scene.data.test
    owner = np.arange(len(test.label)) if test.group is None else np.asarray(test.group)
    _, first = np.unique(owner, return_index=True)
    classes = np.bincount(np.asarray(test.label)[first])
    floors = {"chance": np.full(len(owner), 1 / len(first))}
    if scene.answers is not None:
        # Whoever trusts the answer guesses among its class, where he is wrong if it is.
        right = scene.answers.test == np.asarray(test.label)
        floors["label_mediated"] = right / np.maximum(classes[np.asarray(test.label)], 1)
    beside: dict[str, float | None] = {name: float(values.mean()) for name, values in floors.items()}
    if scene.nats is not None and len(first) > 1:
        beside["certified"] = most_right(scene.nats, len(first))
    floor = max(floors.values(), key=np.mean)
    score, over = (scene.bootstrap.mean(one) for one in (best[2], best[2] - floor))
    return AttackResult(
        attack=FAMILY,
        target=WORDS.name,
        queries=1,
        chosen=f"penalty {best[1]:g}",
        scores={"identified": dataclasses.replace(score, note=f"among {len(first):,}"), "over_floor": over},
        references=beside,
        attackers=tuple(Attacker(f"penalty {p:g}", value, float(hits.mean())) for value, p, hits in found),
        leakage=Estimate(None, note="defined for attributes; for originals read over_floor"),
        per_example=tuple(best[2].tolist()),
    )


def another(batch: Batch) -> Int[np.ndarray, " n"]:
    """For each image another one of its original, the next in turn; itself where there is none.

    Example:
        >>> another(Batch(jnp.zeros((4, 1)), jnp.zeros(4, int), {}, jnp.array([5, 7, 5, 5]))).tolist()
        [2, 1, 3, 0]
    """
    count = len(batch.label)
    group = np.arange(count) if batch.group is None else np.asarray(batch.group)
    order = np.argsort(group, kind="stable")
    following, starts = np.roll(order, -1), np.flatnonzero(np.diff(group[order], prepend=-1))
    # The last of each original goes back to its first.
    following[np.append(starts[1:], count) - 1] = order[starts]
    found = np.empty(count, int)
    found[order] = following
    return found


def pictured(batch: Batch, key: PRNGKey) -> Inputs:
    """For each image another picture of its original: of one that was drawn once, a near-duplicate."""
    other, count = another(batch), len(batch.label)
    alone = (other == np.arange(count)).reshape(count, *[1] * (batch.image.ndim - 1))
    return jnp.where(alone, near(batch.image, key), batch.image[other])


def expected(release: Release, images: Inputs, key: PRNGKey) -> Float[np.ndarray, "n d"]:
    """What a client sends of images on average: as it declares it, or of a few releases where it has noise."""
    parts = []
    for start in range(0, images.shape[0], CHUNK):
        part = images[start : start + CHUNK]
        if gaussian(release):
            parts.append(np.asarray(declared(release, part)[0]))
        else:
            sent = query(release, part, jax.random.fold_in(key, start), AT_ONCE if release.stochastic else 1)
            parts.append(np.asarray(flat(sent.mean(0))))
    return np.concatenate(parts)


def variation(asked: Asked, key: PRNGKey | None = None) -> Float[np.ndarray, "d d"] | None:
    """Covariance of standardised features around the mean of their original; None where there are too many.

    With a key, of data that draws its originals once: that of what near-duplicates change.
    """
    size = asked.sample_z[0].size
    if size > MOST:
        return None
    count = min(len(asked.sample_z), NUMBERS // size)
    if key is not None:
        few = min(count, MOST)
        moved = query(asked.release, near(asked.sample.image[:few], key), key)[0]
        change = _doubled(asked, moved) - _doubled(asked, asked.sample_z[:few])
        return change.T @ change / few
    group = np.zeros(count) if asked.sample.group is None else np.asarray(asked.sample.group)[:count]
    _, place, often = np.unique(group, return_inverse=True, return_counts=True)
    total, second = np.zeros((len(often), size)), np.zeros((size, size))
    for rows, z in asked.standardise.doubled(asked.sample_z, 0, count):
        second += z.T @ z
        np.add.at(total, place[rows], z)
    # Each original's own mean takes one of its drawings away.
    return (second - (total / often[:, None]).T @ total) / max(count - len(often), 1)


def _doubled(asked: Asked, z: Features | np.ndarray) -> Float[np.ndarray, "n d"]:
    shaped = jnp.asarray(z).reshape(-1, *asked.sample_z.shape[1:])
    return np.concatenate([part for _, part in asked.standardise.doubled(shaped)])
