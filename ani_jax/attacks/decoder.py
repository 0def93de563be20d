"""Model inversion by decoders: learn ``z -> x`` from queries, in closed form and with networks (METHODS 5.2)."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ani_jax.attacks.base import Fitted, OnEvent, View, Whitener, in_chunks
from ani_jax.attacks.network import fit_network
from ani_jax.attacks.query import Observed, flat
from ani_jax.losses.reconstruction import mse, ssim_loss
from ani_jax.types import Batch, Features, Images, PRNGKey

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridge penalties, as parts of the mean eigenvalue of the matrix that is inverted."""
KERNEL_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge penalties of the kernel decoder, likewise."""
BANDWIDTHS = (1.0, 4.0)
"""Squared widths of the Gaussian kernel, as parts of the mean squared distance between two features."""
SUPPORT = 2048
"""Images that a kernel decoder is fitted on at most."""
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

    def fit(self, key: PRNGKey, view: View, on_event: OnEvent | None = None, earlier: Sequence[Fitted] = ()) -> Fitted:
        """Keeps the penalty with the lowest MSE on ``validation``."""
        del key, on_event, earlier
        return _closed_form(view, [None], self.penalties)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Ridge regression with a Gaussian kernel: a curved decoder in closed form, for clients that bend what they send.

        x_hat(z) = mean + sum_i a_i exp(-|z - z_i|^2 / width),   (K + penalty * I) a = X - mean

    Width and penalty are chosen on ``validation``.

    Attributes:
        penalties: the grid.
        bandwidths: grid of widths, in units of the mean squared distance.
        name: of the member.
    """

    penalties: tuple[float, ...] = KERNEL_PENALTIES
    bandwidths: tuple[float, ...] = BANDWIDTHS
    name: str = "kernel"

    @property
    def steps(self) -> int:
        """0: a closed form."""
        return 0

    def fit(self, key: PRNGKey, view: View, on_event: OnEvent | None = None, earlier: Sequence[Fitted] = ()) -> Fitted:
        """Keeps the width and the penalty with the lowest MSE on ``validation``."""
        del key, on_event, earlier
        z = flat(view.whitener(view.sample_z[:SUPPORT]))
        # Standardised features: the mean squared distance is twice the number of those that are not constant.
        distance = 2 * jnp.maximum(jnp.square(z).sum(1).mean(), 0.5)
        return _closed_form(view, [width * distance for width in self.bandwidths], self.penalties)


def _closed_form(view: View, widths: Sequence[Array | None], penalties: Sequence[float]) -> Fitted:
    """The best kernel width (None: linear) and penalty on ``validation``."""
    # A kernel's cost grows with the cube of its support.
    size = None if widths[0] is None else SUPPORT
    z, held = flat(view.whitener(view.sample_z[:size])), flat(view.whitener(view.held_z))
    images, shape = flat(view.validation.image), view.validation.image.shape[1:]
    support = None if widths[0] is None and z.shape[1] <= z.shape[0] else z
    bias, centred = _centre(flat(view.sample.image[:size]))
    # The products cost most and do not depend on the width.
    products = (None, None) if support is None else (_likeness(z, z), _likeness(held, z))
    best, least = None, math.inf
    for width in widths:
        if support is None:
            matrix, target, coordinates = product(z.T, z), product(z.T, centred), held
        else:
            matrix, coordinates = (_kernel(*likeness, width) for likeness in products)  # type: ignore[misc]
            target = centred
        for penalty in penalties:
            error = float(_error(matrix, target, bias, coordinates, images, penalty))
            if error < least:
                best, least = (matrix, target, penalty, width), error
    if best is None:
        return Fitted(None, "no penalty gave a finite decoder")
    return Fitted(ClosedForm(solve(*best[:3]), bias, support, best[3], view.whitener, shape))  # type: ignore[arg-type]


