"""The utility budget: the user says how much accuracy may be lost, dual ascent finds the privacy weight (METHODS 4) [ours].

    log m <- clip(log m + eta * (target - ema), low, high)

``ema`` follows the primary cross-entropy on the held-out tenth of ``defend``, in evaluation mode with the noise on: a training
batch's would go to zero on small data and the multiplier would explode. ``m`` scales the weights in ``Weights.privacy``. Among
the states of every ``CHOICE`` steps, the one that leaks least inside the accuracy budget on ``validation`` is kept. What a nat
costs in accuracy differs from seed to seed, so each of them also moves the target, between what it began with and a floor:

    log target <- clip(log target - rho * clip((needed - accuracy) / lost, -1, 1), floor, start)

Down only where ema has met the target: elsewhere the multiplier is already on its way, and both together overshoot.
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
"""Steps between two looks at the held-out slice."""
RATE = 0.25
"""How far log m moves when the cross-entropy is at twice its target, or at zero."""
DECAY = 0.5
"""Weight of the past in ``ema``."""
RANGE = (-7.0, 7.0)
"""Of log m."""
CHOICE = 50
"""Steps between two states that may be kept."""
TIGHTENING = 0.3
"""How far the log of the target moves when the accuracy is a whole budget too low."""
TIGHTEST = -2.5
"""Of that log, relative to the budget's own target, which is never exceeded."""


@dataclasses.dataclass(frozen=True)
class UtilityBudget:
    """What the defence may cost, in the terms of the ceiling: the undefended split that it is measured against.

    Attributes:
        lost: accuracy that may be lost, in (0, 1).
        loss: cross-entropy on the held-out slice that dual ascent aims at to begin with, in nats.
        accuracy: least accuracy on ``validation`` that counts as inside the budget.
    """

    lost: float
    loss: float
    accuracy: float

    def __post_init__(self):
        for name, value, allowed in (
            ("lost", self.lost, 0 < self.lost < 1),
            ("loss", self.loss, 0 < self.loss < math.inf),
            ("accuracy", self.accuracy, 0 <= self.accuracy <= 1),
        ):
            if not allowed:
                raise ValueError(
                    f"utility_budget: {name}={value}; lost must be in (0, 1), loss positive, accuracy in [0, 1]"
                )

    @classmethod
    def of(cls, ceiling: Sequence[Mapping[str, Any]], lost: float) -> "UtilityBudget":
        """The budget that the ceiling's own log gives.

        The margin is the rise in cross-entropy at which the ceiling's accuracy was ``lost`` lower: the least-squares slope of
        cross-entropy on accuracy lost, over the part of its training that was within 10 points of its end, times ``lost``.

        Args:
            ceiling: log entries of a run with :class:`Watch`, oldest first; the last names "validation/accuracy".
            lost: accuracy that may be lost.

        Raises:
            ValueError: the log holds no such entries, or ``lost`` is out of range.

        Example:
            >>> log = [{"heldout/loss": 0.4, "heldout/accuracy": 0.9}, {"heldout/loss": 0.1, "heldout/accuracy": 0.98}]
            >>> budget = UtilityBudget.of([*log[:1], {**log[1], "validation/accuracy": 0.97}], 0.01)
            >>> round(budget.loss, 4), round(budget.accuracy, 4)
            (0.1375, 0.96)
        """
        pairs = [(row["heldout/loss"], row["heldout/accuracy"]) for row in ceiling if "heldout/loss" in row]
        if not pairs or "validation/accuracy" not in ceiling[-1]:
            raise ValueError("utility_budget: the undefended reference has no log of its held-out cross-entropy")
        end_loss, end_accuracy = pairs[-1]
        # The slope near the end is wanted: rows from early training, far below it, must not count.
        rises = [(loss - end_loss, end_accuracy - right) for loss, right in pairs if 0 < end_accuracy - right <= 0.1]
        squares = sum(fall**2 for _, fall in rises)
        # A slope below 0 would ask for a smaller cross-entropy than the ceiling itself has.
        slope = max(sum(rise * fall for rise, fall in rises) / squares, 0.0) if squares else 1.0
        # The excess is a ratio to this loss, so it must not be 0.
        return cls(lost, max(end_loss + slope * lost, 1e-3), max(ceiling[-1]["validation/accuracy"] - lost, 0.0))


