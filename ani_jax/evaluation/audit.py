"""The audit: sends a frozen client through freshly trained attackers and writes down what they found.

    evidence = audit(release, data, predict)

Attackers learn from ``auxiliary``, the best member of each attack is chosen on ``validation``, and ``test`` is scored
once, here and nowhere else. ``defend`` and ``budget`` are never looked at.
"""

import contextlib
import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from ani_jax.attacks import decoder
from ani_jax.attacks.base import Attack, Fitted, Observed, OnEvent, View, as_predictor, as_release, prepare, query
from ani_jax.attacks.base import Member as Unfitted
from ani_jax.evaluation import metrics, references
from ani_jax.evaluation.budgets import BUDGETS, Budget, default_attacks
from ani_jax.evaluation.cost import cost_card
from ani_jax.modules.adversaries import ResidualDecoder
from ani_jax.records import AttackResult, CostCard, Estimate, Evidence, Member, Picture
from ani_jax.types import Batch, Data, Features, Knowledge, Logits, PRNGKey, Release

GALLERY = 8
"""Test images that the evidence shows."""


def audit(
    release: Callable[..., Features] | Release,
    data: Data,
    predict: Callable[[Features], Logits] | None = None,
    attacks: Sequence[Attack] | None = None,
    budget: str | Budget = "quick",
    seed: int = 0,
    reference: Evidence | None = None,
    subject: str = "release",
    on_event: OnEvent | None = None,
) -> Evidence:
    """Attacks a client and reports what leaks.

    Args:
        release: the client: a :class:`ani_jax.types.Release`, or any JAX function ``f(x)`` or ``f(x, key)`` of a batch
            of images.
        data: ``auxiliary`` trains the attackers, ``validation`` chooses among them, ``test`` is reported.
        predict: the provider's network, ``predict(z) -> logits``; without it utility, the label-mediated floor and the
            class-mean floor are left out, with a note.
        attacks: who attacks; None means :func:`default_attacks` within the budget.
        budget: a name in ``BUDGETS``, or a table of steps of your own, recorded as "custom".
        seed: everything random follows from it.
        reference: the evidence of the undefended split, which leakage is normalised by.
        subject: name of what is audited.
        on_event: called with plain dicts: kind "attack_start" (name, total steps), "attack_step" (name, step, loss),
            "attack_end".

    Returns:
        The evidence; plain data, identical for identical arguments on one kind of machine.

    Raises:
        ValueError: an unknown budget, a negative seed, or a release that does not give one floating-point row an image.
    """
    if isinstance(budget, str) and budget not in BUDGETS:
        raise ValueError(f"budget={budget!r}: must be one of {', '.join(BUDGETS)}")
    if seed < 0:
        raise ValueError(f"seed={seed}: must be 0 or more")
    name, table = (budget, BUDGETS[budget]) if isinstance(budget, str) else ("custom", budget)
    shape = _image_shape(data.test)
    release = as_release(release)
    sampled = {name: _sample(getattr(data, name), getattr(table, name), seed) for name in ("test", "validation")}
    data = dataclasses.replace(data, **sampled)
    attacks = tuple(default_attacks(table, data.sensitive, shape, release) if attacks is None else attacks)
    predict = None if predict is None else as_predictor(predict)
    scene = _Scene.of(release, data, predict, table, seed, reference, on_event)
    results = tuple(_run(scene, attack) for attack in attacks)
    return Evidence(
        subject=subject,
        dataset=data.name,
        seed=seed,
        budget=name,
        steps={_title(attack, member): member.steps for attack in attacks for member in attack.members},
        sizes=_sizes(scene),
        utility=_utility(scene),
        attacks=results,
        gallery=_picture(np.asarray(data.test.image)[scene.shown]),
        cost=_cost(scene.release, shape),
        notes=_notes(scene, attacks),
    )


