"""Several steps as one pure function, and what the host must know of them: the numbers, and whether they can be trusted."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from ani_jax.defenses.base import Defense, Phase
from ani_jax.training.state import State
from ani_jax.training.step import Metrics, finite, make_step
from ani_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class Work:
    """Everything static about one compiled call.

    Attributes:
        defense: with the device axis of the way the work is spread.
        phase: the phase, without what the step does not depend on (see :meth:`of`).
        batch_size: images per step, over all devices.
        count: steps.
        clip: see ``TrainConfig``.
        skip_nonfinite: see ``TrainConfig``.
    """

    defense: Defense
    phase: Phase
    batch_size: int
    count: int = 1
    clip: float = 0.0
    skip_nonfinite: bool = False

    def __post_init__(self):
        # A longer run, or the same steps under another name, must not compile again.
        object.__setattr__(self, "phase", dataclasses.replace(self.phase, name="", steps=1, prepare=None))


class Outcome(NamedTuple):
    """What a dispatch reports.

    Attributes:
        metrics: of its last step or, if one was not finite, of the first such step: later ones are its victims.
        step: the step that the metrics belong to, counted from 1.
        good: whether all of them are finite.
    """

    metrics: Metrics
    step: Int[Array, ""]
    good: Bool[Array, ""]


def advance(work: Work, state: State, draw: Callable[[Int[Array, ""]], Batch]) -> tuple[State, Outcome]:
    """``work.count`` steps in one program.

    Args:
        work: what to do.
        state: to start from.
        draw: step -> its batch.
    """
    step = make_step(work.defense, work.phase, clip=work.clip, skip_nonfinite=work.skip_nonfinite)

    def once(state: State) -> tuple[State, Outcome]:
        state, metrics = step(state, draw(state.step))
        return state, Outcome(metrics, state.step + 0, finite(metrics))

    state, outcome = once(state)
    if work.count == 1:
        return state, outcome

    def body(carry: tuple[State, Outcome], _: None) -> tuple[tuple[State, Outcome], None]:
        state, before = carry
        state, now = once(state)
        return (state, jax.tree.map(lambda old, new: jnp.where(before.good, new, old), before, now)), None

    return jax.lax.scan(body, (state, outcome), None, length=work.count - 1)[0]
