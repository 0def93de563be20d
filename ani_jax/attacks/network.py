"""Attackers that are networks: trained on fresh queries, kept at their best on ``validation``, alone or on top of a base."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ani_jax.attacks.base import Fitted, OnEvent, View, Whitener, in_chunks
from ani_jax.attacks.query import Observed, ask, flat, summarise
from ani_jax.modules.initialise import initialise
from ani_jax.optimize.fit import adam, fit
from ani_jax.types import Batch, Features, PRNGKey

Loss = Callable[[Array, Batch, Any], Float[Array, " b"]]
"""``(output, batch, aim) -> (b,)``; static; ``aim`` is whatever traced value the attack passes through."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Network:
    """A fitted attacker that is a network on standardised features, alone or on top of a fitted base.

    Attributes:
        params: of the network.
        whitener: of its input.
        base: a simpler attacker whose guess in [0, 1] the network corrects by up to 1 either way; None for none.
        module: the network (static), with outputs in (0, 1) where there is a base.
    """

    params: Any
    whitener: Whitener
    base: Any
    module: nn.Module = dataclasses.field(metadata={"static": True})

    def __call__(self, key: PRNGKey, z: Observed) -> Array:
        """Runs the network ``CHUNK`` images at a time."""
        del key
        return in_chunks(self, z)

    def on(self, z: Features, *, train: bool = False) -> Array:
        """Runs the network on summarised features."""
        output = self.module.apply({"params": self.params}, readable(self.whitener(z)), train=train)
        if self.base is None:
            return output  # type: ignore[return-value]
        corrected = self.base.on(z) + 2 * output - 1
        # A clip would stop the gradient where the correction overshoots, so it is left to the finished attacker.
        return corrected if train else corrected.clip(0, 1)


@dataclasses.dataclass(frozen=True)
class Objective:
    """Loss of a network attacker: draws images and the client's noise anew at each step.

    Attributes:
        module: the network.
        loss: see :data:`Loss`.
        batch_size: images a step.
    """

    module: nn.Module
    loss: Loss
    batch_size: int

    def __call__(self, params: Any, data: tuple[View, Any, Any], key: PRNGKey) -> Float[Array, ""]:
        """Mean loss of one fresh batch; ``data`` is the view, the base and the aim."""
        view, base, aim = data
        draw_key, noise_key = jax.random.split(key)
        batch = view.auxiliary.draw(draw_key, self.batch_size)
        z = jax.lax.stop_gradient(summarise(ask(view.release, batch.image, noise_key, view.queries)))
        return self.loss(Network(params, view.whitener, base, self.module).on(z, train=True), batch, aim).mean()


@dataclasses.dataclass(frozen=True)
class Selection:
    """Loss of a network attacker on ``validation``, to keep its best parameters by."""

    module: nn.Module
    loss: Loss

    def __call__(self, params: Any, data: tuple[View, Any, Any]) -> Float[Array, ""]:
        """Mean loss."""
        view, base, aim = data
        output = Network(params, view.whitener, base, self.module).on(view.held_z)
        return self.loss(output, view.validation, aim).mean()


def fit_network(
    key: PRNGKey,
    module: nn.Module,
    view: View,
    *,
    loss: Loss,
    selection: Loss,
    steps: int,
    batch_size: int,
    learning_rate: float,
    base: Any = None,
    aim: Any = None,
    on_event: OnEvent | None = None,
) -> Fitted:
    """Trains one network on what the client sends; keeps the parameters that are best on ``validation``.

    Args:
        key: of everything random.
        module: ``(z, train) -> output``, without batch statistics.
        view: of the client.
        loss: see :data:`Loss`.
        selection: likewise, for ``validation``.
        steps: optimiser steps (Adam, warm-up and cosine decay, gradients clipped to norm 1).
        batch_size: images a step.
        learning_rate: peak.
        base: a fitted attacker to correct, see :class:`Network`; the correction starts at 0 where the module's last
            layer is called "pixels".
        aim: handed to the losses, traced.
        on_event: see ``optimize.fit``.
    """
    init_key, fit_key = jax.random.split(key)
    params = initialise(module, init_key, readable(view.held_z[:1]))["params"]
    found = fit(
        fit_key,
        params if base is None else jax.tree_util.tree_map_with_path(_without_pixels, params),
        Objective(module, loss, batch_size),
        (view, base, aim),
        steps=steps,
        optimizer=adam(learning_rate, steps, 1.0),
        evaluate=Selection(module, selection),
        every=max(1, min(50, -(-steps // 5))),
        on_event=on_event,
    )
    return Fitted(Network(found.params, view.whitener, base, module), found.failed)


def _without_pixels(path: Any, leaf: Array) -> Array:
    return jnp.zeros_like(leaf) if "pixels" in jax.tree_util.keystr(path) else leaf


def readable(z: Features) -> Features:
    """Features as networks take them: maps (n, h, w, c) as they are, anything else as vectors."""
    return z if z.ndim == 4 else flat(z)
