"""The course of a run: its phases, entering one, and the dispatches that its steps are cut into."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from ani_jax.defenses.base import Defense, Phase
from ani_jax.training.config import TrainConfig
from ani_jax.training.state import State


def schedule(defense: Defense) -> tuple[tuple[Phase, int], ...]:
    """The phases that have steps, each with the global step at which it ends.

    Example:
        >>> from ani_jax.defenses import registry
        >>> [(p.name, end) for p, end in schedule(registry.build("funnel", 10, (32, 32, 3), steps=5, finishing_steps=2))]
        [('train', 5), ('finish', 7)]
    """
    ends, total = [], 0
    for phase in defense.phases:
        total += phase.steps
        if phase.steps:
            ends.append((phase, total))
    return tuple(ends)


def enter(state: State, index: int, phase: Phase, data: Any) -> State:
    """Marks phase ``index`` as entered, after its ``prepare``; a state that is already in it comes back unchanged.

    Args:
        state: as the phase before left it.
        index: position in :func:`schedule`.
        phase: the phase at that position.
        data: passed to ``prepare``.
    """
    # A resumed state is not prepared again: what was prepared is part of it.
    if int(state.phase) >= index:
        return state
    prepared = phase.prepare(state, data) if phase.prepare else state
    return dataclasses.replace(prepared, phase=jnp.int32(index))


class Part(NamedTuple):
    """One dispatch of a run.

    Attributes:
        index: position of its phase in :func:`schedule`.
        phase: whose steps these are.
        first: the step that it starts from.
        count: how many steps.
        total: steps of the whole run.
    """

    index: int
    phase: Phase
    first: int
    count: int
    total: int

    @property
    def end(self) -> int:
        """The step that it ends at."""
        return self.first + self.count

    def due(self, every: int) -> bool:
        """Whether a multiple of ``every`` lies among its steps, or the run ends."""
        # Not end % every: a dispatch, like a phase, may end between two multiples.
        return self.end // every > self.first // every or self.end == self.total


def parts(phases: Sequence[tuple[Phase, int]], step: int, config: TrainConfig) -> Iterator[Part]:
    """All dispatches from ``step`` on.

    Args:
        phases: see :func:`schedule`.
        step: where to begin.
        config: says how many steps a dispatch has at most.
    """
    for index, (phase, end) in enumerate(phases):
        while step < end:
            # No dispatch crosses into another phase: that is another program.
            count = min(config.steps_per_dispatch, end - step)
            yield Part(index, phase, step, count, phases[-1][1])
            step += count
