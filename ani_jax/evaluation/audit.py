"""The audit: sends a frozen client through freshly trained attackers and writes down what they found.

    evidence = audit(release, data, predict)

Attackers learn from ``auxiliary``, the best member of each attack is chosen on ``validation``, and ``test`` is scored
once, here and nowhere else. ``defend`` and ``budget`` are never looked at.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import TypeVar

import jax
import numpy as np

from ani_jax.attacks.base import Attack, OnEvent
from ani_jax.attacks.query import as_predictor, as_release
from ani_jax.evaluation import judge
from ani_jax.evaluation.budgets import BUDGETS, Budget, default_attacks
from ani_jax.evaluation.cost import cost_card
from ani_jax.evaluation.scene import Scene, named, title
from ani_jax.evaluation.seconds import within
from ani_jax.evaluation.trials import reason
from ani_jax.information.criterion import criterion
from ani_jax.information.critics import Critics
from ani_jax.records import AttackResult, CostCard, Criterion, Estimate, Evidence, from_json, to_json
from ani_jax.types import Data, Features, Knowledge, Logits, Release

RESIDUAL_BLOCKS = 8
"""Depth of the residual decoder that METHODS 5.2 asks for."""
R = TypeVar("R")
Store = MutableMapping[str, str]
"""Where finished parts of an audit are kept, name -> JSON: a dict, or a folder that looks like one."""


def audit(
    release: Callable[..., Features] | Release,
    data: Data,
    predict: Callable[[Features], Logits] | None = None,
    attacks: Sequence[Attack] | None = None,
    budget: str | float | Budget = "quick",
    seed: int = 0,
    reference: Evidence | None = None,
    subject: str = "release",
    on_event: OnEvent | None = None,
    *,
    random_release: Callable[..., Features] | Release | None = None,
    store: Store | None = None,
) -> Evidence:
    """Attacks a client and reports what leaks.

    Args:
        release: the client: a :class:`ani_jax.types.Release`, or any JAX function ``f(x)`` or ``f(x, key)`` of a batch
            of images.
        data: ``auxiliary`` trains the attackers, ``validation`` chooses among them, ``test`` is reported.
        predict: the provider's network, ``predict(z) -> logits``; without it utility, the label-mediated floor and the
            class-mean floor are left out, with a note.
        attacks: who attacks; None means :func:`default_attacks` within the budget.
        budget: a name in ``BUDGETS``, a number of seconds (turned into steps by a fixed table, see
            :func:`ani_jax.evaluation.seconds.within`), or a table of steps of your own, recorded as "custom".
        seed: everything random follows from it.
        reference: the evidence of the undefended split, which leakage is normalised by.
        subject: name of what is audited.
        on_event: called with plain dicts: kind "attack_start" (name, total steps), "attack_step" (name, step, loss),
            "attack_end".
        random_release: the client's architecture with fresh random weights: what its shape alone lets through is then
            shown beside every attribute score.
        store: keeps every finished attack, so that the same audit, interrupted and started again, goes on behind it and
            ends with the same evidence; parts of another client, seed or budget are not taken.

    Returns:
        The evidence; plain data, identical for identical arguments on one kind of machine. An attacker that raises or
        diverges is in it as failed, never as privacy.

    Raises:
        ValueError: an unknown budget, a negative seed, or a release that does not give one floating-point row an image.
    """
    name, table = _table(budget)
    if seed < 0:
        raise ValueError(f"seed={seed}: must be 0 or more")
    release = as_release(release)
    random = None if random_release is None else as_release(random_release)
    _, *sides = data.test.image.shape
    shape: tuple[int, int, int] = (sides[0], sides[1], sides[2])
    if attacks is None:
        attacks = default_attacks(table, data.sensitive, shape, release, predict=predict is not None)
    knowledge = Knowledge(release, None if predict is None else as_predictor(predict))
    scene = Scene.of(knowledge, data, table, seed, reference, random, on_event)
    kept = _Parts(store, "" if store is None else scene.digest())
    results = tuple(
        kept.part(title(attack), attack, AttackResult, functools.partial(judge.run, scene, attack))
        for attack in attacks
    )
    found, problem = _criterion(scene, kept)
    return Evidence(
        subject=subject,
        dataset=data.name,
        seed=seed,
        budget=name,
        steps={title(attack, member): member.steps for attack in attacks for member in attack.members},
        sizes=_sizes(scene),
        utility=_utility(scene),
        attacks=results,
        gallery=judge.picture(np.asarray(scene.data.test.image)[scene.shown]),
        cost=_cost(release, shape),
        notes=(*_notes(scene, attacks), *_found(results), *problem),
        criterion=found,
    )


def _table(budget: str | float | Budget) -> tuple[str, Budget]:
    """Name and steps of a budget."""
    if isinstance(budget, Budget):
        return "custom", budget
    if isinstance(budget, str):
        if budget not in BUDGETS:
            raise ValueError(f"budget={budget!r}: must be one of {', '.join(BUDGETS)}, or a number of seconds")
        return budget, BUDGETS[budget]
    return f"{budget:g} s", within(budget)


class _Parts:
    """The finished parts of one audit, by name and by what determines them."""

    def __init__(self, store: Store | None, digest: str):
        self.store, self.digest = store, digest

    def part(self, name: str, settings: object, kind: type[R], make: Callable[[], R]) -> R:
        """The part that is kept, else a freshly made one, which is kept."""
        if self.store is None:
            return make()
        key = f"{name} {hashlib.sha256(f'{self.digest} {settings!r}'.encode()).hexdigest()[:16]}"
        if key not in self.store:
            self.store[key] = to_json(make())
        return from_json(kind, self.store[key])


def _criterion(scene: Scene, kept: _Parts) -> tuple[Criterion | None, tuple[str, ...]]:
    """The inversion-difficulty criterion where the budget has steps for it, or a note why it is missing."""
    steps = scene.budget.critic_steps
    if not steps:
        return None, ()
    critics = Critics(steps=steps)
    scene.emit({"kind": "attack_start", "name": "criterion", "total": 0})
    try:
        work = functools.partial(criterion, named(scene.key, "criterion"), scene.view, scene.data, critics)
        return kept.part("criterion", critics, Criterion, work), ()
    except Exception as error:
        return None, (f"no inversion-difficulty criterion: {reason(error)}",)
    finally:
        scene.emit({"kind": "attack_end", "name": "criterion"})


def _utility(scene: Scene) -> dict[str, Estimate]:
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


def _sizes(scene: Scene) -> dict[str, int]:
    group = scene.data.test.group
    count = len(scene.data.test.label)
    return {
        "auxiliary_originals": scene.data.auxiliary.size,
        "auxiliary_sample": scene.budget.sample,
        "validation": len(scene.data.validation.label),
        "test": count,
        "test_originals": count if group is None else len(np.unique(np.asarray(group))),
    }


def _notes(scene: Scene, attacks: Sequence[Attack]) -> tuple[str, ...]:
    notes, blocks = [], scene.budget.residual_blocks
    if blocks != RESIDUAL_BLOCKS and any(m.name == "residual" for attack in attacks for m in attack.members):
        notes.append(f"the residual decoder has {blocks} blocks within this budget, not {RESIDUAL_BLOCKS}")
    if scene.predict is None:
        notes.append("no predictor was given: utility, label-mediated floor and class-mean floor are missing")
    if scene.random is None:
        notes.append("no random copy of the client was given: what its architecture alone lets through is not shown")
    return tuple(notes)


def _found(results: Sequence[AttackResult]) -> Iterator[str]:
    """What attackers found out about the client, each once."""
    return iter(dict.fromkeys(member.note for result in results for member in result.members if member.note))


def _cost(release: Release, shape: tuple[int, int, int]) -> CostCard | None:
    """None where the weights are hidden in a closure: counting them as none would flatter the client."""
    return cost_card(release, shape) if jax.tree.leaves(release.variables) else None
