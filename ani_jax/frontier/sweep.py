"""A frontier's grid: one defence at several privacy weights, trained one after the other or together, by one compiled step.

Loss weights are traced data (``state.weights``), so every member of the grid runs the same program. One after the other, that is
``training.loop.train`` once a member: it compiles for the first one alone. Together, the members of one seed share their batches
and the step is vmapped over their states. On the CPU the first is faster, on an accelerator the second keeps it busy.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from ani_jax.data.loader import draw_batch
from ani_jax.defenses.base import Defense
from ani_jax.training.callbacks import PATIENCE
from ani_jax.training.config import TrainConfig
from ani_jax.training.phases import enter, schedule
from ani_jax.training.state import State, init
from ani_jax.training.step import Outcome, Work, advance
from ani_jax.types import Data, PRNGKey, Source

OnMemberEvent = Callable[[int, Mapping[str, Any]], None]
"""Receives the number of a member and the events that ``training.loop.train`` would send for it."""


def multipliers(count: int, span: float = 10.0) -> tuple[float, ...]:
    """A logarithmic grid around 1, from ``1 / span`` to ``span``, to three digits; a single point is 1, the defence as it is.

    0 is not on it: a term whose weight is 0 is not computed, which is another program, and what no privacy weight at all gives is
    what the undefended reference shows.

    Args:
        count: points, at least 1.
        span: ratio of the largest to the defence's own weights, above 1.

    Raises:
        ValueError: ``count`` or ``span`` is out of range, or neighbours are the same number to three digits.

    Example:
        >>> multipliers(4), multipliers(1)
        ((0.1, 0.464, 2.15, 10.0), (1.0,))
    """
    if count < 1:
        raise ValueError(f"weights={count}: must be at least 1")
    if not 1 < span < math.inf:
        raise ValueError(f"span={span}: must be a finite number above 1")
    if count == 1:
        return (1.0,)
    # Rounded before they are used: a title shows the multiplier that was trained, to the last digit.
    found = tuple(float(f"{span ** (2 * place / (count - 1) - 1):.3g}") for place in range(count))
    if len(set(found)) < count:
        raise ValueError(f"weights={count}: must be fewer from 1/{span:g} to {span:g}, to differ in three digits")
    return found


def scaled(defense: Defense, multiplier: float) -> dict[str, float]:
    """The weights of a member of the grid: those that protect, scaled as the defence says, to six digits.

    A defence that has none is scaled by what else makes it stronger (:func:`ani_jax.defenses.options.strength`): whole numbers
    stay whole, and 1 or more. Empty where nothing does.

    Args:
        defense: with the weights that count as 1.
        multiplier: above 0.

    Example:
        >>> from ani_jax.defenses import registry
        >>> scaled(registry.build("funnel", 10, (32, 32, 3), beta=30.0), 0.1)["beta"]
        3.0
        >>> scaled(registry.build("topk", 10, (32, 32, 3), kept=16), 10.0)
        {'kept': 2}
    """
    weights = defense.weights
    if not weights.privacy:
        marked = [field for field in dataclasses.fields(defense) if "strength" in field.metadata]
        own = {field.name: (getattr(defense, field.name), field.metadata["strength"]) for field in marked}
        return {
            name: max(1, round(value * multiplier**power))
            if isinstance(value, int)
            else float(f"{value * multiplier**power:.6g}")
            for name, (value, power) in own.items()
        }
    found = weights.scaled(weights.arrays(), jnp.float32(multiplier))
    # These stand in configs and their digests: 3.0, and not what 32 bits make of it.
    return {name: float(f"{float(found[name]):.6g}") for name in weights.privacy}


def group_size(count: int, asked: int = 0, steps_per_dispatch: int = 1) -> int:
    """How many of ``count`` members to train together: what was asked for, at most all; 0 leaves it to the platform.

    Several steps in a dispatch are for members that are trained one after the other.

    Example:
        >>> group_size(8, asked=3), group_size(2, asked=3)
        (3, 2)
    """
    # vmap over weights makes grouped convolutions: on the CPU four models took 1,332 ms together, 4 x 90 by turns.
    alone = jax.default_backend() == "cpu" or steps_per_dispatch > 1
    chosen = asked or (1 if alone else count)
    return min(chosen, count)


def train_together(
    members: Sequence[Defense],
    data: Data,
    config: TrainConfig,
    group: int,
    on_event: OnMemberEvent = lambda member, event: None,
) -> list[State | None]:
    """Trains defences that differ in their weights alone, ``group`` at a time, each as ``training.loop.train`` would.

    All groups have one size, the last being filled up, so there is one program. A group that does not fit the device's memory is
    halved. Every step is a dispatch of its own.

    Args:
        members: the grid of one seed.
        data: ``defend`` trains.
        config: how; ``steps_per_dispatch`` must be 1.
        group: how many members a program trains; at least 1.
        on_event: receives "start", "metrics" and "end" of every member.

    Returns:
        The final states in order; None for a member that ``training.loop.train`` would have stopped, because a loss or gradient
        was not finite.

    Raises:
        ValueError: the members differ in more than their weights, or an argument is out of range.
    """
    if any(member != members[0] or schedule(member) != schedule(members[0]) for member in members):
        raise ValueError("members: must differ in their loss weights alone, all of them on or all of them off")
    if config.steps_per_dispatch != 1:
        raise ValueError(f"steps_per_dispatch={config.steps_per_dispatch}: must be 1 to train members together")
    if group < 1:
        raise ValueError(f"group={group}: must be at least 1")
    finished: list[State | None] = []
    while len(finished) < len(members):
        # As few groups as can be, then as even as can be: five in groups of four are trained as three and three.
        size = math.ceil(len(members) / math.ceil(len(members) / group))
        first = len(finished)
        chosen = members[first : first + size]
        chosen = [*chosen, *[chosen[-1]] * (size - len(chosen))]

        def numbered(place: int, event: Mapping[str, Any], first: int = first) -> None:
            # Those that only fill a group up have no number.
            if first + place < len(members):
                on_event(first + place, event)

        try:
            trained = train_group(chosen, data, config, numbered)
        except jax.errors.JaxRuntimeError as error:
            # XLA has no error class for memory that ran out: only the message tells.
            if "RESOURCE_EXHAUSTED" not in str(error) or size == 1:
                raise
            group = math.ceil(size / 2)
            continue
        finished += trained[: len(members) - first]
    return finished


def train_group(
    members: Sequence[Defense], data: Data, config: TrainConfig, on_event: OnMemberEvent
) -> list[State | None]:
    """One program for all members from the first step to the last; see :func:`train_together`."""
    defense, phases = members[0], schedule(members[0])
    total = phases[-1][1]
    # As training.loop.train: every member must be the run that it would be by itself.
    init_key, data_key = jax.random.split(jax.random.key(config.seed))
    fresh = init(defense, init_key)
    states = stack([dataclasses.replace(fresh, weights=member.weights.arrays()) for member in members])
    health = Health(jnp.zeros(len(members), jnp.int32), jnp.ones(len(members), bool))

    def tell(event: Mapping[str, Any]) -> None:
        for place in range(len(members)):
            on_event(place, event)

    tell({"kind": "start", "step": 0, "total": total})
    step = 0
    for index, (phase, end) in enumerate(phases):
        states = stack([enter(state, index, phase, data) for state in unstack(states, len(members))])
        work = Work(defense, phase, config.batch_size, clip=config.clip, skip_nonfinite=config.skip_nonfinite)
        while step < end:
            states, outcomes = dispatch(states, data.defend, data_key, work)
            # Counted on the device: between two entries of the log a member may have skipped every step.
            health = watched(health, outcomes.good, PATIENCE if config.skip_nonfinite else 0)
            step += 1
            if step % config.log_every and step != total:
                continue
            for place, outcome in enumerate(unstack(jax.device_get(outcomes), len(members))):
                if outcome.good:
                    values = {name: float(value) for name, value in outcome.metrics.items()}
                    on_event(place, {"kind": "metrics", "step": step, "phase": phase.name, "metrics": values})
    tell({"kind": "end", "step": total, "total": total})
    sound = jax.device_get(health.sound)
    return [state if good else None for state, good in zip(unstack(states, len(members)), sound, strict=True)]


class Health(NamedTuple):
    """How every member fares: its latest steps in a row that were not finite, and whether there never were too many."""

    streak: Int[Array, " members"]
    sound: Bool[Array, " members"]


@functools.partial(jax.jit, static_argnames="patience")
def watched(health: Health, good: Bool[Array, " members"], patience: int) -> Health:
    """How the members fare after one more step.

    Args:
        health: before it.
        good: whose metrics were finite.
        patience: how many steps in a row may not be.
    """
    streak = jnp.where(good, 0, health.streak + 1)
    return Health(streak, health.sound & (streak <= patience))


@functools.partial(jax.jit, static_argnames="work", donate_argnames="states")
def dispatch(states: State, source: Source, data_key: PRNGKey, work: Work) -> tuple[State, Outcome]:
    """One step of every member, as one program, on the batch that their common seed gives: it is drawn once.

    Args:
        states: of the members, stacked; donated.
        source: the originals.
        data_key: key of the batches.
        work: one step.
    """
    batch = draw_batch(source, data_key, states.step[0], work.batch_size)
    return jax.vmap(lambda state: advance(work, state, lambda step: batch))(states)


def stack(states: Sequence[State]) -> State:
    """Several states as one, with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def unstack(tree: Any, count: int) -> list[Any]:
    """The trees that a leading axis holds."""
    return [jax.tree.map(lambda leaf, place=place: leaf[place], tree) for place in range(count)]
