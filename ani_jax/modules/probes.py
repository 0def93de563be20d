"""What co-trained adversaries listen with: standardised and decorrelated features, small classifiers that vote, a local decoder.

A client that is trained against an adversary hides from it by speaking quietly: in features of little variance, and in small
differences between features that otherwise agree. Attackers scale such directions up again, so an adversary must too, or it is
deaf to what they will hear.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ani_jax.modules.adversaries import depth_to_space
from ani_jax.modules.kernels import Conv
from ani_jax.types import Features, Images, Logits

Votes = Float[Array, "b n k"]
"""n independent opinions on each example, as logits."""


def standardise(z: Features, axis_name: str | None = None) -> Features:
    """Features at unit variance over the (global) batch, each by itself; those that hardly vary stay small.

    Args:
        z: features.
        axis_name: device axis whose batches count as one.

    Returns:
        ``(z - mean) / sqrt(var + 1e-5 * mean(var))``; zeros for constant features.

    Example:
        >>> float(standardise(jnp.array([[1.0], [3.0]]))[1, 0].round(2))
        1.0
    """
    mean = jnp.mean if axis_name is None else lambda x, axis: jax.lax.pmean(x.mean(axis), axis_name)
    centred = z - mean(z, 0)[None]
    variance = mean(centred**2, 0)
    # Measured against the mean variance: a client may send at any scale, and rounding must not be blown up to a feature.
    return centred * jax.lax.rsqrt(variance + 1e-5 * variance.mean() + 1e-12)[None]


def decorrelate(z: Features, axis_name: str | None = None, ridge: float = 1e-4) -> Features:
    """Standardised features whose channels are uncorrelated and of unit variance over batch and positions (ZCA).

        u = standardise(z),  C = mean(u u^T) over batch and positions,  u (C + ridge * tr(C) / c * I)^(-1/2)

    The matrix counts as a constant in gradients.

    Args:
        z: (b, ..., c).
        axis_name: device axis whose batches count as one.
        ridge: variance, in units of the mean one, below which a direction is left small. Static, above 0.

    Returns:
        The shape of z.

    Example:
        >>> quiet = jnp.array([[1.0, 1.01], [-1.0, -1.01], [1.0, 0.99], [-1.0, -0.99]])
        >>> (jnp.abs(decorrelate(quiet, ridge=1e-6)).max(0) > 0.9).tolist()
        [True, True]
    """
    u = standardise(z, axis_name)
    # A constant: the gradient of eigh divides by differences of eigenvalues, which meet in whitened features.
    flat = jax.lax.stop_gradient(u.reshape(-1, u.shape[-1]))
    covariance = flat.T @ flat / len(flat)
    if axis_name is not None:
        covariance = jax.lax.pmean(covariance, axis_name)
    channels = covariance.shape[0]
    floor = ridge * jnp.trace(covariance) / channels + 1e-12
    values, vectors = jnp.linalg.eigh(covariance + floor * jnp.eye(channels))
    # Rounding can leave an eigenvalue below the floor that was added to it.
    return u @ ((vectors * jax.lax.rsqrt(jnp.maximum(values, floor))[None]) @ vectors.T)


class Heard(nn.Module):
    """A module that hears :func:`standardise` or :func:`decorrelate` of its input; each batch by itself, no statistics kept.

    Args:
        module: ``(z, *, train) -> output``.
        decorrelated: whether the channels are decorrelated too.
        axis_name: device axis whose batches count as one.

    Returns:
        What the module returns, the same for features of any scale and offset.

    Example:
        >>> heard, z = Heard(LinearClassifier(2)), jnp.array([[0.0], [1.0], [5.0]])
        >>> variables = {"params": {"module": {"classifier": {"kernel": jnp.array([[0.0, 1.0]]), "bias": jnp.zeros(2)}}}}
        >>> bool(jnp.allclose(heard.apply(variables, z), heard.apply(variables, 0.01 * z + 3), atol=1e-3))
        True
    """

    module: nn.Module
    decorrelated: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: Features, *, train: bool = False) -> Array:
        """Runs the module on what it hears."""
        return self.module((decorrelate if self.decorrelated else standardise)(z, self.axis_name), train=train)


class LinearClassifier(nn.Module):
    """One linear layer on the flattened features, from zero: the attackers' logistic probe.

    Args:
        classes: K.

    Returns:
        Logits ``(b, K)``.

    Example:
        >>> LinearClassifier(2).init_with_output(jax.random.key(0), jnp.ones((1, 3, 3, 5)))[0].tolist()
        [[0.0, 0.0]]
    """

    classes: int

    @nn.compact
    def __call__(self, z: Features, *, train: bool = False) -> Logits:
        """Classifies features; ``train`` changes nothing."""
        del train
        zeros = nn.initializers.zeros_init()
        return nn.Dense(self.classes, kernel_init=zeros, name="classifier")(z.reshape(z.shape[0], -1))


class PositionVotes(nn.Module):
    """A small perceptron that every position runs on its own channels: no position may tell.

    One classifier of the whole follows the loudest few of many features that say the same, and is certain, so that it passes
    little gradient back; voters hear each part and stay in doubt, so a client is told about all of them at once.

    Args:
        classes: K.
        width: hidden units.

    Returns:
        ``(b, positions, K)``; flat features are one position.

    Example:
        >>> z = jnp.ones((2, 3, 3, 5))
        >>> jax.eval_shape(PositionVotes(4, 8).init_with_output, jax.random.key(0), z)[0].shape
        (2, 9, 4)
    """

    classes: int
    width: int = 64

    @nn.compact
    def __call__(self, z: Features, *, train: bool = False) -> Votes:
        """Every position's opinion; ``train`` changes nothing."""
        del train
        x = _grid(z)
        x = nn.relu(Conv(self.width, (1, 1), name="first")(x))
        x = nn.relu(nn.LayerNorm(name="norm")(Conv(self.width, (1, 1), name="second")(x)))
        return Conv(self.classes, (1, 1), name="classifier")(x).reshape(x.shape[0], -1, self.classes)


