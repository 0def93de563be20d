"""Model inversion by decoders: learn ``z -> x`` from queries, in closed form and with networks (METHODS 5.2)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ani_jax.attacks.base import Fitted, Observed, OnEvent, View, Whitener, fit_network, flat, in_chunks
from ani_jax.losses.reconstruction import mse, ssim_loss
from ani_jax.types import Batch, Features, Images, PRNGKey

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge penalties, as parts of the mean eigenvalue of the Gram matrix."""
SSIM_WEIGHT = 0.1
"""Weight of 1 - SSIM beside the MSE in the networks' loss: their sizes are then alike for a middling reconstruction."""
SSIM_WINDOW = 11


@dataclasses.dataclass(frozen=True)
class Ridge:
    """The best linear decoder, in closed form; a fixed permutation or rotation of the pixels hides nothing from it.

        min over W of  |Z W - X|^2 + penalty * |W|^2   (Z, X centred),   penalty chosen on ``validation``

    The primal or the dual normal equations are solved, whichever are smaller.

    Attributes:
        penalties: the grid.
        name: of the member.
    """

    penalties: tuple[float, ...] = PENALTIES
    name: str = "ridge"

    @property
    def steps(self) -> int:
        """0: a closed form."""
        return 0

    def fit(self, key: PRNGKey, view: View, on_event: OnEvent | None = None) -> Fitted:
        """Keeps the penalty with the lowest MSE on ``validation``."""
        del key, on_event
        z, held = flat(view.whitener(view.sample_z)), flat(view.whitener(view.held_z))
        support = z if z.shape[1] > z.shape[0] else None
        bias, *system = _system(z, flat(view.sample.image), support)
        errors = [
            float(_error(*system, bias, _coordinates(held, support), flat(view.validation.image), penalty))
            for penalty in self.penalties
        ]
        finite = [error for error in errors if math.isfinite(error)]
        if not finite:
            return Fitted(None, "no penalty gave a finite decoder")
        shape = view.validation.image.shape[1:]
        weights = _solve(*system, self.penalties[errors.index(min(finite))])
        return Fitted(Affine(weights, bias, support, view.whitener, shape))  # type: ignore[arg-type]


@jax.jit
def _system(
    z: Float[Array, "n d"], x: Float[Array, "n p"], support: Float[Array, "n d"] | None
) -> tuple[Float[Array, " p"], Float[Array, "r r"], Float[Array, "r p"]]:
    """Bias, matrix and right-hand side: d equations (primal) or, where ``support`` is given, n (dual).

    z is centred already, being whitened with its own statistics.
    """
    bias = x.mean(0)
    if support is None:
        return bias, _product(z.T, z), _product(z.T, x - bias[None])
    return bias, _product(z, z.T), x - bias[None]


def _coordinates(z: Float[Array, "m d"], support: Float[Array, "n d"] | None) -> Float[Array, "m r"]:
    """What the weights multiply: the features, or their products with the sample's."""
    return z if support is None else _product(z, support.T)


@jax.jit
def _solve(matrix: Float[Array, "r r"], target: Float[Array, "r q"], penalty: float) -> Float[Array, "r q"]:
    """``(matrix + penalty * mean eigenvalue)^-1 target``; NaN where float32 cannot."""
    size = matrix.shape[0]
    # A client that sends a constant has a matrix of zeros: the decoder must then be the mean image, not NaN.
    ridge = penalty * jnp.maximum(jnp.trace(matrix) / size, 1e-20)
    factor = jax.scipy.linalg.cho_factor(matrix + ridge * jnp.eye(size, dtype=matrix.dtype))
    return jax.scipy.linalg.cho_solve(factor, target)


@jax.jit
def _error(
    matrix: Float[Array, "r r"],
    target: Float[Array, "r p"],
    bias: Float[Array, " p"],
    coordinates: Float[Array, "m r"],
    images: Float[Array, "m p"],
    penalty: float,
) -> Float[Array, ""]:
    """MSE of one penalty on m images, solving for the images rather than for the pixels, of which there are more."""
    guess = _product(_solve(matrix, coordinates.T, penalty).T, target) + bias[None]
    return jnp.square(guess.clip(0, 1) - images).mean()


def _product(left: Array, right: Array) -> Array:
    """A matrix product in full float32, which GPUs and TPUs would round."""
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Affine:
    """A fitted linear decoder; its images are clipped to [0, 1].

    Attributes:
        weights: (d, p), or (n, p) where ``support`` is given.
        bias: (p,), the mean image.
        support: the sample's standardised features in the dual form, else None.
        whitener: of the input.
        image_shape: (height, width, channels), static.
    """

    weights: Float[Array, "r p"]
    bias: Float[Array, " p"]
    support: Float[Array, "n d"] | None
    whitener: Whitener
    image_shape: tuple[int, int, int] = dataclasses.field(metadata={"static": True})

    def __call__(self, key: PRNGKey, z: Observed) -> Images:
        """Reconstructions (n, h, w, c)."""
        del key
        return in_chunks(self, z)

    def on(self, z: Features) -> Images:
        """Reconstructions from summarised features."""
        pixels = _product(_coordinates(flat(self.whitener(z)), self.support), self.weights) + self.bias[None]
        return pixels.clip(0, 1).reshape(-1, *self.image_shape)


@dataclasses.dataclass(frozen=True)
class Net:
    """A decoder network trained with MSE + SSIM on what the client sends for fresh auxiliary images.

    It learns what to add to the closed-form decoder's answer, so it starts where that one ends and never falls behind it.

    Attributes:
        module: ``z -> images`` in (0, 1).
        name: of the member.
        steps: optimiser steps.
        batch_size: images a step.
        learning_rate: Adam's peak rate.
    """

    module: nn.Module
    name: str
    steps: int
    batch_size: int = 64
    learning_rate: float = 1e-3

    def fit(self, key: PRNGKey, view: View, on_event: OnEvent | None = None) -> Fitted:
        """Trains the network."""
        base = Ridge().fit(key, view).attacker
        return fit_network(
            key,
            self.module,
            view,
            loss=image_loss,
            selection=image_mse,
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            base=base,
            on_event=on_event,
        )


def image_loss(guess: Images, batch: Batch) -> Float[Array, " b"]:
    """MSE per image, plus a part of 1 - SSIM where its window fits."""
    if min(batch.image.shape[1:3]) < SSIM_WINDOW:
        return image_mse(guess, batch)
    return image_mse(guess, batch) + SSIM_WEIGHT * ssim_loss(guess, batch.image)


def image_mse(guess: Images, batch: Batch) -> Float[Array, " b"]:
    """MSE per image."""
    return mse(guess, batch.image)
