"""Query-free inversion: train a shadow of the client through the provider's own network, then invert the shadow (METHODS 5.4)."""

import dataclasses
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from ani_jax.attacks.base import Asked, Attack, Context, Fitted, OnEvent, register
from ani_jax.attacks.descent import feature_rates, sample_means
from ani_jax.attacks.masking import NetworkApply, scale_of
from ani_jax.attacks.whitebox import WhiteBox, tune
from ani_jax.losses.task import cross_entropy
from ani_jax.modules.imitation import Imitation
from ani_jax.modules.initialise import initialise
from ani_jax.optimize.fit import adam, fit
from ani_jax.targets.image import Image
from ani_jax.types import Batch, Features, Knowledge, Logits, PRNGKey, Release, Source


@register(Image)
@dataclasses.dataclass(frozen=True)
class Shadow(Attack):
    """Inverts a network that the provider's ``predict`` takes for the client.

        min over shadow of  CE(predict(shadow(x)), y)  on ``auxiliary``,  then white-box inversion of the shadow

    The client is never asked. What the provider sees without asking is used: the features that arrive, for their mean and
    scale. (Its setting is chosen on ``validation``, as every attacker's.)

    Attributes:
        steps: of the shadow's training.
        inversion_steps: of the inversion that follows, whose starts are the mean image and scattered around it: a decoder
            would learn from answers to queries.
        restarts: its starts.
        tuned_on: validation images that its setting is chosen on.
        batch_size: images a step.
        learning_rate: Adam's peak rate.
        width: of the shadow.
    """

    steps: int = 400
    inversion_steps: int = 1000
    restarts: int = 2
    tuned_on: int = 16
    batch_size: int = 64
    learning_rate: float = 2e-3
    width: int = 32

    family = "shadow"
    levels = MappingProxyType(
        {
            "standard": {"inversion_steps": 300, "images": 32, "restarts": 1, "tuned_on": 8},
            "thorough": {"steps": 2000, "inversion_steps": 2000, "restarts": 4, "images": 256},
        }
    )

    @classmethod
    def able(cls, knowledge: Knowledge) -> bool:
        """Where the provider's network is granted."""
        return knowledge.predict is not None

    def repeated(self) -> None:
        """It sits out: a shadow knows no noise (``ani`` at seed 100, MSE from one release 0.10, from 64 of them 0.19)."""

    @property
    def white_box(self) -> WhiteBox:
        """The inversion that follows."""
        # No decoder to start from: it would learn from answers to queries, and nobody is asked here.
        steps, restarts, tuned_on = self.inversion_steps, self.restarts, self.tuned_on
        return WhiteBox(self.target, steps=steps, restarts=restarts, tuned_on=tuned_on, starters=())

    def fit(self, context: Context) -> Fitted:
        """Trains the shadow and chooses the setting of its inversion."""
        asked, attack = context.asked, self.white_box
        predict = asked.knowledge.predict
        if predict is None:
            return Fitted(None, "the threat model does not grant predict")
        train_key, start_key, tune_key = jax.random.split(context.key, 3)
        shadow, failed = self.train(train_key, asked, predict, context.emit)
        inverter = attack.inverter(start_key, asked, shadow)
        fitted = tune(tune_key, asked, [inverter], attack.grid, attack.tuned_on, context.emit)
        return fitted if failed is None else Fitted(fitted.attacker, failed)

    def train(
        self, key: PRNGKey, asked: Asked, predict: Callable[[Features], Logits], on_event: OnEvent | None = None
    ) -> tuple[Release, str | None]:
        """The shadow as a release, and why its training failed, if it did."""
        init_key, fit_key = jax.random.split(key)
        # All that is taken from the client's features: where they lie and how far they spread, which arrives unasked.
        z = sample_means(asked)
        mean, scale = z.mean(0), scale_of(feature_rates(z))
        module = Imitation(mean.shape, self.width)
        params = initialise(module, init_key, asked.sample.image[:1])["params"]
        found = fit(
            fit_key,
            params,
            _Deceiving(module, self.batch_size),
            _Scene(asked.auxiliary, asked.validation, predict, mean, scale),
            steps=self.steps,
            optimizer=adam(self.learning_rate, self.steps, 1.0),
            evaluate=_Deceived(module),
            on_event=on_event,
        )
        return Release((found.params, mean, scale), NetworkApply(module)), found.failed


class _Scene(NamedTuple):
    """What a shadow is trained with: the images, the provider's network, mean and scale of the features that arrive."""

    auxiliary: Source
    validation: Batch
    predict: Callable[[Features], Logits]
    mean: Array
    scale: Array


@dataclasses.dataclass(frozen=True)
class _Deceiving:
    """Cross-entropy of the provider's answers to the shadow, on fresh images."""

    module: nn.Module
    batch_size: int

    def __call__(self, params: Any, scene: _Scene, key: PRNGKey) -> Float[Array, ""]:
        return _cross_entropy(self.module, params, scene, scene.auxiliary.draw(key, self.batch_size))


@dataclasses.dataclass(frozen=True)
class _Deceived:
    """The same on ``validation``."""

    module: nn.Module

    def __call__(self, params: Any, scene: _Scene) -> Float[Array, ""]:
        return _cross_entropy(self.module, params, scene, scene.validation)


def _cross_entropy(module: nn.Module, params: Any, scene: _Scene, batch: Batch) -> Float[Array, ""]:
    # An imitation draws nothing from its key.
    z = NetworkApply(module)((params, scene.mean, scene.scale), batch.image, jax.random.key(0))
    return cross_entropy(scene.predict(z), batch.label).mean()