@jax.jit
def _centre(x: Float[Array, "n p"]) -> tuple[Float[Array, " p"], Float[Array, "n p"]]:
    return x.mean(0), x - x.mean(0)[None]


@jax.jit
def _likeness(z: Float[Array, "m d"], support: Float[Array, "n d"]) -> tuple[Float[Array, "m n"], Float[Array, "m n"]]:
    """Products and squared distances between features and the sample's."""
    products = product(z, support.T)
    distances = jnp.square(z).sum(1)[:, None] - 2 * products + jnp.square(support).sum(1)[None]
    return products, jnp.maximum(distances, 0)


@jax.jit
def _kernel(
    products: Float[Array, "m n"], distances: Float[Array, "m n"], width: Float[Array, ""] | None
) -> Float[Array, "m n"]:
    """The Gaussian kernel of that width, or the linear one."""
    return products if width is None else jnp.exp(-distances / width)


@jax.jit
def solve(matrix: Float[Array, "r r"], target: Float[Array, "r q"], penalty: float) -> Float[Array, "r q"]:
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
    guess = product(solve(matrix, coordinates.T, penalty).T, target) + bias[None]
    return jnp.square(guess.clip(0, 1) - images).mean()


def product(left: Array, right: Array) -> Array:
    """A matrix product in full float32, which GPUs and TPUs would round."""
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClosedForm:
    """A fitted linear or kernel decoder; its images are clipped to [0, 1].

    Attributes:
        weights: (d, p), or (n, p) where ``support`` is given.
        bias: (p,), the mean image.
        support: the sample's standardised features in the dual form, else None.
        width: of the Gaussian kernel, None for a linear decoder.
        whitener: of the input.
        image_shape: (height, width, channels), static.
    """

    weights: Float[Array, "r p"]
    bias: Float[Array, " p"]
    support: Float[Array, "n d"] | None
    width: Float[Array, ""] | None
    whitener: Whitener
    image_shape: tuple[int, int, int] = dataclasses.field(metadata={"static": True})

    def __call__(self, key: PRNGKey, z: Observed) -> Images:
        """Reconstructions (n, h, w, c)."""
        del key
        return in_chunks(self, z)

    def on(self, z: Features) -> Images:
        """Reconstructions from summarised features."""
        coordinates = flat(self.whitener(z))
        if self.support is not None:
            coordinates = _kernel(*_likeness(coordinates, self.support), self.width)
        return (product(coordinates, self.weights) + self.bias[None]).clip(0, 1).reshape(-1, *self.image_shape)


@dataclasses.dataclass(frozen=True)
class Net:
    """A decoder network trained with MSE + SSIM on what the client sends for fresh auxiliary images.

    Where members before it found a closed form, it learns what to add to the best of them, so it starts where that one
    ends.

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

    def fit(self, key: PRNGKey, view: View, on_event: OnEvent | None = None, earlier: Sequence[Fitted] = ()) -> Fitted:
        """Trains the network."""
        bases = [fitted.attacker for fitted in earlier if isinstance(fitted.attacker, ClosedForm)]
        errors = [float(image_mse(base.on(view.held_z), view.validation).mean()) for base in bases]
        return fit_network(
            key,
            self.module,
            view,
            loss=image_loss,
            selection=image_mse,
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            base=bases[errors.index(min(errors))] if bases else None,
            on_event=on_event,
        )


def image_loss(guess: Images, batch: Batch, aim: object = None) -> Float[Array, " b"]:
    """MSE per image, plus a part of 1 - SSIM where its window fits."""
    del aim
    if min(batch.image.shape[1:3]) < SSIM_WINDOW:
        return image_mse(guess, batch)
    return image_mse(guess, batch) + SSIM_WEIGHT * ssim_loss(guess, batch.image)


def image_mse(guess: Images, batch: Batch, aim: object = None) -> Float[Array, " b"]:
    """MSE per image."""
    del aim
    return mse(guess, batch.image)