def _sample(batch: Batch, most: int, seed: int) -> Batch:
    """The batch, or a seeded sample of it: what a larger one costs grows without telling more."""
    count = len(batch.label)
    if count <= most:
        return batch
    chosen = np.sort(np.random.default_rng(seed).choice(count, most, replace=False))
    return jax.tree.map(lambda values: values[chosen], batch)


@dataclasses.dataclass(frozen=True, eq=False)
class _Scene:
    """What every attack of one audit shares."""

    release: Release
    data: Data
    budget: Budget
    key: PRNGKey
    reference: Evidence | None
    on_event: OnEvent | None
    bootstrap: metrics.Bootstrap
    view: View
    test_z: Observed
    answers: references.Answers | None
    predict: Callable[[Features], Logits] | None
    shown: np.ndarray
    views: dict[Any, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        release: Release,
        data: Data,
        predict: Callable[[Features], Logits] | None,
        budget: Budget,
        seed: int,
        reference: Evidence | None,
        on_event: OnEvent | None,
    ) -> "_Scene":
        key = jax.random.key(seed)
        view, test_z = _look(key, Knowledge(release, predict), data, budget, 1)
        return cls(
            release=release,
            data=data,
            budget=budget,
            key=key,
            reference=reference,
            on_event=on_event,
            bootstrap=metrics.Bootstrap.of(data.test.group, len(data.test.label), seed),
            view=view,
            test_z=test_z,
            answers=None if predict is None else references.Answers.of(predict, view, test_z),
            predict=predict,
            shown=_distinct(np.asarray(data.test.label)),
        )

    def look(self, queries: int) -> tuple[View, Observed]:
        """The view with k releases an image, and k releases of the test images; asked for once."""
        if queries == 1:
            return self.view, self.test_z
        if queries not in self.views:
            self.views[queries] = _look(self.key, self.view.knowledge, self.data, self.budget, queries)
        return self.views[queries]

    def raw(self) -> tuple[View, Observed]:
        """The same where the client sends the image itself."""
        if "raw" not in self.views:
            key = _named(self.key, "raw")
            view = references.raw_view(key, self.data.auxiliary, self.data.validation, self.budget.sample)
            self.views["raw"] = view, query(view.release, self.data.test.image, key)
        return self.views["raw"]


def _look(key: PRNGKey, knowledge: Knowledge, data: Data, budget: Budget, queries: int) -> tuple[View, Observed]:
    keys = jax.random.split(_named(key, f"view {queries}"))
    view = prepare(keys[0], knowledge, data.auxiliary, data.validation, count=budget.sample, queries=queries)
    return view, query(view.release, data.test.image, keys[1], queries)


@dataclasses.dataclass(frozen=True, eq=False)
class _Trial:
    """One fitted member: its record, and its guesses on ``test`` where it has any."""

    record: Member
    guess: np.ndarray | None


def _run(scene: _Scene, attack: Attack) -> AttackResult:
    """Fits every member, chooses one on ``validation`` and scores it on ``test``."""
    view, test_z = scene.look(attack.queries)
    trials = _try_all(scene, attack, view, test_z)
    chosen = _choose(trials)
    if chosen is None or chosen.guess is None:
        reason = trials[0].record.status if trials else "failed: no member"
        return AttackResult(
            attack.name,
            attack.target,
            attack.queries,
            "",
            {},
            {},
            tuple(t.record for t in trials),
            Estimate(None, note=reason),
            status=reason,
        )
    judge = _judge_image if attack.target == "image" else _judge_attribute
    scores, reference_scores, leaked, per_example = judge(scene, attack, chosen.guess)
    return AttackResult(
        attack=attack.name,
        target=attack.target,
        queries=attack.queries,
        chosen=chosen.record.name,
        scores=scores,
        references=reference_scores,
        members=tuple(trial.record for trial in trials),
        leakage=leaked,
        per_example=tuple(round(float(value), 6) for value in per_example),
        gallery=_picture(chosen.guess[scene.shown]) if attack.target == "image" else None,
        status=chosen.record.status,
    )


