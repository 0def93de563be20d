"""Reconstruction of vectors: a perceptron that corrects what the linear decoder guesses."""

import dataclasses
from types import MappingProxyType

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ani_jax.attacks.base import Asked, Context, Standardiser, register
from ani_jax.attacks.decoder import ClosedForm, Ridge
from ani_jax.attacks.network import Trained
from ani_jax.attacks.query import flat
from ani_jax.modules.readers import PerceptronReader
from ani_jax.targets.vector import Vector
from ani_jax.types import Features


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Beside:
    """Standardised features, and beside them what a linear decoder makes of them.

    Attributes:
        standardise: of the features.
        guess: the decoder.
    """

    standardise: Standardiser
    guess: ClosedForm

    def __call__(self, z: Features) -> Float[Array, "n d"]:
        """The view; the guess comes last."""
        return jnp.concatenate([flat(self.standardise(z)), self.guess.on(z)], axis=1)


class Correction(nn.Module):
    """The last numbers of its input, corrected.

    Args:
        outputs: how many.
        width: of the perceptron.

    Example:
        >>> module, z = Correction(3, 8), jnp.ones((2, 12))
        >>> jax.eval_shape(module.init_with_output, jax.random.key(0), z)[0].shape
        (2, 3)
    """

    outputs: int
    width: int

    @nn.compact
    def __call__(self, z: Features, *, train: bool = False) -> Float[Array, "b d"]:
        """Guesses vectors."""
        return z[:, -self.outputs :] + PerceptronReader(self.outputs, self.width)(z, train=train)


@register(Vector)
@dataclasses.dataclass(frozen=True)
class Corrected(Trained):
    """Learns what no line tells; what one tells need not be learnt by descent, which would be long about quiet directions.

    Attributes:
        width: of the network.
    """

    target: Vector
    width: int = 1024
    leaders: int = 1

    family = "decoder"
    bursts = True
    levels = MappingProxyType(
        {
            "preview": {"steps": 20, "width": 64, "batch_size": 64},
            "standard": {"steps": 4992, "first": 312, "least": 2496, "again": 1248},
            "thorough": {"steps": 39_936, "first": 624, "least": 2496},
        }
    )

    @property
    def name(self) -> str:
        """What it corrects."""
        return "perceptron, guessed"

    def view(self, context: Context) -> Beside:
        """The view, with the linear decoder of its family."""
        return Beside(context.asked.standardise, context.needed(Ridge(self.target)))

    def module(self, asked: Asked) -> nn.Module:
        """The perceptron."""
        return Correction(asked.sample.image.shape[1], self.width)
