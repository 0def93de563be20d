"""What every update is made of: the losses of both sides, and one optimiser step."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ani_jax.defenses.base import Defense, Forward, Phase
from ani_jax.defenses.mixins import Measured
from ani_jax.losses.task import accuracy
from ani_jax.training.state import State, replace, select
from ani_jax.types import Batch, Features

Metrics = dict[str, Float[Array, ""]]
"""Scalars of one step, on the device."""


class Rules(NamedTuple):
    """What stays the same from step to step of one phase; built once a step function.

    Attributes:
        defense: modules and losses.
        phase: what is trained, on which terms.
        optimizers: parameter group -> its optimiser.
        clip: largest global norm of the gradients that are learnt from together, 0 for any.
    """

    defense: Defense
    phase: Phase
    optimizers: Mapping[str, optax.GradientTransformation]
    clip: float

    def trained(self, party: str) -> tuple[str, ...]:
        """The phase's parameter groups of "client" or "server"."""
        return tuple(group for group in self.phase.trainable if group.split("/")[0] == party)

    def average(self, tree: Any) -> Any:
        """The mean over devices, where there are several."""
        axis = self.defense.axis_name
        return tree if axis is None else jax.lax.pmean(tree, axis)

    def learn(self, state: State, gradients: Mapping[str, Any]) -> tuple[State, Metrics]:
        """One optimiser step on the groups that have a gradient, clipped together; all else stays as it is. Norms beside."""
        norms = {f"gradient_norm/{group}": optax.tree.norm(gradient) for group, gradient in gradients.items()}
        if self.clip:
            clipped: Any = optax.clip_by_global_norm(self.clip).update(dict(gradients), optax.EmptyState())[0]
            gradients = clipped
        trainable, moments = select(state.params, gradients), dict(state.optimizers)
        for group, gradient in gradients.items():
            change, moments[group] = self.optimizers[group].update(gradient, moments[group], trainable[group])
            trainable[group] = optax.apply_updates(trainable[group], change)
        return dataclasses.replace(state, params=replace(state.params, trainable), optimizers=moments), norms


def apply(module: Any, params: Any, statistics: Any, *inputs: Any, train: bool) -> tuple[Any, Any]:
    """Applies a module; in training mode its batch statistics come back updated, otherwise as they were."""
    variables = {"params": params, "batch_stats": statistics}
    if not train:
        return module.apply(variables, *inputs, train=False), statistics
    output, updated = module.apply(variables, *inputs, train=True, mutable=["batch_stats"])
    # A module without batch normalisation gives no such collection back.
    return output, updated.get("batch_stats", statistics)


def own_losses(
    defense: Defense, params: Mapping[str, Any], heard: Mapping[str, Features], batch: Batch, extra: Mapping[str, Array]
) -> tuple[Array, tuple[dict[str, Array], Metrics]]:
    """The sum of the adversaries' own plain losses, with their answers and what is logged.

    Args:
        defense: whose adversaries.
        params: by adversary.
        heard: the features that each of them gets.
        batch: whose answers they guess.
        extra: ``state.extra``.
    """
    total, answers, metrics = jnp.float32(0), {}, {}
    for adversary in defense.adversaries:
        name = adversary.name
        answers[name] = adversary.module.apply({"params": params[name]}, heard[name], train=True)
        loss = metrics[f"adversary/{name}"] = adversary.loss(answers[name], batch)
        for key, value in adversary.health(answers[name], batch, extra).items():
            metrics[f"adversary/{name}/{key}"] = value
        # No adversary has a parameter of another's, so the gradient of the sum is each one's own.
        total += loss
    return total, (answers, metrics)


def objective(rules: Rules, forward: Forward, batch: Batch, weights: Mapping[str, Array]) -> tuple[Array, Metrics]:
    """What the defender minimises: its active terms, weighed; with what is logged.

    Args:
        rules: the phase's.
        forward: of this batch.
        batch: examples.
        weights: ``state.weights``.
    """
    losses = rules.defense.client_loss(forward, batch)
    factors = rules.defense.weights.factors(weights)
    # What is not asked for is dead code to the compiler; a weight of 0 would not do, since 0 * NaN is NaN.
    losses = {name: losses[name] for name in rules.phase.objective}
    total = jnp.asarray(sum(factors.get(name, 1.0) * loss for name, loss in losses.items()))
    metrics = {"loss": total, "accuracy": accuracy(forward.logits, batch.label).mean()}
    metrics |= {f"term/{name}": loss for name, loss in losses.items()}
    if isinstance(rules.defense, Measured):
        metrics |= rules.defense.measurements(forward, batch)
    return total, metrics
