"""The training loop: draws batches, runs the step, saves, and says what happened through ``on_event``."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ani_jax.data.loader import draw_batch
from ani_jax.defenses.base import Defense, Phase, freeze
from ani_jax.losses.task import accuracy
from ani_jax.training import budget
from ani_jax.training.budget import Appraisal, UtilityBudget
from ani_jax.training.checkpoint import Checkpoints
from ani_jax.training.phases import enter, schedule
from ani_jax.training.state import State, init
from ani_jax.training.step import Metrics, make_step
from ani_jax.types import Batch, Data, PRNGKey, Source

OnEvent = Callable[[Mapping[str, Any]], None]
"""Receives plain dictionaries; "kind" says what they are."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step and which quantity went bad."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a defence is trained; everything in it may change the result.

    Attributes:
        seed: of initialisation, batches and noise.
        batch_size: images per step.
        steps_per_dispatch: optimiser steps in one compiled call. Another value compiles another program, so numbers may
            differ in the last digits.
        log_every: steps between two entries of the log; a multiple of ``steps_per_dispatch``.
        checkpoint_every: steps between two checkpoints; likewise.
        keep: checkpoints kept.
    """

    seed: int = 0
    batch_size: int = 64
    steps_per_dispatch: int = 1
    log_every: int = 10
    checkpoint_every: int = 100
    keep: int = 2

    def __post_init__(self):
        for name in ("batch_size", "steps_per_dispatch", "log_every", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        for name in ("log_every", "checkpoint_every"):
            if getattr(self, name) % self.steps_per_dispatch:
                raise ValueError(
                    f"{name}={getattr(self, name)}: must be a multiple of steps_per_dispatch={self.steps_per_dispatch}"
                )


def train(
    defense: Defense,
    data: Data,
    config: TrainConfig,
    checkpoints: Checkpoints | None = None,
    on_event: OnEvent = lambda event: None,
    utility: UtilityBudget | None = None,
    watch: bool = False,
) -> State:
    """Trains a defence through all its phases, from the newest intact checkpoint where there is one.

    Args:
        defense: what to train.
        data: ``defend`` trains; a utility budget looks at ``budget`` and, to choose a checkpoint, at ``validation``.
        config: how.
        checkpoints: where to resume from and save to; None keeps nothing.
        on_event: receives "start", "metrics" (every ``log_every`` steps), "checkpoint", "selection" and "end".
        utility: what the defence may cost: its privacy weights are then found by dual ascent.
        watch: log the held-out cross-entropy and accuracy, as a ceiling that budgets are taken from must.

    Returns:
        The final state, or the one that the utility budget prefers; on one device it is bit-identical however often the run
        was killed and resumed.

    Raises:
        TrainingError: a loss or gradient is not finite. Checkpoints saved before stay.
        CheckpointError: checkpoints exist and none can be trusted.
    """
    phases = schedule(defense)
    total = phases[-1][1]
    init_key, data_key = jax.random.split(jax.random.key(config.seed))
    state = init(defense, init_key)
    kept = None if utility is None else _Kept(defense, data, utility, checkpoints, state)
    if checkpoints is not None and (found := checkpoints.restore(state)) is not None:
        state = found[1]
        if kept is not None:
            kept.consider(state, on_event)
    step = int(state.step)
    on_event({"kind": "start", "step": step, "total": total})
    pending: tuple[int, str, Metrics] | None = None
    for index, (phase, end) in enumerate(phases):
        if step >= end:
            continue
        state = enter(state, index, phase, data)
        while step < end:
            count = min(config.steps_per_dispatch, end - step)
            state, metrics = _dispatch(
                state, data.defend, data_key, defense, _compiled_part(phase), config.batch_size, count
            )
            step += count
            # The metrics of an earlier dispatch are read while this one runs, so the device never waits for the host.
            pending = _report(pending, on_event)
            spends = utility is not None and _spends(defense, phase)
            if (spends or watch) and (_due(step, count, budget.EVERY) or step == total):
                weights = defense.init_weights()
                seen = budget.look(state, data.budget, weights, defense, ())
                metrics |= {"heldout/loss": seen.loss, "heldout/accuracy": seen.accuracy}
                if utility is not None and spends:
                    state = budget.ascend(state, seen.loss, weights, utility, defense)
                    metrics |= {f"budget/{name}": value + 0.0 for name, value in state.budget.items()}
                if watch and step == total:
                    metrics["validation/accuracy"] = budget.look(state, data.validation, weights, defense, ()).accuracy
            if _due(step, count, config.log_every) or step == total:
                pending = (step, phase.name, metrics)
            if not (_due(step, count, config.checkpoint_every) or step == total):
                continue
            if checkpoints is not None:
                # What was measured up to a checkpoint is reported before it: a run resumed there has the same log.
                pending = _report(pending, on_event)
                _check(step, metrics)
                checkpoints.save(step, state)
                on_event({"kind": "checkpoint", "step": step})
            if kept is not None:
                kept.consider(state, on_event)
    _report(pending, on_event)
    on_event({"kind": "end", "step": step, "total": total})
    return state if kept is None else kept.state


def evaluate(defense: Defense, state: State, batch: Batch, key: Array, chunk: int = 256) -> float:
    """Accuracy of the frozen client and server on a batch, in chunks; the metric is in [0, 1]."""
    release, predict = freeze(defense, state.params, state.statistics)
    correct = [
        _correct(release, predict, batch.image[start : start + chunk], batch.label[start : start + chunk], key)
        for start in range(0, len(batch.label), chunk)
    ]
    return float(sum(correct)) / len(batch.label)


class _Kept:
    """The checkpoint that a utility budget prefers, on disk beside the others where there is a folder."""

    def __init__(
        self, defense: Defense, data: Data, utility: UtilityBudget, checkpoints: Checkpoints | None, like: State
    ):
        self.defense, self.data, self.utility = defense, data, utility
        self.saved = None if checkpoints is None else Checkpoints(checkpoints.directory / "kept", keep=1)
        found = self.saved.restore(like) if self.saved is not None else None
        self.state: State = like if found is None else found[1]
        self.seen: Appraisal | None = None if found is None else self._appraise(self.state)

    def consider(self, state: State, on_event: OnEvent) -> None:
        """Keeps a copy of the state if it is preferred; asked again about the same state, it decides the same."""
        phases = schedule(self.defense)
        if not any(_spends(self.defense, phase) for phase, _ in phases[: int(state.phase) + 1]):
            return
        seen = self._appraise(state)
        better = budget.preferred(seen, self.seen, self.utility)
        if better:
            # The training loop donates its state, so what is kept must be a copy.
            self.state, self.seen = jax.tree.map(jnp.copy, state), seen
            if self.saved is not None:
                self.saved.save(int(state.step), state)
        values = {"accuracy": float(seen.accuracy), "leakage": float(seen.leakage)}
        on_event({"kind": "selection", "step": int(state.step), "kept": better, **values})

    def _appraise(self, state: State) -> Appraisal:
        weights = self.defense.init_weights()
        return budget.look(state, self.data.validation, weights, self.defense, self.defense.active_terms())


def _spends(defense: Defense, phase: Phase) -> bool:
    """Whether a phase has a term that a utility budget weighs."""
    return any(term in defense.privacy for term in phase.objective)


def _due(step: int, count: int, every: int) -> bool:
    """Whether a multiple of ``every`` lies among the last ``count`` steps; a phase may end between two multiples."""
    return step // every > (step - count) // every


def _compiled_part(phase: Phase) -> Phase:
    """A phase without what the step does not depend on, so that a longer run does not compile again."""
    return dataclasses.replace(phase, name="", steps=1, prepare=None)


@functools.partial(jax.jit, static_argnames=("defense", "phase", "batch_size", "count"), donate_argnames="state")
def _dispatch(
    state: State, source: Source, data_key: PRNGKey, defense: Defense, phase: Phase, batch_size: int, count: int
) -> tuple[State, Metrics]:
    """``count`` steps in one program; the metrics are those of the last one, but a NaN of any step shows in "loss"."""
    step = make_step(defense, phase)

    def draw_and_step(state: State) -> tuple[State, Metrics]:
        return step(state, draw_batch(source, data_key, state.step, batch_size))

    state, metrics = draw_and_step(state)
    if count == 1:
        return state, metrics

    def body(carry: tuple[State, Metrics], _: None) -> tuple[tuple[State, Metrics], None]:
        state, before = carry
        state, metrics = draw_and_step(state)
        poisoned = jnp.where(jnp.isfinite(before["loss"]), metrics["loss"], before["loss"])
        return (state, {**metrics, "loss": poisoned}), None

    return jax.lax.scan(body, (state, metrics), None, length=count - 1)[0]


@jax.jit
def _correct(release: Any, predict: Any, image: Array, label: Array, key: Array) -> Array:
    return accuracy(predict(release(image, key)), label).sum()


def _report(pending: tuple[int, str, Metrics] | None, on_event: OnEvent) -> None:
    if pending is not None:
        step, phase, metrics = pending
        values = _check(step, metrics)
        on_event({"kind": "metrics", "step": step, "phase": phase, "metrics": values})


def _check(step: int, metrics: Metrics) -> dict[str, float]:
    """The metrics on the host.

    Raises:
        TrainingError: one of them is not finite.
    """
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise TrainingError(f"step {step}: {', '.join(bad)} not finite; the last checkpoint before it is intact")
    return values
