"""Both sides in one backward pass, through a gradient reversal (Ganin & Lempitsky 2015): what a phase with ``reversal`` does.

The adversaries hear the features through a reversal that scales the gradient of each one's own loss by what it weighs in the
defender's objective. So one pass gives every adversary, the client and the server their gradients, and all move at once. Nothing
of the ordinary step is different beyond that.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from jaxtyping import Array

from ani_jax.defenses.base import Forward
from ani_jax.defenses.mixins import Reversible
from ani_jax.losses.adversarial import reverse_gradient
from ani_jax.training.state import State, replace, select
from ani_jax.training.updates import Metrics, Rules, apply, objective, own_losses
from ani_jax.types import Batch, Sent


def reversed_update(
    rules: Rules, state: State, sent: Sent, pull: Callable[[Sent], Any], batch: Batch
) -> tuple[State, Metrics, Any]:
    """One update of adversaries and defender together; see ``step.defender_update``, whose arguments and results it has.

    Raises:
        TypeError: the defence has no gradient-reversal form.
    """
    defense, server_groups = rules.defense, rules.trained("server")
    if not isinstance(defense, Reversible):
        raise TypeError(f"{defense.name} has no gradient-reversal form")
    adversary_groups = tuple(f"adversaries/{adversary.name}" for adversary in defense.adversaries)

    def both(trainable: Mapping[str, Any], sent: Sent) -> tuple[Array, tuple[Metrics, Any]]:
        params = replace(state.params, trainable)
        logits, statistics = apply(
            defense.server, params["server"], state.statistics["server"], sent.z, train=bool(server_groups)
        )
        scales = defense.reversal_scales(state.weights)
        heard = {adversary.name: reverse_gradient(sent.z, scales[adversary.name]) for adversary in defense.adversaries}
        own, (answers, watched) = own_losses(defense, params["adversaries"], heard, batch, state.extra)
        # The reversal hands the client its share of these losses; the defender's terms must not do so again.
        forward = Forward(sent.z, sent.aux, logits, jax.lax.stop_gradient(answers), state.extra)
        total, metrics = objective(rules, forward, batch, state.weights)
        return total + own, (metrics | watched, statistics)

    trainable = select(state.params, (*server_groups, *adversary_groups))
    (gradients, sent_gradients), (metrics, statistics) = jax.grad(both, (0, 1), has_aux=True)(trainable, sent)
    (client_gradients,) = pull(sent_gradients)
    gradients = rules.average({**client_gradients, **gradients})
    # Taken out before the norm below: "gradient_norm" is the defender's alone, as in the alternation.
    learnt = {group: gradients.pop(group) for group in adversary_groups}
    state, norms = rules.learn(state, gradients)
    # Clipped each by itself, as in the alternation.
    for group, gradient in learnt.items():
        state, own_norm = rules.learn(state, {group: gradient})
        norms |= own_norm
    return state, metrics | {"gradient_norm": optax.tree.norm(gradients)} | norms, statistics
