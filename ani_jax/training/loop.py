"""The training loop: draws batches, runs the step, saves, and says what happened through ``on_event``."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jaxtyping import Array

from ani_jax.defenses.base import Defense, Phase, freeze
from ani_jax.losses.task import accuracy
from ani_jax.training import budget
from ani_jax.training.budget import UtilityBudget
from ani_jax.training.checkpoint import Checkpoints
from ani_jax.training.config import TrainConfig
from ani_jax.training.dispatch import Work
from ani_jax.training.kept import Kept, spends
from ani_jax.training.log import Entry, Log, OnEvent, TrainingError
from ani_jax.training.parallel import Spread
from ani_jax.training.phases import enter, schedule
from ani_jax.training.state import State, init
from ani_jax.types import Batch, Data

__all__ = ["OnEvent", "Stopped", "TrainConfig", "TrainingError", "evaluate", "train"]


class Stopped(Exception):
    """Training was asked to stop and did, with everything saved; the message says at which step."""


def train(
    defense: Defense,
    data: Data,
    config: TrainConfig,
    checkpoints: Checkpoints | None = None,
    on_event: OnEvent = lambda event: None,
    utility: UtilityBudget | None = None,
    watch: bool = False,
    spread: Spread = Spread(),  # noqa: B008
    stop: Callable[[], bool] = lambda: False,
) -> State:
    """Trains a defence through all its phases, from the newest intact checkpoint where there is one.

    Args:
        defense: what to train.
        data: ``defend`` trains; a utility budget looks at ``budget`` and, to choose a checkpoint, at ``validation``.
        config: how.
        checkpoints: where to resume from and save to; None keeps nothing.
        on_event: receives "start", "metrics" (every ``log_every`` steps), "skipped", "checkpoint", "selection" and "end".
        utility: what the defence may cost: its privacy weights are then found by dual ascent.
        watch: log the held-out cross-entropy and accuracy, as a ceiling that budgets are taken from must.
        spread: how the work is spread over devices; in every process of a run the same.
        stop: asked after every dispatch, and in every process as often; True ends the run with a last checkpoint.

    Returns:
        The final state, or the one that the utility budget prefers; on one device it is bit-identical however often the run
        was killed and resumed.

    Raises:
        ValueError: the batch cannot be shared out over the devices, or there is nothing that ``utility`` could scale.
        TrainingError: a loss or gradient is not finite. Checkpoints saved before stay.
        CheckpointError: checkpoints exist and none can be trusted.
        Stopped: ``stop`` said so.
    """
    spread.check(config.batch_size)
    init_key, data_key = jax.random.split(jax.random.key(config.seed))
    start = init(defense, init_key)
    phases = schedule(defense)
    if utility is not None and not any(spends(defense, phase) for phase, _ in phases):
        raise ValueError(f"utility: {defense.name} has no privacy weight above 0 that it could scale")
    choices = {part.end for part in _plan(phases, 0, config) if part.chooses}
    kept = None if utility is None else Kept(defense, data.validation, utility, checkpoints, start)
    log = Log(on_event, config.skip_nonfinite)
    if checkpoints is not None and (found := checkpoints.restore(start)) is not None:
        log.saved, start = found
        # It was saved before it was considered; what a stop saved in between is never considered.
        if kept is not None and log.saved in choices:
            start = kept.consider(start, on_event)
    first, total = int(start.step), phases[-1][1]
    on_event({"kind": "start", "step": first, "total": total})
    plan = list(_plan(phases, first, config))
    feeds = spread.feed(data.defend, data_key, config.batch_size, [(part.first, part.count) for part in plan])
    spread_defense = dataclasses.replace(defense, axis_name=spread.axis_name)
    state = spread.scatter(start)
    try:
        for part, feed in zip(plan, feeds):
            phase, step = part.phase, part.end
            if part.enters:
                state = spread.scatter(enter(spread.gather(state), part.index, phase, data))
            work = Work(spread_defense, phase, config.batch_size, part.count, config.clip, config.skip_nonfinite)
            state, outcome = spread.run(work, state, feed, data_key, part.first)
            log.flush()
            seen = {}
            if (watch or (utility and spends(defense, phase))) and (part.due(budget.EVERY) or step == total):
                state, seen = _look(defense, phase, data, spread, state, utility, last=watch and step == total)
            log.put(Entry(step, phase.name, outcome, seen, part.due(config.log_every) or step == total))
            stopped = stop()
            if part.saves or stopped:
                # What was measured up to a checkpoint is reported before it: a run resumed there has the same log.
                log.flush()
                if checkpoints is not None:
                    checkpoints.save(step, spread.gather(state), wait=False)
                    log.saved = step
                    on_event({"kind": "checkpoint", "step": step})
            if kept is not None and part.chooses:
                considered = kept.consider(spread.gather(state), on_event)
                state = dataclasses.replace(state, budget=spread.scatter(considered.budget))
            if stopped:
                raise Stopped(f"step {step} of {total}")
        log.flush()
    finally:
        for saving in (checkpoints, kept):
            if saving is not None:
                saving.wait()
    on_event({"kind": "end", "step": total, "total": total})
    return spread.gather(state) if kept is None else kept.state


def evaluate(defense: Defense, state: State, batch: Batch, key: Array, chunk: int = 256) -> float:
    """Accuracy of the frozen client and server on a batch, in chunks; the metric is in [0, 1]."""
    release, predict = freeze(defense, state.params, state.statistics)
    correct = [
        _correct(release, predict, batch.image[start : start + chunk], batch.label[start : start + chunk], key)
        for start in range(0, len(batch.label), chunk)
    ]
    return float(sum(correct)) / len(batch.label)


@jax.jit
def _correct(release: Any, predict: Any, image: Array, label: Array, key: Array) -> Array:
    return accuracy(predict(release(image, key)), label).sum()


class _Part(NamedTuple):
    """One dispatch of a run: ``count`` steps from ``first`` on, in the phase at ``index`` of the schedule."""

    index: int
    phase: Phase
    first: int
    count: int
    enters: bool
    saves: bool
    chooses: bool

    @property
    def end(self) -> int:
        return self.first + self.count

    def due(self, every: int) -> bool:
        """Whether a multiple of ``every`` lies among the steps; a phase may end between two multiples."""
        return self.end // every > self.first // every


def _plan(phases: Sequence[tuple[Phase, int]], step: int, config: TrainConfig) -> Iterator[_Part]:
    """All dispatches from ``step`` on."""
    for index, (phase, end) in enumerate(phases):
        enters = True
        while step < end:
            part = _Part(index, phase, step, min(config.steps_per_dispatch, end - step), enters, False, False)
            last = part.end == phases[-1][1]
            yield part._replace(
                saves=part.due(config.checkpoint_every) or last, chooses=part.due(budget.CHOICE) or last
            )
            step, enters = part.end, False


def _look(
    defense: Defense,
    phase: Phase,
    data: Data,
    spread: Spread,
    state: State,
    utility: UtilityBudget | None,
    last: bool,
) -> tuple[State, dict[str, Array]]:
    """Looks at the held-out slice and moves the utility budget's weights, where the phase has any."""
    weights, plain = defense.init_weights(), spread.gather(state)
    found = budget.look(plain, data.budget, weights, defense, ())
    seen = {"heldout/loss": found.loss, "heldout/accuracy": found.accuracy}
    if utility is not None and spends(defense, phase):
        moved = budget.ascend(plain, found.loss, weights, utility, defense)
        changed = spread.scatter({"weights": moved.weights, "budget": moved.budget})
        state = dataclasses.replace(state, **changed)
        # The next step donates the state; what is logged must outlive it.
        seen |= {f"budget/{name}": value + 0.0 for name, value in moved.budget.items()}
    if last:
        seen["validation/accuracy"] = budget.look(plain, data.validation, weights, defense, ()).accuracy
    return state, seen
