"""Fitting the members of an attack and choosing one: on ``validation``, and among those that did not fail."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ani_jax.attacks.base import Attack, Fitted, OnEvent, View
from ani_jax.attacks.base import Member as Unfitted
from ani_jax.attacks.query import Observed
from ani_jax.evaluation import metrics
from ani_jax.evaluation.scene import Scene, named, title
from ani_jax.records import Member
from ani_jax.types import Batch, PRNGKey


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """One fitted member: its record, and its guesses on ``test`` where it has any."""

    record: Member
    guess: np.ndarray | None


def try_all(
    scene: Scene, attack: Attack, view: View, test_z: Observed, prefix: str = "", *, until_perfect: bool = False
) -> list[Trial]:
    """Fits the members one after the other and lets each guess.

    Args:
        scene: where; ``view`` and ``test_z`` say which client is attacked.
        attack: whose members.
        view: what they learn from.
        test_z: what they are scored on.
        prefix: of their names in events and keys.
        until_perfect: stop at one that makes no mistake on ``validation``: it would be chosen whatever the others do.
    """
    found: list[Fitted] = []
    trials: list[Trial] = []
    for member in attack.members:
        name = prefix + title(attack, member)
        scene.emit({"kind": "attack_start", "name": name, "total": member.steps})
        key = named(scene.key, name)
        step = functools.partial(_step_event, scene.emit, name)
        found.append(_attempt(functools.partial(member.fit, key, view, step, tuple(found)), _failure))
        trials.append(_judged(scene, attack, member, found[-1], key, view, test_z))
        scene.emit({"kind": "attack_end", "name": name})
        if until_perfect and trials[-1].record.status == "ok" and trials[-1].record.validation == 1.0:
            break
    return trials


def choose(trials: Sequence[Trial]) -> Trial | None:
    """The strongest on ``validation`` among those that did not fail, else among all with a finite score."""
    able = [trial for trial in trials if trial.guess is not None]
    sound = [trial for trial in able if trial.record.status == "ok"]
    return max(sound or able, key=lambda trial: trial.record.validation or 0.0, default=None)


def reason(error: Exception) -> str:
    r"""One line about an exception, without what differs from process to process.

    Example:
        >>> reason(ValueError("bad <object at 0x7f3a>\nand more"))
        'ValueError: bad <object at 0x>'
    """
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {re.sub(r'0x[0-9a-f]+', '0x', lines[0])[:200]}".removesuffix(": ")


def _attempt(work: Callable[[], Any], otherwise: Callable[[Exception], Any]) -> Any:
    """What ``work`` gives; whatever a stranger's client raises inside it becomes a result that says so."""
    try:
        return work()
    except Exception as error:
        return otherwise(error)


def _failure(error: Exception) -> Fitted:
    return Fitted(None, reason(error))


def _step_event(emit: OnEvent, name: str, event: Mapping[str, Any]) -> None:
    emit({"kind": "attack_step", "name": name, **event})


def _judged(
    scene: Scene, attack: Attack, member: Unfitted, fitted: Fitted, key: PRNGKey, view: View, test_z: Observed
) -> Trial:
    """Lets a fitted member guess; numbers that go wrong are written down, never taken for privacy."""
    guesses = [_attempt(functools.partial(_guess, fitted, key, z), reason) for z in (view.held, test_z)]
    failed = fitted.failed or next((guess for guess in guesses if isinstance(guess, str)), None)
    status = "ok" if failed is None else f"failed: {failed}"
    if any(isinstance(guess, str) for guess in guesses):
        return Trial(Member(member.name, None, None, member.steps, status, note=fitted.note), None)
    strengths = [
        _strength(attack.target, *pair) for pair in zip(guesses, (view.validation, scene.data.test), strict=True)
    ]
    return Trial(Member(member.name, *strengths, steps=member.steps, status=status, note=fitted.note), guesses[1])


def _guess(fitted: Fitted, key: PRNGKey, z: Observed) -> np.ndarray | str:
    """The attacker's guesses, or why there are none."""
    if fitted.attacker is None:
        return fitted.failed or "no attacker"
    guess = np.asarray(fitted.attacker(named(key, "guess"), z))
    return guess if np.isfinite(guess).all() else "the guesses are not finite"


def _strength(target: str, guess: np.ndarray, batch: Batch) -> float:
    """How strong a guess is, higher is stronger: balanced accuracy, or minus the MSE."""
    if target == "image":
        return -float(np.square(guess.astype(np.float64) - np.asarray(batch.image)).mean())
    return metrics.balanced_accuracy(guess.argmax(1), np.asarray(batch.sensitive[target]))
