"""Which phase a step belongs to, and entering one."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from ani_jax.defenses.base import Defense, Phase
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
    if int(state.phase) >= index:
        return state
    prepared = phase.prepare(state, data) if phase.prepare else state
    return dataclasses.replace(prepared, phase=jnp.int32(index))
