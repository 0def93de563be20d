"""One family of attackers on one client: all are fitted, ``validation`` chooses one, and that one is scored once on ``test``."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ani_jax.attacks.base import Asked, Attack, Family, Fits, Fitted, reason
from ani_jax.attacks.query import Observed
from ani_jax.evaluation.scene import RANDOM, RAW, Ceiling, Scene, named
from ani_jax.information.channel import most_right
from ani_jax.records import Attacker, AttackResult, Estimate
from ani_jax.targets.base import Known, Undefended
from ani_jax.types import PRNGKey


@dataclasses.dataclass(frozen=True, eq=False)
class Competitor:
    """One fitted attacker: its record, and its guesses on ``test`` where it has any."""

    record: Attacker
    guess: np.ndarray | None


def run(scene: Scene, family: Family) -> AttackResult:
    """Fits every attack, chooses one on ``validation`` and scores it on ``test``."""
    images = len(scene.rows)
    try:
        scene = scene.fewer(scene.level.repeated if family.queries > 1 else 0)
        whole, (answered, test_z) = scene, scene.look(family)
        scene, asked, test_z = whole.cut(max((attack.images for attack in family.attacks), default=0), answered, test_z)
        if scene is not whole:
            scene.fits[family.asks] = fits_of(whole, family, answered)[0].fewer(asked)
    except Exception as error:
        # Asked once the client has answered already; 64 times it may exceed the memory.
        return _failed(family, f"failed: {reason(error)}")
    competitors = compete(scene, family, asked, test_z)
    # On validation alone; what the others score on test is on record, and chooses nothing.
    records, chosen = tuple(one.record for one in competitors), choose(competitors)
    if chosen is None or chosen.guess is None:
        return _failed(family, records[0].status if records else "failed: no attacker", records)
    target = family.target
    before, undefended = scene.undefended(family) if target.ceilings else None, None
    if before is not None and before.status == "ok" and target.words.strength in before.scores:
        undefended = Undefended(before.scores[target.words.strength], scene.paired(before.per_example))
    classes = {task.name: task.class_names for task in scene.data.sensitive}
    known = Known(scene.asked.sample, scene.data.test, scene.answers, scene.bootstrap, undefended, classes)
    found = target.judge(chosen.guess, known)
    beside = dict(found.references)
    if target.ceilings:
        beside["undefended"] = undefended.score.value if undefended else None
        beside["raw_input"] = scene.ceiling(RAW, target)
        # The encoder's own noise aside, asking it more often shows nothing new.
        if family.queries == 1 and scene.random is not None:
            beside["random_encoder"] = scene.ceiling(RANDOM, target)
    if (nats := scene.nats) is not None and target.alternatives is not None:
        # Noise of its own for each query: what they say of one image, or of near-duplicates, adds up at most.
        beside["certified"] = most_right(family.queries * nats, target.alternatives)
    told = AttackResult(
        attack=family.recorded,
        target=target.name,
        queries=family.queries,
        chosen=chosen.record.name,
        scores=found.scores,
        references=beside,
        attackers=records,
        leakage=found.leakage,
        per_example=tuple(round(float(value), 6) for value in found.per_example),
        gallery=target.picture(chosen.guess[scene.shown]),
        # Where all broke off, the best of them may be far from what an attack finds.
        status="ok" if any(record.status == "ok" for record in records) else chosen.record.status,
        slices=found.slices,
        rows=tuple(scene.rows.tolist()) if len(scene.rows) < images else (),
    )
    strength = found.scores[target.words.strength]
    # Another may have run through, but this one is stronger.
    broke = "" if chosen.record.status == "ok" else f"chosen though it {chosen.record.status}"
    noted = dataclasses.replace(strength, note="; ".join(filter(None, (strength.note, told.ended, broke))))
    return dataclasses.replace(told, scores={**found.scores, target.words.strength: noted})


def compete(
    scene: Scene, family: Family, asked: Asked, test_z: Observed, prefix: str = "", *, until_perfect: bool = False
) -> list[Competitor]:
    """Fits the attacks one after the other and lets each guess.

    Args:
        scene: where; ``asked`` and ``test_z`` say which client is attacked.
        family: whose attacks.
        asked: what they learn from.
        test_z: what they are scored on.
        prefix: of their names in events and keys.
        until_perfect: stop at one that leaves nothing to find on ``validation``.
    """
    fits, title = fits_of(scene, family, asked, prefix)
    found: list[Competitor] = []
    for attack in family.attacks:
        scene.emit({"kind": "attack_start", "name": title(attack), "total": attack.steps})
        found.append(_judged(scene, attack, fits(attack, family.attacks), fits.key(attack), asked, test_z))
        scene.emit({"kind": "attack_end", "name": title(attack)})
        last = found[-1].record
        strength = last.validation if until_perfect and last.status == "ok" else None
        if strength is not None and family.target.answered(strength):
            break
    return found


def fits_of(scene: Scene, family: Family, asked: Asked, prefix: str = "") -> tuple[Fits, Callable[[Attack], str]]:
    """What fits a family's attacks, each once for all families that were answered alike; and their titles.

    Args:
        scene: where.
        family: whose attacks.
        asked: what they learn from.
        prefix: of their titles, for another client than the scene's.
    """

    def title(attack: Attack) -> str:
        # Also the seed of its key: what several families build on has one name, whoever asks first.
        return f"{prefix}{attack.family} {attack.target.name}{family.often}: {attack.name}"

    def step(attack: Attack, event: Mapping[str, Any]) -> None:
        scene.emit({"kind": "attack_step", "name": title(attack), **event})

    who = f"{prefix}{family.asks}"
    if who not in scene.fits:
        scene.fits[who] = Fits(asked, lambda attack: named(scene.key, title(attack)), step)
    return scene.fits[who], title


def choose(competitors: Sequence[Competitor]) -> Competitor | None:
    """The strongest on ``validation``, whatever else happened to it: an attack that broke off may still be the best."""
    able = [one for one in competitors if one.guess is not None]
    return max(able, key=lambda one: one.record.validation or 0.0, default=None)


def _judged(scene: Scene, attack: Attack, fitted: Fitted, key: PRNGKey, asked: Asked, test_z: Observed) -> Competitor:
    """Lets a fitted attacker guess; numbers that go wrong are written down, never taken for privacy."""
    absent = "no attacker" if fitted.attacker is None and not fitted.ended else None
    strengths, guess, failed = [], None, fitted.failed or absent
    for z, batch in ((asked.held, asked.validation), (test_z, scene.data.test)):
        if fitted.attacker is None:
            break
        try:
            guess = np.asarray(fitted.attacker(named(key, "guess"), z))
        except Exception as error:
            # Whatever a stranger's client raises inside it is a result that says so.
            failed, guess = failed or reason(error), None
            break
        if not np.isfinite(guess).all():
            failed, guess = failed or "the guesses are not finite", None
            break
        guess = attack.target.balanced(guess, asked.sample)
        strengths.append(attack.target.strength(guess, batch))
    validation, test = strengths if guess is not None else (None, None)
    status = "ok" if failed is None else f"failed: {failed}"
    curve = fitted.curves[0] if fitted.curves else ()
    record = Attacker(attack.name, validation, test, attack.steps, status, fitted.note, curve, fitted.ended)
    return Competitor(record, guess)


def _failed(family: Family, status: str, records: tuple = ()) -> AttackResult:
    nothing = Estimate(None, note=status)
    return AttackResult(
        family.recorded, family.target.name, family.queries, "", {}, {}, records, nothing, status=status
    )


def once(families: Sequence[Family]) -> tuple[Family, ...]:
    """Of every target the first family that asks once."""
    # Written from the last on, so that the first is what stays.
    first = {family.target: family for family in reversed(families) if family.queries == 1}
    return tuple(family for family in families if first.get(family.target) is family)


def elsewhere(scene: Scene, family: Family, name: str) -> Ceiling:
    """What the same attackers find where another client is asked.

    Args:
        scene: of any client on the same data.
        family: who attacks, see :func:`once`.
        name: of the other client, see :meth:`ani_jax.evaluation.scene.Scene.other`.
    """
    best = choose(compete(scene, family, *scene.other(name), prefix=f"{name}, ", until_perfect=True))
    return Ceiling(name, family.target.name, *((None, "") if best is None else (best.record.test, best.record.name)))