def _try_all(
    scene: _Scene, attack: Attack, view: View, test_z: Observed, prefix: str = "", *, until_perfect: bool = False
) -> list[_Trial]:
    """Fits the members one after the other and lets each guess.

    ``until_perfect`` stops at one that makes no mistake on ``validation``: it would be chosen whatever the others do.
    """
    emit = scene.on_event or (lambda event: None)
    found, trials = [], []
    for member in attack.members:
        title = prefix + _title(attack, member)
        emit({"kind": "attack_start", "name": title, "total": member.steps})
        key = _named(scene.key, title)
        step = functools.partial(_step_event, emit, title)
        found.append(member.fit(key, view, step, tuple(found)))
        trials.append(_judged(scene, attack, member, found[-1], key, view, test_z))
        emit({"kind": "attack_end", "name": title})
        if until_perfect and trials[-1].record.status == "ok" and trials[-1].record.validation == 1.0:
            break
    return trials


def _step_event(emit: OnEvent, title: str, event: Mapping[str, Any]) -> None:
    emit({"kind": "attack_step", "name": title, **event})


def _judged(
    scene: _Scene, attack: Attack, member: Unfitted, fitted: Fitted, key: PRNGKey, view: View, test_z: Observed
) -> _Trial:
    """Lets a fitted member guess; numbers that go wrong are written down, never taken for privacy."""
    validation, guess = _guess(fitted, key, view.held), _guess(fitted, key, test_z)
    failed = fitted.failed
    if failed is None and (guess is None or validation is None):
        failed = "the guesses are not finite"
    status = "ok" if failed is None else f"failed: {failed}"
    if guess is None or validation is None:
        return _Trial(Member(member.name, None, None, member.steps, status), None)
    strengths = [_strength(attack.target, *pair) for pair in ((validation, view.validation), (guess, scene.data.test))]
    return _Trial(Member(member.name, *strengths, steps=member.steps, status=status), guess)


def _guess(fitted: Fitted, key: PRNGKey, z: Observed) -> np.ndarray | None:
    """The attacker's guesses, None where there is no attacker or a guess is not finite."""
    if fitted.attacker is None:
        return None
    guess = np.asarray(fitted.attacker(_named(key, "guess"), z))
    return guess if np.isfinite(guess).all() else None


def _strength(target: str, guess: np.ndarray, batch: Batch) -> float:
    """How strong a guess is, higher is stronger: balanced accuracy, or minus the MSE."""
    if target == "image":
        return -float(np.square(guess.astype(np.float64) - np.asarray(batch.image)).mean())
    return metrics.balanced_accuracy(guess.argmax(1), np.asarray(batch.sensitive[target]))


def _choose(trials: Sequence[_Trial]) -> _Trial | None:
    """The strongest on ``validation`` among those that did not fail, else among all with a finite score."""
    able = [trial for trial in trials if trial.guess is not None]
    sound = [trial for trial in able if trial.record.status == "ok"]
    return max(sound or able, key=lambda trial: trial.record.validation or 0.0, default=None)


def _judge_image(
    scene: _Scene, attack: Attack, guess: np.ndarray
) -> tuple[dict[str, Estimate], dict[str, float | None], Estimate, np.ndarray]:
    floors = references.image_floors(scene.view, scene.data.test, scene.answers)
    scores, mse = metrics.reconstruction(guess, scene.data.test.image, floors, scene.bootstrap)
    known: dict[str, float | None] = {"mse_mean_image": None, "mse_class_mean": None}
    known |= {"mse_mean_image": float(floors["mean"].mean())}
    if "class_mean" in floors:
        known["mse_class_mean"] = float(floors["class_mean"].mean())
    else:
        scores["r2_class_mean"] = Estimate(None, note="needs predict")
    return scores, known, Estimate(None, note="defined for attributes; for images read r2_class_mean"), mse


