"""Everything that determines the future of a training run, in one pytree."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Int

from ani_jax.defenses.base import Defense
from ani_jax.defenses.mixins import Prepared
from ani_jax.modules.initialise import initialise
from ani_jax.types import PRNGKey

BUDGET = {"log_multiplier": 0.0, "constraint": 0.0}
"""The utility budget's part of a fresh state: multiplier 1, nothing seen yet."""


@struct.dataclass
class State:
    """The state of a run; its layout depends on the defence alone, never on the phase or on how work is spread.

    Attributes:
        params: {"client", "server", "adversaries": {name: ...}}.
        statistics: batch statistics of "client" and "server".
        optimizers: parameter group -> optimiser state.
        weights: loss weights by name, traced.
        phase: index of the phase that was entered.
        step: optimiser steps taken over all phases.
        key: root of all randomness; never advanced, step ``t`` uses ``fold_in(key, t)``.
        extra: arrays that a phase's ``prepare`` fills.
        budget: the *utility* budget's, as nothing else is called one: its log multiplier and constraint value; unused
            without one.
    """

    params: dict[str, Any]
    statistics: dict[str, Any]
    optimizers: dict[str, Any]
    weights: dict[str, Array]
    phase: Int[Array, ""]
    step: Int[Array, ""]
    key: PRNGKey
    extra: dict[str, Array]
    budget: dict[str, Array]


def init(defense: Defense, key: PRNGKey) -> State:
    """Initial state: parameters from ``key``, optimiser moments at zero, weights from the defence.

    Args:
        defense: whose modules to initialise.
        key: root key of the run.

    Returns:
        A state whose leaves are distinct buffers, so that it may be donated.
    """
    client_key, server_key, adversary_key, run_key = jax.random.split(key, 4)
    image = jnp.zeros((2, *defense.image_shape), jnp.float32)
    client = initialise(defense.client, client_key, image, client_key)
    # Only its shape is needed: asked for abstractly, it costs a start neither compilation nor arithmetic.
    sent = jax.eval_shape(lambda v: defense.client.apply(v, image, client_key, train=False), client)
    z = jnp.zeros(sent.z.shape, sent.z.dtype)
    server = initialise(defense.server, server_key, z)
    # The sorted order of names seeds the adversaries, whatever order the defence lists them in.
    adversaries = {
        adversary.name: initialise(adversary.module, jax.random.fold_in(adversary_key, index), z)
        for index, adversary in enumerate(sorted(defense.adversaries, key=lambda adversary: adversary.name))
    }
    params = {
        # A client without anything to learn has no such collection at all.
        "client": client.get("params", {}),
        "server": server.get("params", {}),
        "adversaries": {name: variables["params"] for name, variables in adversaries.items()},
    }
    return State(
        params=params,
        statistics={"client": client.get("batch_stats", {}), "server": server.get("batch_stats", {})},
        optimizers={group: optimizer.init(at(params, group)) for group, optimizer in optimizers(defense).items()},
        weights=defense.weights.arrays(),
        # Before the first phase, so that its prepare runs too.
        phase=jnp.int32(-1),
        step=jnp.int32(0),
        key=run_key,
        extra=defense.init_extra() if isinstance(defense, Prepared) else {},
        budget={name: jnp.float32(value) for name, value in BUDGET.items()},
    )


def groups(defense: Defense) -> tuple[str, ...]:
    """The defender's parameter groups over all phases; each has its own optimiser state, so every phase has one layout.

    Raises:
        ValueError: one group lies inside another, which would give a parameter two optimiser states.
    """
    names = sorted({group for phase in defense.phases for group in phase.trainable})
    for outer in names:
        for inner in names:
            if inner.startswith(outer + "/"):
                raise ValueError(f"trainable={inner}: overlaps the group {outer} of another phase of {defense.name}")
    return tuple(names)


def optimizers(defense: Defense) -> dict[str, optax.GradientTransformation]:
    """Parameter group -> its optimiser, over all phases; adversaries' groups included."""
    found = {group: defense.optimizer(group).build() for group in groups(defense)}
    return found | {f"adversaries/{one.name}": one.optimizer.build() for one in defense.adversaries}


def at(tree: Mapping[str, Any], path: str) -> Any:
    """The subtree at a path such as "client/noise".

    Raises:
        KeyError: no such path.

    Example:
        >>> at({"client": {"noise": 1}}, "client/noise")
        1
    """
    node: Any = tree
    for part in path.split("/"):
        node = node[part]
    return node


def select(tree: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """The subtrees at several paths, by path."""
    return {path: at(tree, path) for path in paths}


def replace(tree: Mapping[str, Any], subtrees: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``tree`` with the subtrees put at their paths; ``tree`` is left alone.

    Example:
        >>> replace({"client": {"noise": 1, "net": 2}}, {"client/noise": 3})
        {'client': {'noise': 3, 'net': 2}}
    """
    result = dict(tree)
    for path, value in subtrees.items():
        head, _, rest = path.partition("/")
        result[head] = replace(result[head], {rest: value}) if rest else value
    return result
