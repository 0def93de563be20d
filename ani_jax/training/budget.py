"""The utility budget: the user says how much accuracy may be lost, dual ascent lowers the privacy weight (METHODS 4) [ours].

    log m <- clip(log m + RATE * clip((accuracy + slack - needed) / lost, -1, 1), low, high),   slack = SLACK (1 + cos(pi t)) / 2

of the accuracy on a part of ``validation``, in evaluation mode with the noise on, ``t`` being the part of the run that is over:
what the rate of learning, which decays by the same cosine, costs comes back at its end. ``m`` scales the weights in
``Weights.privacy``. Among the states of every ``CHOICE`` steps, the one that leaks least inside the accuracy budget on all of
``validation`` is kept.

A cross-entropy cannot stand in for the accuracy: of an undefended split at its plateau it is 0.014 nats, of a client with noise
at the same accuracy three times that, and m then falls to its lower bound and stays there (measured, docs/RESULTS.md).
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ani_jax.defenses.base import Defense, Forward, Phase
from ani_jax.losses.task import accuracy, cross_entropy
from ani_jax.training.callbacks import Callback, Run
from ani_jax.training.checkpoint import Checkpoints
from ani_jax.training.phases import schedule
from ani_jax.training.state import State
from ani_jax.types import Batch

EVERY = 10
"""Steps between two looks of :class:`Watch` at the held-out slice."""
LOOK = 25
"""Steps between two moves of the multiplier."""
SEEN = 1024
"""Images at most of ``validation`` that a move is decided by and leakage weighed on; a point of accuracy is ten of them."""
RATE = 0.1
"""How far log m moves when the accuracy is a whole budget above or below what is needed."""
RANGE = (-5.0, 0.0)
"""Of log m: a run spends at most the weights that it is given, and takes back what they cost too much. At seven times its weights
``partition`` lost 1.0 points on test, at most its own 0.5, and hid no more (docs/RESULTS.md)."""
SLACK = 0.02
"""Accuracy that a run may be short by before its rate has decayed."""
MARGIN = 0.5
"""Part of the budget that is kept back: ``validation`` shows a hundred or two originals, and the best of thirty states on it is
worth less on others: ``partition`` at a practice seed lost 0.6 points on it and 1.0 on test."""
HELD = 0.25
"""Part of the run in which m stays 1: a network that has just begun is inaccurate whatever it hides."""
CHOICE = 50
"""Steps between two states that may be kept."""


@dataclasses.dataclass(frozen=True)
class UtilityBudget:
    """What the defence may cost, in the terms of the ceiling: the undefended split that it is measured against.

    Attributes:
        lost: accuracy that may be lost, in (0, 1).
        accuracy: least accuracy on ``validation`` that counts as inside the budget, ``MARGIN`` kept back.
    """

    lost: float
    accuracy: float

    def __post_init__(self):
        for name, value, allowed in (
            ("lost", self.lost, 0 < self.lost < 1),
            ("accuracy", self.accuracy, 0 <= self.accuracy <= 1),
        ):
            if not allowed:
                raise ValueError(f"utility_budget: {name}={value}; lost must be in (0, 1), accuracy in [0, 1]")

    @classmethod
    def of(cls, ceiling: Sequence[Mapping[str, Any]], lost: float) -> "UtilityBudget":
        """The budget that the ceiling's own log gives.

        Args:
            ceiling: log entries of a run with :class:`Watch`, oldest first; the last names "validation/accuracy".
            lost: accuracy that may be lost.

        Raises:
            ValueError: the log holds no such entry, or ``lost`` is out of range.

        Example:
            >>> UtilityBudget.of([{"validation/accuracy": 0.97}], 0.01)
            UtilityBudget(lost=0.01, accuracy=0.965)
        """
        if not ceiling or "validation/accuracy" not in ceiling[-1]:
            raise ValueError("utility_budget: the undefended reference has no log of its accuracy on validation")
        return cls(lost, max(ceiling[-1]["validation/accuracy"] - (1 - MARGIN) * lost, 0.0))


class Appraisal(NamedTuple):
    """One look at a fixed batch in evaluation mode, noise on.

    Attributes:
        loss: primary cross-entropy, nats.
        accuracy: of the primary task.
        leakage: the privacy terms under the weights given, of ``SEEN`` images at most; lower is more private.
    """

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]
    leakage: Float[Array, ""]


@functools.partial(jax.jit, static_argnames=("defense", "terms"))
def appraise(
    state: State, batch: Batch, weights: Mapping[str, Array], defense: Defense, terms: tuple[str, ...] = ()
) -> Appraisal:
    """What a state is worth.

    Args:
        state: whose parameters, and whose key and step seed the noise.
        batch: a fixed slice.
        weights: that the leakage is weighed with: the defence's own, so that checkpoints compare whatever m is.
        defense: modules and losses.
        terms: active terms; those that do not protect are no leakage.
    """
    variables = {
        party: {"params": state.params[party], "batch_stats": state.statistics[party]} for party in ("client", "server")
    }
    # Of the state alone: looked at again, it meets the same noise and is worth the same.
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 1)
    sent: Any = defense.client.apply(variables["client"], batch.image, key, train=False)
    logits: Any = defense.server.apply(variables["server"], sent.z, train=False)
    answers: Any = {
        one.name: one.module.apply({"params": state.params["adversaries"][one.name]}, sent.z, train=False)
        for one in defense.adversaries
    }
    leakage = jnp.float32(0)
    if private := [name for name in terms if name in defense.weights.privacy]:
        # Dependence is of pairs: of all images it would take longer than the steps between two looks.
        few, some = _few((Forward(sent.z, sent.aux, logits, answers, {}), batch))
        losses = defense.client_loss(few._replace(extra=state.extra), some)
        factors = defense.weights.factors(weights)
        leakage = jnp.asarray(sum(factors[name] * losses[name] for name in private))
    return Appraisal(cross_entropy(logits, batch.label).mean(), accuracy(logits, batch.label).mean(), leakage)


@functools.partial(jax.jit, static_argnames=("budget", "defense"))
def ascend(
    state: State, accuracy: Float[Array, ""], weights: Mapping[str, Array], budget: UtilityBudget, defense: Defense
) -> State:
    """One step of dual ascent; the new weights are in the state, where the training step reads them.

    Args:
        state: after a training step.
        accuracy: of this state, slack included.
        weights: the defence's own, which the multiplier scales.
        budget: what is needed, and the scale on which it is missed.
        defense: which weights are scaled, and how.

    Returns:
        The state with its multiplier, constraint value (budgets that the accuracy is short by) and weights moved.
    """
    constraint = (budget.accuracy - accuracy) / budget.lost
    # Clipping to RANGE is the anti-windup: from the bound, the way back starts at once.
    log_multiplier = jnp.clip(state.budget["log_multiplier"] - RATE * jnp.clip(constraint, -1, 1), *RANGE)
    scaled = defense.weights.scaled(weights, jnp.exp(log_multiplier))
    return dataclasses.replace(
        state, weights=scaled, budget={"log_multiplier": log_multiplier, "constraint": constraint}
    )


def rank(seen: Appraisal, budget: UtilityBudget) -> tuple[bool, float]:
    """By which states are preferred, the highest first: inside the budget, then the least leakage.

    Outside the budget the more accurate one is preferred, so that a run that cannot keep its budget fails by little.

    Example:
        >>> budget = UtilityBudget(0.01, 0.96)
        >>> rank(Appraisal(0.3, 0.9, -5.0), budget), rank(Appraisal(0.1, 0.97, 5.0), budget)
        ((False, 0.9), (True, -5.0))
    """
    inside = float(seen.accuracy) >= budget.accuracy
    return inside, -float(seen.leakage) if inside else float(seen.accuracy)


def spends(defense: Defense, phase: Phase) -> bool:
    """Whether a phase has a term that a utility budget weighs.

    Example:
        >>> from ani_jax.defenses import registry
        >>> ani = registry.build("ani", 10, (32, 32, 3))
        >>> [spends(ani, phase) for phase in ani.phases]
        [False, True]
    """
    return any(term in defense.weights.privacy for term in phase.objective)


class Watch(Callback):
    """Logs how a ceiling rises on the held-out slice, and its accuracy on ``validation``, which budgets are taken from."""

    def look(self, run: Run) -> Mapping[str, Array]:
        """Looks every ``EVERY`` steps; at the end at ``validation`` too."""
        if not run.part.due(EVERY):
            return {}
        state, weights = run.state, run.defense.weights.arrays()
        found = appraise(state, run.data.holdout, weights, run.defense)
        seen = {"heldout/loss": found.loss, "heldout/accuracy": found.accuracy}
        # UtilityBudget.of reads the accuracy on validation from a log's last entry.
        if run.part.end == run.part.total:
            seen["validation/accuracy"] = appraise(state, run.data.validation, weights, run.defense).accuracy
        return seen


class Spend(Callback):
    """Keeps to a utility budget: dual ascent finds the privacy weights, and the run ends with the preferred state.

    Tells "selection" of every state that could be kept.

    Args:
        utility: what the defence may cost.
        checkpoints: where the run saves: the best of them is the kept state, and is read back on resuming.

    Attributes:
        kept: a copy of the preferred state so far.
        rank: its phase, and its rank there.
    """

    def __init__(self, utility: UtilityBudget, checkpoints: Checkpoints | None = None):
        self.utility, self.checkpoints = utility, checkpoints
        self.kept: State | None = None
        self.rank: tuple[int, bool, float] | None = None

    def start(self, run: Run) -> None:
        """Reads back what was kept.

        Raises:
            ValueError: the defence has nothing that could be scaled.
        """
        if not any(spends(run.defense, phase) for phase, _ in schedule(run.defense)):
            raise ValueError(f"utility: {run.defense.name} has no privacy weight above 0 that it could scale")
        if self.checkpoints is not None and (found := self.checkpoints.restore(run.state, best=True)) is not None:
            # Appraised again, a state is worth the same.
            self.kept, (_, self.rank) = found[1], self._appraise(run, found[1])

    def look(self, run: Run) -> Mapping[str, Array]:
        """Moves the weights every ``LOOK`` steps of a phase that has any; considers the state every ``CHOICE`` steps."""
        logged, part = {}, run.part
        if part.due(LOOK) and part.end > HELD * part.total and spends(run.defense, part.phase):
            state, weights = run.state, run.defense.weights.arrays()
            found = appraise(state, _few(run.data.validation), weights, run.defense)
            slack = SLACK * (1 + math.cos(math.pi * part.end / part.total)) / 2
            moved = ascend(state, found.accuracy + slack, weights, self.utility, run.defense)
            run.change(weights=moved.weights, budget=moved.budget)
            logged = {"validation/loss": found.loss, "validation/accuracy": found.accuracy}
            # The next step donates the state; what is logged must outlive it.
            logged |= {f"budget/{name}": value + 0.0 for name, value in moved.budget.items()}
        if part.due(CHOICE):
            self.consider(run)
        return logged

    def consider(self, run: Run) -> None:
        """Keeps the state if it is preferred; asked again, it decides the same."""
        state = run.state
        # Before a phase that protects, all is accurate and nothing hidden: it would win where no later state keeps the budget.
        if not any(spends(run.defense, phase) for phase, _ in schedule(run.defense)[: int(state.phase) + 1]):
            return
        seen, own = self._appraise(run, state)
        better = self.rank is None or own > self.rank
        if better:
            # The training loop donates its state, so what is kept must be a copy. Saved, it is one to resume from as well.
            self.kept, self.rank, run.rank = jax.tree.map(jnp.copy, run.state), own, own
        values = {"accuracy": float(seen.accuracy), "leakage": float(seen.leakage)}
        run.tell({"kind": "selection", "step": int(state.step), "kept": better, **values})

    def end(self, run: Run) -> None:
        """The preferred state is the result."""
        if self.kept is not None:
            run.state = self.kept

    def _appraise(self, run: Run, state: State) -> tuple[Appraisal, tuple[int, bool, float]]:
        weights = run.defense.weights
        seen = appraise(state, run.data.validation, weights.arrays(), run.defense, weights.active)
        # What a later phase does to a client is no option, so its states go before.
        return seen, (int(state.phase), *rank(seen, self.utility))


def _few(rows: Any) -> Any:
    """At most ``SEEN`` rows of a pytree, spread over all."""
    return jax.tree.map(lambda leaf: leaf[:: -(-len(leaf) // SEEN)], rows)