def _judge_attribute(
    scene: _Scene, attack: Attack, guess: np.ndarray
) -> tuple[dict[str, Estimate], dict[str, float | None], Estimate, np.ndarray]:
    task = next(task for task in scene.data.sensitive if task.name == attack.target)
    labels = np.asarray(scene.data.test.sensitive[task.name])
    scores = metrics.classification(guess, labels, scene.bootstrap)
    known, floor = references.attribute_floors(scene.view, scene.data.test, task, scene.answers, scene.bootstrap)
    before = _before(scene, attack)
    undefended = references.undefended_score(before)
    known["undefended"] = undefended.value if undefended else None
    ceiling = before.references.get("raw_input") if before else None
    known["raw_input"] = _raw_input(scene, attack) if ceiling is None else ceiling
    leaked = references.leakage(scores["balanced_accuracy"], floor, undefended)
    return scores, known, leaked, (guess.argmax(1) == labels).astype(float)


def _before(scene: _Scene, attack: Attack) -> AttackResult | None:
    """The same attack's result on the undefended reference, which says the same however often it is asked."""
    for queries in (attack.queries, 1):
        with contextlib.suppress(KeyError):
            return scene.reference and scene.reference.attack(attack.name, attack.target, queries)
    return None


def _raw_input(scene: _Scene, attack: Attack) -> float | None:
    """Balanced accuracy of the same family trained on the images themselves."""
    view, test_z = scene.raw()
    chosen = _choose(_try_all(scene, attack, view, test_z, "raw input, ", until_perfect=True))
    return None if chosen is None else chosen.record.test


def _utility(scene: _Scene) -> dict[str, Estimate]:
    if scene.answers is None:
        return {}
    label = np.asarray(scene.data.test.label)
    majority = float(np.bincount(label).max() / len(label))
    return {
        "accuracy": scene.bootstrap.mean(scene.answers.test == label),
        "majority_class": Estimate(
            majority, note="the share of the most frequent class, which an answer without z would reach"
        ),
    }


def _sizes(scene: _Scene) -> dict[str, int]:
    group = scene.data.test.group
    count = len(scene.data.test.label)
    return {
        "auxiliary_originals": scene.data.auxiliary.size,
        "auxiliary_sample": scene.budget.sample,
        "validation": len(scene.data.validation.label),
        "test": count,
        "test_originals": count if group is None else len(np.unique(np.asarray(group))),
    }


def _notes(scene: _Scene, attacks: Sequence[Attack]) -> tuple[str, ...]:
    notes = []
    blocks = {
        m.module.blocks
        for a in attacks
        for m in a.members
        if isinstance(m, decoder.Net) and isinstance(m.module, ResidualDecoder)
    }
    notes += [
        f"the residual decoder has {count} blocks within this budget, not 8" for count in sorted(blocks) if count != 8
    ]
    if scene.predict is None:
        notes.append("no predictor was given: utility, label-mediated floor and class-mean floor are missing")
    return tuple(notes)


def _cost(release: Release, shape: tuple[int, int, int]) -> CostCard | None:
    """None where the weights are hidden in a closure: counting them as none would flatter the client."""
    return cost_card(release, shape) if jax.tree.leaves(release.variables) else None


def _distinct(labels: np.ndarray) -> np.ndarray:
    """Indices of up to ``GALLERY`` test images of distinct classes, not all from the start of the split."""
    classes = np.unique(labels)[:GALLERY]
    found = [np.flatnonzero(labels == k) for k in classes]
    return np.array([rows[(7 * place) % len(rows)] for place, rows in enumerate(found)])


def _image_shape(batch: Batch) -> tuple[int, int, int]:
    _, height, width, channels = batch.image.shape
    return height, width, channels


def _picture(images: np.ndarray) -> Picture | None:
    return Picture.of(images) if images.shape[-1] in (1, 3) else None


def _title(attack: Attack, member: Unfitted) -> str:
    """Name of a member among all: "attribute ink: probe", with k where it is not 1."""
    often = "" if attack.queries == 1 else f" k={attack.queries}"
    return f"{attack.name} {attack.target}{often}: {member.name}"


def _named(key: PRNGKey, name: str) -> Array:
    """A key that depends on a name, so that adding an attack leaves every other one as it was."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