class Appraisal(NamedTuple):
    """One look at a fixed batch in evaluation mode, noise on.

    Attributes:
        loss: primary cross-entropy, nats.
        accuracy: of the primary task.
        leakage: the privacy terms under the weights given; lower is more private.
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
        losses = defense.client_loss(Forward(sent.z, sent.aux, logits, answers, state.extra), batch)
        factors = defense.weights.factors(weights)
        leakage = jnp.asarray(sum(factors[name] * losses[name] for name in private))
    return Appraisal(cross_entropy(logits, batch.label).mean(), accuracy(logits, batch.label).mean(), leakage)


@functools.partial(jax.jit, static_argnames=("budget", "defense"))
def ascend(
    state: State, loss: Float[Array, ""], weights: Mapping[str, Array], budget: UtilityBudget, defense: Defense
) -> State:
    """One step of dual ascent; the new weights are in the state, where the training step reads them.

    The target is ``budget.loss`` as :func:`tighten` has left it.

    Args:
        state: after a training step.
        loss: cross-entropy on the held-out slice.
        weights: the defence's own, which the multiplier scales.
        budget: the target.
        defense: which weights are scaled, and how.

    Returns:
        The state with its multiplier, ema, constraint value (ema over target, minus 1) and weights moved.
    """
    # An ema below 0 has seen nothing yet (state.BUDGET): no cross-entropy is negative.
    ema = jnp.where(state.budget["ema"] < 0, loss, DECAY * state.budget["ema"] + (1 - DECAY) * loss)
    excess = ema / (budget.loss * jnp.exp(state.budget["log_target"])) - 1
    # Clipping to RANGE is the anti-windup: from the bound, the way back starts at once.
    log_multiplier = jnp.clip(state.budget["log_multiplier"] - RATE * jnp.clip(excess, -1, 1), *RANGE)
    scaled = defense.weights.scaled(weights, jnp.exp(log_multiplier))
    moved = {"log_multiplier": log_multiplier, "ema": ema, "constraint": excess}
    return dataclasses.replace(state, weights=scaled, budget=state.budget | moved)


def tighten(state: State, seen: Appraisal, budget: UtilityBudget) -> State:
    """Moves the target of dual ascent by what a state's accuracy says of it: back inside the budget, down outside.

    Down only where dual ascent has met the target.

    Args:
        state: whose target it is.
        seen: the state on ``validation``.
        budget: the accuracy that is needed, and the scale on which it is missed.
    """
    fault = jnp.clip((budget.accuracy - seen.accuracy) / budget.lost, -1, 1)
    # Measured: lowering the target where dual ascent has not met it yet overshot; there the multiplier is on its way.
    fault = jnp.where(state.budget["constraint"] > 0, jnp.minimum(fault, 0), fault)
    log_target = jnp.clip(state.budget["log_target"] - TIGHTENING * fault, TIGHTEST, 0.0)
    return dataclasses.replace(state, budget=state.budget | {"log_target": log_target})


def rank(seen: Appraisal, budget: UtilityBudget) -> tuple[bool, float]:
    """By which states are preferred, the highest first: inside the budget, then the least leakage.

    Outside the budget the more accurate one is preferred, so that a run that cannot keep its budget fails by little.

    Example:
        >>> budget = UtilityBudget(0.01, 0.1, 0.96)
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
    """Logs the held-out cross-entropy and accuracy, as a ceiling that budgets are taken from must."""

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
        rank: its rank.
    """

    def __init__(self, utility: UtilityBudget, checkpoints: Checkpoints | None = None):
        self.utility, self.checkpoints = utility, checkpoints
        self.kept: State | None = None
        self.rank: tuple[bool, float] | None = None

    def start(self, run: Run) -> None:
        """Reads back what was kept.

        Raises:
            ValueError: the defence has nothing that could be scaled.
        """
        if not any(spends(run.defense, phase) for phase, _ in schedule(run.defense)):
            raise ValueError(f"utility: {run.defense.name} has no privacy weight above 0 that it could scale")
        if self.checkpoints is not None and (found := self.checkpoints.restore(run.state, best=True)) is not None:
            # Appraised again, a state is worth the same.
            self.kept, self.rank = found[1], rank(self._appraise(run, found[1]), self.utility)

    def look(self, run: Run) -> Mapping[str, Array]:
        """Moves the weights every ``EVERY`` steps of a phase that has any; considers the state every ``CHOICE`` steps."""
        logged = {}
        if run.part.due(EVERY) and spends(run.defense, run.part.phase):
            state, weights = run.state, run.defense.weights.arrays()
            found = appraise(state, run.data.holdout, weights, run.defense)
            moved = ascend(state, found.loss, weights, self.utility, run.defense)
            run.change(weights=moved.weights, budget=moved.budget)
            logged = {"heldout/loss": found.loss, "heldout/accuracy": found.accuracy}
            # The next step donates the state; what is logged must outlive it.
            logged |= {f"budget/{name}": value + 0.0 for name, value in moved.budget.items()}
        if run.part.due(CHOICE):
            self.consider(run)
        return logged

    def consider(self, run: Run) -> None:
        """Moves the target by what was seen, and keeps the state if it is preferred; asked again, it decides the same."""
        state = run.state
        # Before a phase that protects, all is accurate and nothing hidden: it would win where no later state keeps the budget.
        if not any(spends(run.defense, phase) for phase, _ in schedule(run.defense)[: int(state.phase) + 1]):
            return
        seen = self._appraise(run, state)
        run.change(budget=tighten(state, seen, self.utility).budget)
        own = rank(seen, self.utility)
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

    def _appraise(self, run: Run, state: State) -> Appraisal:
        weights = run.defense.weights
        return appraise(state, run.data.validation, weights.arrays(), run.defense, weights.active)
