"""From attack to result: the chosen member's guesses on ``test``, scored once and set beside floors and ceilings."""

import contextlib
from typing import NamedTuple

import numpy as np

from ani_jax.attacks.base import Attack, View
from ani_jax.attacks.query import Observed
from ani_jax.evaluation import metrics, references
from ani_jax.evaluation.scene import Scene
from ani_jax.evaluation.trials import choose, reason, try_all
from ani_jax.records import AttackResult, Estimate, Picture


class Judgement(NamedTuple):
    """What the guesses of one attacker are worth; the fields are those of :class:`ani_jax.records.AttackResult`."""

    scores: dict[str, Estimate]
    references: dict[str, float | None]
    leakage: Estimate
    per_example: np.ndarray


def run(scene: Scene, attack: Attack) -> AttackResult:
    """Fits every member, chooses one on ``validation`` and scores it on ``test``."""
    try:
        scene = scene.fewer(attack.images)
        view, test_z = scene.look(attack.queries, attack.mismatched)
    except Exception as error:
        # Asked once the client has answered already; 64 times it may exceed the memory.
        return _failed(attack, f"failed: {reason(error)}")
    trials = try_all(scene, attack, view, test_z)
    records, chosen = tuple(trial.record for trial in trials), choose(trials)
    if chosen is None or chosen.guess is None:
        return _failed(attack, records[0].status if records else "failed: no member", records)
    found = (_judge_image if attack.target == "image" else _judge_attribute)(scene, attack, chosen.guess)
    return AttackResult(
        attack=attack.name,
        target=attack.target,
        queries=attack.queries,
        chosen=chosen.record.name,
        scores=found.scores,
        references=found.references,
        members=records,
        leakage=found.leakage,
        per_example=tuple(round(float(value), 6) for value in found.per_example),
        gallery=picture(chosen.guess[scene.shown]) if attack.target == "image" else None,
        status=chosen.record.status,
    )


def picture(images: np.ndarray) -> Picture | None:
    """Images for the report, None where they have neither one channel nor three."""
    return Picture.of(images) if images.shape[-1] in (1, 3) else None


def _failed(attack: Attack, status: str, records: tuple = ()) -> AttackResult:
    nothing = Estimate(None, note=status)
    return AttackResult(attack.name, attack.target, attack.queries, "", {}, {}, records, nothing, status=status)


def _judge_image(scene: Scene, attack: Attack, guess: np.ndarray) -> Judgement:
    floors = references.image_floors(scene.view, scene.data.test, scene.answers)
    scores, mse = metrics.reconstruction(guess, scene.data.test.image, floors, scene.bootstrap)
    known: dict[str, float | None] = {"mse_mean_image": float(floors["mean"].mean()), "mse_class_mean": None}
    if "class_mean" in floors:
        known["mse_class_mean"] = float(floors["class_mean"].mean())
    else:
        scores["r2_class_mean"] = Estimate(None, note="needs predict")
    return Judgement(scores, known, Estimate(None, note="defined for attributes; for images read r2_class_mean"), mse)


def _judge_attribute(scene: Scene, attack: Attack, guess: np.ndarray) -> Judgement:
    task = next(task for task in scene.data.sensitive if task.name == attack.target)
    labels = np.asarray(scene.data.test.sensitive[task.name])
    scores = metrics.classification(guess, labels, scene.bootstrap)
    known, floor = references.attribute_floors(scene.view, scene.data.test, task, scene.answers, scene.bootstrap)
    before = _before(scene, attack)
    undefended = references.undefended_score(before)
    known["undefended"] = undefended.value if undefended else None
    ceiling = before.references.get("raw_input") if before else None
    known["raw_input"] = _same_family(scene, attack, scene.raw(), "raw input") if ceiling is None else ceiling
    # The encoder's own noise aside, asking it more often shows nothing new.
    if attack.queries == 1 and (asked := scene.untrained()) is not None:
        known["random_encoder"] = _same_family(scene, attack, asked, "random encoder")
    leaked = references.leakage(scores["balanced_accuracy"], floor, undefended)
    return Judgement(scores, known, leaked, (guess.argmax(1) == labels).astype(float))


def _before(scene: Scene, attack: Attack) -> AttackResult | None:
    """The same attack's result on the undefended reference, which says the same however often it is asked."""
    for queries in (attack.queries, 1):
        with contextlib.suppress(KeyError):
            return scene.reference and scene.reference.attack(attack.name, attack.target, queries)
    return None


def _same_family(scene: Scene, attack: Attack, asked: tuple[View, Observed], name: str) -> float | None:
    """Balanced accuracy of the same family trained on what another client sends."""
    chosen = choose(try_all(scene, attack, *asked, prefix=f"{name}, ", until_perfect=True))
    return None if chosen is None else chosen.record.test
