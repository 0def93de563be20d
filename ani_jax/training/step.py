"""The one min-max step: k adversary updates on what the client sent, then one update of the defender.

The client runs forward once. Its pullback is kept while the adversaries train on the stopped features, and the defender's
gradient with respect to the features is sent back through it at the end; so one forward pass serves both sides and no gradient
of an adversary's own loss can reach the client.

A phase with ``reversal`` has no such k updates: one backward pass through a gradient reversal gives adversaries, client and
server their gradients together, and adversaries and defender move at once.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from ani_jax.defenses.base import Defense, Forward, Optimizer, Phase
from ani_jax.losses.adversarial import reverse_gradient
from ani_jax.losses.task import accuracy
from ani_jax.training.state import State, replace, select
from ani_jax.types import Batch, Features, Sent

Metrics = dict[str, Float[Array, ""]]
"""Scalars of one step, on the device."""


def make_step(
    defense: Defense, phase: Phase, *, clip: float = 0.0, skip_nonfinite: bool = False
) -> Callable[[State, Batch], tuple[State, Metrics]]:
    """Builds the pure training step of one phase.

    Args:
        defense: modules and losses; ``defense.axis_name`` names the device axis that gradients are averaged over.
        phase: what is trained, on which terms, with how many adversary updates.
        clip: largest global norm of the defender's gradient, and of each adversary's own; longer ones are scaled down to it.
            0 leaves them alone.
        skip_nonfinite: a step any of whose metrics is not finite changes nothing but ``state.step``.

    Returns:
        ``(state, batch) -> (state, metrics)``, without side effects, to be jitted or pmapped by the caller. Metrics hold
        "loss", "accuracy", one entry "term/NAME" per active term, "adversary/NAME" (its own loss) and "adversary/NAME/KEY"
        (its health) per adversary that is trained, "gradient_norm" of the defender and "gradient_norm/GROUP" of everything
        that is trained, before clipping, and the defence's own measurements.
    """
    client_groups = tuple(group for group in phase.trainable if group.split("/")[0] == "client")
    server_groups = tuple(group for group in phase.trainable if group.split("/")[0] == "server")
    reversed_groups = tuple(f"adversaries/{name}" for name in defense.adversaries) if phase.reversal else ()
    learn = functools.partial(_learn, clip)

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        before, key = state, jax.random.fold_in(state.key, state.step)
        if defense.axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(defense.axis_name))

        def send(trainable: Mapping[str, Any]) -> tuple[Sent, Any]:
            params = replace(state.params, trainable)["client"]
            return _apply(
                defense.client, params, state.statistics["client"], batch.image, key, train=bool(client_groups)
            )

        sent, pull, client_statistics = jax.vjp(send, select(state.params, client_groups), has_aux=True)
        watched: Metrics = {}
        if not phase.reversal:
            state, watched = _train_adversaries(defense, phase, learn, state, jax.lax.stop_gradient(sent.z), batch)
        (gradients, sent_gradients), (metrics, server_statistics) = jax.grad(
            functools.partial(_objective, defense, phase, bool(server_groups), state, batch), (0, 1), has_aux=True
        )(select(state.params, (*server_groups, *reversed_groups)), sent)
        (client_gradients,) = pull(sent_gradients)
        gradients = _mean(defense, {**client_gradients, **gradients})
        learnt = {group: gradients.pop(group) for group in reversed_groups}
        state, norms = learn(state, gradients, defense.optimizer)
        for group, gradient in learnt.items():
            state, own_norm = learn(state, {group: gradient}, lambda group: defense.adversary_optimizer)
            norms |= own_norm
        statistics = _mean(defense, {"client": client_statistics, "server": server_statistics})
        metrics |= watched | {"gradient_norm": optax.tree.norm(gradients)} | norms
        state = dataclasses.replace(state, statistics=statistics, step=state.step + 1)
        metrics = _mean(defense, metrics)
        return _unless_bad(before, state, metrics) if skip_nonfinite else state, metrics

    return step


def finite(metrics: Metrics) -> Bool[Array, ""]:
    """Whether every metric is a finite number.

    Example:
        >>> bool(finite({"loss": jnp.float32(1)})), bool(finite({"loss": jnp.float32(jnp.nan)}))
        (True, False)
    """
    return jnp.isfinite(jnp.stack([value.astype(jnp.float32) for value in metrics.values()])).all()


def _unless_bad(before: State, after: State, metrics: Metrics) -> State:
    """``after``, or where a metric is not finite ``before`` with its step counted."""
    good = finite(metrics)
    return jax.tree.map(lambda old, new: jnp.where(good, new, old), dataclasses.replace(before, step=after.step), after)


def _objective(
    defense: Defense,
    phase: Phase,
    train_server: bool,
    state: State,
    batch: Batch,
    trainable: Mapping[str, Any],
    sent: Sent,
) -> tuple[Array, tuple[Metrics, Any]]:
    """What the defender minimises as a function of its parameters and of what the client sent; metrics and statistics beside."""
    params = replace(state.params, trainable)
    logits, statistics = _apply(
        defense.server, params["server"], state.statistics["server"], sent.z, train=train_server
    )
    own, watched = jnp.float32(0), {}
    answers: Any
    if phase.reversal:
        scales = defense.reversal_scales(state.weights)
        seen = {name: reverse_gradient(sent.z, scales[name]) for name in defense.adversaries}
        own, (answers, watched) = _own_losses(defense, params["adversaries"], seen, batch, state.extra)
        # The reversal hands the client its share of these losses; the defender's terms must not do so again.
        answers = jax.lax.stop_gradient(answers)
    else:
        answers = {
            name: module.apply({"params": params["adversaries"][name]}, sent.z, train=False)
            for name, module in defense.adversaries.items()
        }
    forward = Forward(sent.z, sent.aux, logits, answers, state.extra)
    losses = defense.client_loss(forward, batch)
    factors = defense.coefficients(state.weights)
    losses = {name: losses[name] for name in phase.objective}
    total = jnp.asarray(sum(factors.get(name, 1.0) * loss for name, loss in losses.items()))
    metrics = {
        "loss": total,
        "accuracy": accuracy(logits, batch.label).mean(),
        **{f"term/{name}": loss for name, loss in losses.items()},
        **defense.measurements(forward, batch),
        **watched,
    }
    return total + own, (metrics, statistics)


def _train_adversaries(
    defense: Defense, phase: Phase, learn: Callable[..., tuple[State, Metrics]], state: State, z: Features, batch: Batch
) -> tuple[State, Metrics]:
    """K updates of every adversary on its own plain loss; the metrics are those of the last update, before it was applied."""
    seen, extra = dict.fromkeys(defense.adversaries, z), state.extra
    metrics: Metrics = {}
    for _ in range(phase.adversary_updates):
        gradients, (_, metrics) = jax.grad(
            lambda params: _own_losses(defense, params, seen, batch, extra), has_aux=True
        )(state.params["adversaries"])
        for name, gradient in _mean(defense, gradients).items():
            state, norm = learn(state, {f"adversaries/{name}": gradient}, lambda group: defense.adversary_optimizer)
            metrics |= norm
    return state, metrics


def _own_losses(
    defense: Defense, params: Mapping[str, Any], seen: Mapping[str, Features], batch: Batch, extra: Mapping[str, Array]
) -> tuple[Array, tuple[dict[str, Array], Metrics]]:
    """The sum of the adversaries' own plain losses, with their answers and what is logged.

    No adversary has a parameter of another's, so the gradient of the sum is each one's own.
    """
    total, answers, metrics = jnp.float32(0), {}, {}
    for name, module in defense.adversaries.items():
        answers[name] = module.apply({"params": params[name]}, seen[name], train=True)
        loss = metrics[f"adversary/{name}"] = defense.adversary_loss(name, answers[name], batch)
        for key, value in defense.health(name, answers[name], batch, extra).items():
            metrics[f"adversary/{name}/{key}"] = value
        total += loss
    return total, (answers, metrics)


def _learn(
    clip: float, state: State, gradients: Mapping[str, Any], optimizer: Callable[[str], Optimizer]
) -> tuple[State, Metrics]:
    """One optimiser step on the groups that have a gradient, clipped together; all else stays as it is. Norms beside."""
    norms = {f"gradient_norm/{group}": optax.tree.norm(gradient) for group, gradient in gradients.items()}
    if clip:
        clipped: Any = optax.clip_by_global_norm(clip).update(dict(gradients), optax.EmptyState())[0]
        gradients = clipped
    trainable, optimizers = select(state.params, gradients), dict(state.optimizers)
    for group, gradient in gradients.items():
        updates, optimizers[group] = optimizer(group).build().update(gradient, optimizers[group], trainable[group])
        trainable[group] = optax.apply_updates(trainable[group], updates)
    return dataclasses.replace(state, params=replace(state.params, trainable), optimizers=optimizers), norms


def _apply(module: Any, params: Any, statistics: Any, *inputs: Any, train: bool) -> tuple[Any, Any]:
    """Applies a module; in training mode its batch statistics come back updated, otherwise as they were."""
    variables = {"params": params, "batch_stats": statistics}
    if not train:
        return module.apply(variables, *inputs, train=False), statistics
    output, updated = module.apply(variables, *inputs, train=True, mutable=["batch_stats"])
    return output, updated.get("batch_stats", statistics)


def _mean(defense: Defense, tree: Any) -> Any:
    """Averages over devices where there are several."""
    return tree if defense.axis_name is None else jax.lax.pmean(tree, defense.axis_name)
