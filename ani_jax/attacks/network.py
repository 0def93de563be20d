"""Attackers that are networks: trained on fresh queries, kept at their best on ``validation``, alone or on top of a base."""

import dataclasses
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from ani_jax.attacks.base import Asked, Attack, Context, Fitted, Level, Standardiser, in_chunks
from ani_jax.attacks.query import Observed, ask, flat, summarise
from ani_jax.modules.initialise import initialise
from ani_jax.optimize.fit import adam, fit
from ani_jax.targets.base import Loss, Target
from ani_jax.types import Features, PRNGKey

GRID = ((1.0, 1.0), (3.0, 1.0), (1.0, 0.5), (3.0, 0.5))
"""Factors of the usual learning rate and of the usual width; the usual ones come first and win ties."""


@dataclasses.dataclass(frozen=True)
class Trained(Attack):
    """A network attacker: at some levels short trials on a small grid come first, and the best of them is trained to the end.

    Every trial is an attacker of its family like any other, so the record shows what was tried and how it did. Networks sit out
    repeated releases, where every step would ask k times as often.

    Attributes:
        width: of the network.
        batch_size: images a step.
        learning_rate: Adam's peak rate.
        seeds: attackers that differ in nothing but their seed.
        seed: which of them this is.
        trial_steps: of each trial of learning rate and width, 0 to take the usual ones.
        trials: whose best setting is taken, () for the usual one.
        cell: what is tried, "" where nothing is.
    """

    width: int = 64
    batch_size: int = 64
    learning_rate: float = 2e-3
    seeds: int = 1
    seed: int = 0
    trial_steps: int = 0
    trials: tuple["Trained", ...] = ()
    cell: str = ""

    repeated = False

    @property
    def name(self) -> str:
        """The architecture and, of a trial, what is tried."""
        return f"{self.architecture}, {self.cell}" if self.cell else self.architecture

    @property
    def architecture(self) -> str:
        """What distinguishes it from other networks of its family."""
        return type(self).__name__.lower()

    @classmethod
    def at(cls, target: Target, level: Level) -> tuple[Self, ...]:
        """The trials, then one network a seed."""
        found: list[Self] = []
        for usual in super().at(target, level):
            trials = tuple(
                dataclasses.replace(
                    usual,
                    steps=usual.trial_steps,
                    width=max(1, int(width * usual.width)),
                    learning_rate=rate * usual.learning_rate,
                    cell=f"rate x{rate:g}, width x{width:g}",
                )
                for rate, width in (GRID if usual.trial_steps else ())
            )
            finals = (dataclasses.replace(usual, seed=seed, trials=trials) for seed in range(usual.seeds))
            found += [*trials, *finals]
        return tuple(found)

    def tuned(self, context: Context) -> Self:
        """The attack in the form whose trial had the lowest loss on ``validation``; where all failed, the usual one."""
        if not self.trials:
            return self
        # A failed trial's loss is infinite; where all are, the first is the least: the usual form.
        best = self.trials[int(np.argmin([context.loss(trial) for trial in self.trials]))]
        return dataclasses.replace(self, width=best.width, learning_rate=best.learning_rate)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Network:
    """A fitted attacker that is a network on standardised features, alone or on top of a fitted base.

    Attributes:
        params: of the network.
        standardise: of its input.
        base: a simpler attacker whose guess in [0, 1] the network corrects by up to 1 either way; None for none.
        module: the network (static), with outputs in (0, 1) where there is a base.
    """

    params: Any
    standardise: Standardiser
    base: Any
    module: nn.Module = dataclasses.field(metadata={"static": True})

    def __call__(self, key: PRNGKey, z: Observed) -> Array:
        """Runs the network ``CHUNK`` images at a time."""
        del key
        return in_chunks(self, z)

    def on(self, z: Features, *, train: bool = False) -> Array:
        """Runs the network on summarised features."""
        output = self.module.apply({"params": self.params}, readable(self.standardise(z)), train=train)
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

    def __call__(self, params: Any, data: tuple[Asked, Any, Any], key: PRNGKey) -> Float[Array, ""]:
        """Mean loss of one fresh batch; ``data`` is what was asked, the base and the aim."""
        asked, base, aim = data
        draw_key, noise_key = jax.random.split(key)
        batch = asked.auxiliary.draw(draw_key, self.batch_size)
        # Fresh noise at every step: measured on ani, 61% of inks after 1,000 steps of 128 draws, where a library of 8,192
        # under the exact density reads 36% (METHODS 5.0).
        z = jax.lax.stop_gradient(summarise(ask(asked.release, batch.image, noise_key, asked.queries)))
        return self.loss(Network(params, asked.standardise, base, self.module).on(z, train=True), batch, aim).mean()


@dataclasses.dataclass(frozen=True)
class Selection:
    """Loss of a network attacker on ``validation``, to keep its best parameters by."""

    module: nn.Module
    loss: Loss

    def __call__(self, params: Any, data: tuple[Asked, Any, Any]) -> Float[Array, ""]:
        """Mean loss."""
        asked, base, aim = data
        output = Network(params, asked.standardise, base, self.module).on(asked.held_z)
        return self.loss(output, asked.validation, aim).mean()


def fit_network(key: PRNGKey, module: nn.Module, attack: Trained, context: Context, base: Any = None) -> Fitted:
    """Trains one network on what the client sends; keeps the parameters that are best on ``validation``.

    Args:
        key: of everything random.
        module: ``(z, train) -> output``, without batch statistics.
        attack: whose target's losses are minimised and chosen by, with how many steps (Adam, warm-up and cosine decay,
            gradients clipped to norm 1).
        context: of the client.
        base: a fitted attacker to correct, see :class:`Network`; the correction starts at 0 where the module's last
            layer is called "pixels".
    """
    asked, target = context.asked, attack.target
    init_key, fit_key = jax.random.split(key)
    params = initialise(module, init_key, readable(asked.held_z[:1]))["params"]
    if base is not None:
        # 0 before the sigmoid is 1/2 behind it, a correction of 0: the network starts where its base ends.
        params = jax.tree_util.tree_map_with_path(
            lambda path, leaf: jnp.zeros_like(leaf) if "pixels" in jax.tree_util.keystr(path) else leaf, params
        )
    found = fit(
        fit_key,
        params,
        Objective(module, target.loss, attack.batch_size),
        (asked, base, target.aim(asked.validation)),
        steps=attack.steps,
        optimizer=adam(attack.learning_rate, attack.steps, 1.0),
        evaluate=Selection(module, target.selection),
        # Five looks at least, so that a short trial is kept at its best too.
        every=max(1, min(50, -(-attack.steps // 5))),
        on_event=context.emit,
    )
    return Fitted(Network(found.params, asked.standardise, base, module), found.failed)


def readable(z: Features) -> Features:
    """Features as networks take them: maps (n, h, w, c) as they are, anything else as vectors."""
    return z if z.ndim == 4 else flat(z)