class ChannelVotes(nn.Module):
    """A linear layer for every channel over its own positions, from zero: no channel may tell.

    Args:
        classes: K.

    Returns:
        ``(b, channels, K)``; flat features are channels of one position.

    Example:
        >>> z = jnp.ones((2, 3, 3, 5))
        >>> jax.eval_shape(ChannelVotes(4).init_with_output, jax.random.key(0), z)[0].shape
        (2, 5, 4)
    """

    classes: int

    @nn.compact
    def __call__(self, z: Features, *, train: bool = False) -> Votes:
        """Every channel's opinion; ``train`` changes nothing."""
        del train
        x = _grid(z)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        zeros = nn.initializers.zeros_init()
        kernel = self.param("kernel", zeros, (*x.shape[1:], self.classes))
        bias = self.param("bias", zeros, (x.shape[2], self.classes))
        return jnp.einsum("bpc,pck->bck", x, kernel) + bias[None]


class LocalDecoder(nn.Module):
    """Every position paints its own part of the image from its own surroundings: a linear map plus a small perceptron.

    It has little to learn, so it keeps up with a client that moves, where a deep decoder falls behind.

    Args:
        image_shape: ``(height, width, channels)`` of the images to reconstruct.
        width: hidden units.

    Returns:
        Images ``(b, height, width, channels)``; 0.5 everywhere at first, unbounded.

    Raises:
        ValueError: features that are not ``(b, p, q, c)``, with p a divisor of the height and q of the width.

    Example:
        >>> z = jnp.ones((2, 4, 4, 5))
        >>> LocalDecoder((8, 8, 3), 8).init_with_output(jax.random.key(0), z)[0].shape
        (2, 8, 8, 3)
    """

    image_shape: tuple[int, int, int]
    width: int = 64

    @nn.compact
    def __call__(self, z: Features, *, train: bool = False) -> Images:
        """Reconstructs images; ``train`` changes nothing."""
        del train
        height, width, channels = self.image_shape
        if z.ndim != 4 or height % z.shape[1] or width % z.shape[2]:
            raise ValueError(f"z: shape {z.shape}; must be (b, p, q, c), p a divisor of {height} and q of {width}")
        rows, columns = height // z.shape[1], width // z.shape[2]
        # Both maps start at 0: the first guess is middle grey, and what random maps would paint need not be unlearnt.
        zeros, painted = nn.initializers.zeros_init(), rows * columns * channels
        x = nn.relu(Conv(self.width, name="first")(z))
        x = nn.relu(nn.LayerNorm(name="norm")(Conv(self.width, (1, 1), name="second")(x)))
        x = Conv(painted, (1, 1), kernel_init=zeros, name="curved")(x) + Conv(
            painted, kernel_init=zeros, name="linear"
        )(z)
        return (
            depth_to_space(x, (rows, columns))
            + self.param("base", nn.initializers.constant(0.5), self.image_shape)[None]
        )


def _grid(z: Features) -> Float[Array, "b h w c"]:
    if z.ndim not in (2, 4):
        raise ValueError(f"z: shape {z.shape} is neither (batch, height, width, channels) nor (batch, features)")
    return z if z.ndim == 4 else z[:, None, None, :]
