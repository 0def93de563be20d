"""The one min-max step: k adversary updates on what the client sent, then one update of the defender.

The client runs forward once. Its pullback is kept while the adversaries train on the stopped features, and the defender's
gradient with respect to the features is sent back through it at the end; so one forward pass serves both sides and no gradient
of an adversary's own loss can reach the client.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int

from ani_jax.defenses.base import Defense, Forward, Phase
from ani_jax.training.reversal import reversed_update
from ani_jax.training.state import State, optimizers, replace, select
from ani_jax.training.updates import Metrics, Rules, apply, objective, own_losses
from ani_jax.types import Batch, Features, Sent


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
    rules = Rules(defense, phase, optimizers(defense), clip)
    client_groups = rules.trained("client")

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        before, key = state, jax.random.fold_in(state.key, state.step)
        if defense.axis_name is not None:
            # Devices hold different images, and each must draw noise of its own.
            key = jax.random.fold_in(key, jax.lax.axis_index(defense.axis_name))

        def send(trainable: Mapping[str, Any]) -> tuple[Sent, Any]:
            params = replace(state.params, trainable)["client"]
            return apply(
                defense.client, params, state.statistics["client"], batch.image, key, train=bool(client_groups)
            )

        sent, pull, client_statistics = jax.vjp(send, select(state.params, client_groups), has_aux=True)
        if phase.reversal:
            state, metrics, server_statistics = reversed_update(rules, state, sent, pull, batch)
        else:
            watched: Metrics = {}
            # Unrolled: convolutions inside lax.scan were measured a hundred times slower on the CPU.
            for _ in range(phase.adversary_updates):
                state, watched = adversary_update(rules, state, jax.lax.stop_gradient(sent.z), batch)
            state, metrics, server_statistics = defender_update(rules, state, sent, pull, batch)
            metrics |= watched
        statistics = rules.average({"client": client_statistics, "server": server_statistics})
        state = dataclasses.replace(state, statistics=statistics, step=state.step + 1)
        # Before they are judged: a number that is bad on one device is then bad on all, and all decide alike.
        metrics = rules.average(metrics)
        if skip_nonfinite:
            # The step counts all the same: its number chooses the batch, so left as it was it would be bad for ever.
            good, kept = finite(metrics), dataclasses.replace(before, step=state.step)
            state = jax.tree.map(lambda old, new: jnp.where(good, new, old), kept, state)
        return state, metrics

    return step


def adversary_update(rules: Rules, state: State, z: Features, batch: Batch) -> tuple[State, Metrics]:
    """Every adversary's update on its own plain loss; the metrics are of before it was applied.

    Args:
        rules: of the phase.
        state: whose adversaries move, and nothing else.
        z: what the client sent, stopped.
        batch: whose answers they guess.
    """
    heard = dict.fromkeys(state.params["adversaries"], z)

    def own(params: Mapping[str, Any]) -> tuple[Array, Any]:
        return own_losses(rules.defense, params, heard, batch, state.extra)

    gradients, (_, metrics) = jax.grad(own, has_aux=True)(state.params["adversaries"])
    for name, gradient in rules.average(gradients).items():
        # One at a time: what is learnt together is clipped together.
        state, norm = rules.learn(state, {f"adversaries/{name}": gradient})
        metrics |= norm
    return state, metrics


def defender_update(
    rules: Rules, state: State, sent: Sent, pull: Callable[[Sent], Any], batch: Batch
) -> tuple[State, Metrics, Any]:
    """The update of client and server, the adversaries frozen.

    Args:
        rules: of the phase.
        state: whose client and server move.
        sent: what the client sent.
        pull: the client's pullback: gradient by ``sent`` -> gradient by its trainable groups.
        batch: examples.

    Returns:
        The state, its metrics, and the server's batch statistics.
    """
    defense, server_groups = rules.defense, rules.trained("server")

    def defend(trainable: Mapping[str, Any], sent: Sent) -> tuple[Array, tuple[Metrics, Any]]:
        params = replace(state.params, trainable)
        logits, statistics = apply(
            defense.server, params["server"], state.statistics["server"], sent.z, train=bool(server_groups)
        )
        answers: Any = {
            adversary.name: adversary.module.apply(
                {"params": params["adversaries"][adversary.name]}, sent.z, train=False
            )
            for adversary in defense.adversaries
        }
        forward = Forward(sent.z, sent.aux, logits, answers, state.extra)
        total, metrics = objective(rules, forward, batch, state.weights)
        return total, (metrics, statistics)

    trainable = select(state.params, server_groups)
    (gradients, sent_gradients), (metrics, statistics) = jax.grad(defend, (0, 1), has_aux=True)(trainable, sent)
    (client_gradients,) = pull(sent_gradients)
    gradients = rules.average({**client_gradients, **gradients})
    state, norms = rules.learn(state, gradients)
    return state, metrics | {"gradient_norm": optax.tree.norm(gradients)} | norms, statistics


def finite(metrics: Metrics) -> Bool[Array, ""]:
    """Whether every metric is a finite number.

    Example:
        >>> bool(finite({"loss": jnp.float32(1)})), bool(finite({"loss": jnp.float32(jnp.nan)}))
        (True, False)
    """
    return jnp.isfinite(jnp.stack([value.astype(jnp.float32) for value in metrics.values()])).all()


@dataclasses.dataclass(frozen=True)
class Work:
    """Everything static about one dispatch, a compiled call of several steps.

    Attributes:
        defense: with the device axis of the way the work is spread.
        phase: the phase, without what the step does not depend on.
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
    # The default, and no loop: see make_step for what one costs on the CPU.
    if work.count == 1:
        return state, outcome

    def body(carry: tuple[State, Outcome], _: None) -> tuple[tuple[State, Outcome], None]:
        state, before = carry
        state, now = once(state)
        return (state, jax.tree.map(lambda old, new: jnp.where(before.good, new, old), before, now)), None

    return jax.lax.scan(body, (state, outcome), None, length=work.count - 1)[0]
