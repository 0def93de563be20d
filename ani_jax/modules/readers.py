"""Networks that attack what is sent once a defence is trained: classifiers with a head for every question, and a decoder.

Batch normalisation hears a quiet channel as well as a loud one, and its statistics are no state here: a training step
normalises by its own batch, a finished reader by those of one pass over a fixed sample (:func:`statistics`). Dropout acts only
where a "dropout" key is given.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ani_jax.modules.adversaries import Grid, depth_to_space, doublings, space_to_depth
from ani_jax.modules.kernels import Conv
from ani_jax.types import Features, Images, Logits

DROPOUT = 0.3
KNOTS, EDGE = 9, 3.2
"""Hats that an additive reader lays over each feature, and where the outermost two have their tips."""


def statistics(module: nn.Module, params: Any, z: Features) -> Any:
    """The variables of a reader: its parameters beside its layers' statistics over z.

    Args:
        module: any module of this file.
        params: its parameters.
        z: (n, ...) features; one pass sees all of them.

    Example:
        >>> z = jnp.arange(8.0).reshape(8, 1)
        >>> params = PerceptronReader(2, 4).init(jax.random.key(0), z, train=False)["params"]
        >>> sorted(statistics(PerceptronReader(2, 4), params, z))
        ['batch_stats', 'params']
    """
    _, found = module.apply({"params": params}, z, train=True, mutable=["batch_stats"])
    return {"params": params, **found}


def _norm(train: bool) -> nn.BatchNorm:
    # Momentum 0: what is kept are the statistics of the last pass alone.
    return nn.BatchNorm(use_running_average=not train, momentum=0.0)


def _placed(z: Features) -> Float[Array, "b h w c"]:
    """Features as a map; vectors are one position."""
    return z if z.ndim == 4 else z.reshape(z.shape[0], 1, 1, -1)


def _wide(x: Float[Array, "b h w c"]) -> bool:
    """Whether a map has more than 8x8 positions and can be halved."""
    return max(x.shape[1:3]) > 8 and x.shape[1] % 2 == x.shape[2] % 2 == 0


def folded(x: Float[Array, "b h w c"]) -> Float[Array, "b p q d"]:
    """A map at 8x8 positions or fewer, with as many numbers, as far as it can be halved."""
    while _wide(x):
        x = space_to_depth(x)
    return x


class Block(nn.Module):
    """``relu(x + norm(conv(relu(norm(conv(x))))))`` with 3x3 convolutions."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        """Applies the block."""
        conv = functools.partial(Conv, x.shape[-1], use_bias=False)
        y = nn.relu(_norm(train)(conv()(x)))
        return nn.relu(x + _norm(train)(conv()(y)))


class ConvReader(nn.Module):
    """Residual blocks at 8x8 positions or fewer, a strided convolution, another block and a small perceptron.

    Args:
        outputs: numbers of all heads together.
        width: channels.

    Returns:
        Logits ``(b, outputs)``.

    Example:
        >>> module, z = ConvReader(6, width=8), jnp.ones((2, 8, 8, 12))
        >>> jax.eval_shape(module.init_with_output, jax.random.key(0), z)[0].shape
        (2, 6)
    """

    outputs: int
    width: int = 32
    blocks: int = 1

    @nn.compact
    def __call__(self, z: Features, *, train: bool = False) -> Logits:
        """Classifies features."""
        x = nn.relu(_norm(train)(Conv(self.width, use_bias=False)(folded(_placed(z)))))
        for _ in range(self.blocks):
            x = Block()(x, train=train)
        if min(x.shape[1:3]) > 2:
            x = nn.relu(_norm(train)(nn.Conv(self.width, (4, 4), (2, 2), use_bias=False)(x)))
            x = Block()(x, train=train)
        x = nn.Dropout(DROPOUT, deterministic=not self.has_rng("dropout"))(x.reshape(x.shape[0], -1))
        return nn.Dense(self.outputs, name="heads")(nn.relu(nn.Dense(128, name="hidden")(x)))


class LocalReader(nn.Module):
    """Curves of each value, averaged over squares of 2x2 positions, then convolutions: what a map says through much noise.

    What hides behind noise is how often which values occur nearby. A convolution must find that out for every place of its
    window by itself; averages of fixed curves (hats, as of :class:`AdditiveReader`) tell it at once. [ours] Measured on a
    client of ``ani``, 64 channels, after 1,248 steps, chance 25%: 54% of inks, where a convolutional reader still guesses.

    Args:
        outputs: numbers of all heads together.
        width: channels.
        knots: hats that are laid over each value; expected at about a standard normal's scale.

    Returns:
        Logits ``(b, outputs)``.

    Example:
        >>> module, z = LocalReader(6, width=8), jnp.ones((2, 16, 16, 3))
        >>> jax.eval_shape(module.init_with_output, jax.random.key(0), z)[0].shape
        (2, 6)
    """

    outputs: int
    width: int = 32
    knots: int = 5

    @nn.compact
    def __call__(self, z: Features, *, train: bool = False) -> Logits:
        """Classifies features."""
        x = folded(local_hats(_placed(z), self.knots))
        x = nn.relu(_norm(train)(Conv(self.width, use_bias=False)(_norm(train)(x))))
        x = Block()(x, train=train)
        x = nn.Dropout(DROPOUT, deterministic=not self.has_rng("dropout"))(x.reshape(x.shape[0], -1))
        x = nn.relu(_norm(train)(nn.Dense(128, name="hidden")(x)))
        return nn.Dense(self.outputs, name="heads")(x)


def hats(x: Float[Array, "... c"], knots: int) -> Float[Array, "... k"]:
    """Piecewise linear bumps over each value, whose sum is 1: ``max(0, 1 - |x - t_m| / (t_2 - t_1))``.

    Args:
        x: any values; those beyond ``EDGE`` count as at it.
        knots: how many, from ``-EDGE`` to ``EDGE``.

    Returns:
        c * knots channels.

    Example:
        >>> hats(jnp.array([[-9.0, 0.8]]), 3).round(2).tolist()
        [[1.0, 0.0, 0.0, 0.0, 0.75, 0.25]]
    """
    tips = jnp.linspace(-EDGE, EDGE, knots)
    inside = jnp.clip(x, -EDGE, EDGE)[..., None] - tips.reshape((1,) * x.ndim + (-1,))
    return nn.relu(1 - jnp.abs(inside) / (tips[1] - tips[0])).reshape(*x.shape[:-1], -1)


def local_hats(x: Float[Array, "b h w c"], knots: int) -> Float[Array, "b p q k"]:
    """Averages of :func:`hats` over squares of 2x2 positions, of a map of 8x8 or fewer the hats themselves.

    Args:
        x: a map.
        knots: how many.

    Returns:
        c * knots channels.

    Example:
        >>> local_hats(jnp.zeros((1, 16, 16, 1)), 3).shape, local_hats(jnp.zeros((1, 8, 8, 1)), 3).shape
        ((1, 8, 8, 3), (1, 8, 8, 3))
    """
    if not _wide(x):
        return hats(x, knots)
    # Corner by corner: nn.avg_pool takes ten times as long on the CPU (128 x 32 x 32 x 15, jax 0.10.2).
    return functools.reduce(jnp.add, [hats(x[:, i::2, j::2], knots) / 4 for i in (0, 1) for j in (0, 1)])


class PerceptronReader(nn.Module):
    """Two hidden layers on the flattened features.

    Args:
        outputs: numbers of all heads together.
        width: units of the first layer; the second has half.

    Returns:
        Logits ``(b, outputs)``.

    Example:
        >>> module, z = PerceptronReader(6, width=8), jnp.ones((2, 12))
        >>> jax.eval_shape(module.init_with_output, jax.random.key(0), z)[0].shape
        (2, 6)
    """

    outputs: int
    width: int = 512

    @nn.compact
    def __call__(self, z: Features, *, train: bool = False) -> Logits:
        """Classifies features."""
        x = nn.relu(_norm(train)(nn.Dense(self.width)(z.reshape(z.shape[0], -1))))
        x = nn.Dropout(DROPOUT, deterministic=not self.has_rng("dropout"))(x)
        return nn.Dense(self.outputs, name="heads")(nn.relu(nn.Dense(max(1, self.width // 2), name="hidden")(x)))


class LinearReader(nn.Module):
    """One matrix on the flattened features.

    Args:
        outputs: numbers of all heads together.

    Returns:
        Logits ``(b, outputs)``.

    Example:
        >>> module, z = LinearReader(6), jnp.ones((2, 12))
        >>> jax.eval_shape(module.init_with_output, jax.random.key(0), z)[0].shape
        (2, 6)
    """

    outputs: int

    @nn.compact
    def __call__(self, z: Features, *, train: bool = False) -> Logits:
        """Classifies features; ``train`` changes nothing."""
        del train
        x = z.reshape(z.shape[0], -1)
        return nn.Dense(self.outputs, kernel_init=nn.initializers.zeros_init(), name="heads")(x)


class FourierReader(nn.Module):
    """Logistic regression on random Fourier features: a Gaussian kernel's, of two widths (Rahimi & Recht 2007).

        logits = W sqrt(2) cos(F z + b),   rows of F drawn from N(0, 1 / d) or N(0, 4 / d), which are not trained

    Args:
        outputs: numbers of all heads together.
        width: how many rows.

    Returns:
        Logits ``(b, outputs)``.

    Example:
        >>> module, z = FourierReader(6, width=8), jnp.ones((2, 12))
        >>> jax.eval_shape(module.init_with_output, jax.random.key(0), z)[0].shape
        (2, 6)
    """

    outputs: int
    width: int = 1024

    @nn.compact
    def __call__(self, z: Features, *, train: bool = False) -> Logits:
        """Classifies features; ``train`` changes nothing."""
        del train
        x = z.reshape(z.shape[0], -1)
        deviation = x.shape[1] ** -0.5
        frequencies = self.param("frequencies", nn.initializers.normal(deviation), (x.shape[1], self.width))
        phases = self.param("phases", nn.initializers.uniform(2 * math.pi), (self.width,))
        # Scaled here, that one initialiser does for both widths.
        scaled = jax.lax.stop_gradient(frequencies) * (1.0 + jnp.arange(self.width) % 2)[None]
        x = math.sqrt(2) * jnp.cos(x @ scaled + jax.lax.stop_gradient(phases)[None])
        return nn.Dense(self.outputs, kernel_init=nn.initializers.zeros_init(), name="heads")(x)


class AdditiveReader(nn.Module):
    """A curve of each feature's own, added up: a generalised additive model with piecewise linear curves.

        logits = sum_j f_j(z_j),   f_j(t) = sum_m w_jm max(0, 1 - |t - t_m| / (t_2 - t_1))

    It reads thousands of features that each say little and nothing in a line, as boosted trees do, at the price of one
    matrix product. Features are expected at about a standard normal's scale.

    Args:
        outputs: numbers of all heads together.
        width: units of a hidden layer on top of the curves, 0 for none.

    Returns:
        Logits ``(b, outputs)``.

    Example:
        >>> module, z = AdditiveReader(6), jnp.ones((2, 12))
        >>> jax.eval_shape(module.init_with_output, jax.random.key(0), z)[0].shape
        (2, 6)
    """

    outputs: int
    width: int = 0

    @nn.compact
    def __call__(self, z: Features, *, train: bool = False) -> Logits:
        """Classifies features."""
        x = hats(z.reshape(z.shape[0], -1), KNOTS)
        if self.width:
            x = nn.relu(_norm(train)(nn.Dense(self.width, name="hidden")(x)))
            x = nn.Dropout(DROPOUT, deterministic=not self.has_rng("dropout"))(x)
        return nn.Dense(self.outputs, kernel_init=nn.initializers.zeros_init(), name="heads")(x)


class DecoderReader(nn.Module):
    """Residual blocks at z's resolution, then every position paints its square of the image (METHODS 5.2).

    The wide convolutions all run where there are few positions: at 8x8 a block of 96 channels costs what one of 24 costs at
    32x32, and two cores run it at their peak.

    Args:
        image_shape: ``(height, width, channels)`` of the images to reconstruct.
        width: channels of the blocks.
        blocks: how many.

    Returns:
        Images ``(b, height, width, channels)`` in (0, 1).

    Example:
        >>> module, z = DecoderReader((16, 16, 3), width=8), jnp.ones((2, 4, 4, 12))
        >>> jax.eval_shape(module.init_with_output, jax.random.key(0), z)[0].shape
        (2, 16, 16, 3)
    """

    image_shape: tuple[int, int, int]
    width: int = 96
    blocks: int = 2

    @nn.compact
    def __call__(self, z: Features, *, train: bool = False) -> Images:
        """Reconstructs images."""
        x = Grid(self.image_shape, self.width)(z)
        x = nn.relu(_norm(train)(Conv(self.width, use_bias=False)(x)))
        for _ in range(self.blocks):
            x = Block()(x, train=train)
        times, channels = doublings(x.shape[1:], self.image_shape) or 0, self.image_shape[2]
        x = depth_to_space(Conv(4**times * channels, name="pixels")(x), 2**times)
        return jax.nn.sigmoid(x)
