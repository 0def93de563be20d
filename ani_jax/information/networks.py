"""Networks that score how well an x and a z belong together: what variational bounds of mutual information are trained on.

Both take vectors ``(b, d_x)`` and ``(c, d_z)``, score every pair in one matrix product, and start out as functions that
cannot tell one pair from another: before training every bound reads 0.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Scores = Float[Array, "b c"]


class Critic(nn.Module):
    """T(x_i, z_j) = <f(x_i), g(z_j)> / sqrt(width) + a(x_i) + c(z_j): unbounded, 0 at the start.

    Unbounded, because a critic that ends in a sigmoid cannot report more than 1 nat by Donsker-Varadhan, as the funnel's
    authors' does (METHODS 6).

    Args:
        width: of the hidden layers and of the product.

    Returns:
        Scores ``(b, c)``, entry (i, j) is T(x_i, z_j).

    Example:
        >>> module, x = Critic(8), jnp.ones((3, 2))
        >>> module.init_with_output(jax.random.key(0), x, x[:2])[0].tolist()
        [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    """

    width: int = 128

    @nn.compact
    def __call__(self, x: Float[Array, "b p"], z: Float[Array, "c q"]) -> Scores:
        """Scores every pair."""
        # Zeros in g alone: zeros in f too would leave no gradient.
        right = _Net(self.width, self.width, zero=True, name="right")(z)
        return _Net(self.width, self.width, name="left")(x) @ right.T / math.sqrt(self.width)


class GaussianConditional(nn.Module):
    """log q(z_j | x_i) of a Gaussian with fitted mean and variances, for CLUB (Cheng 2020); standard normal at the start.

    Log-variances stay softly within -8 and 8: an element of z that x determines must not end the fit.

    Args:
        width: of the hidden layers.

    Returns:
        Log-densities ``(b, c)`` in nats, entry (i, j) is log q(z_j | x_i).

    Example:
        >>> module, x = GaussianConditional(8), jnp.ones((2, 1))
        >>> scores = module.init_with_output(jax.random.key(0), x, 0 * x)[0]
        >>> round(scores[0, 1].item(), 4), bool((scores[0] == scores[1]).all())
        (-0.9189, True)
    """

    width: int = 128

    @nn.compact
    def __call__(self, x: Float[Array, "b p"], z: Float[Array, "c q"]) -> Scores:
        """Scores every pair."""
        mean, log_variance = jnp.split(_Net(2 * z.shape[1], self.width, zero=True)(x), 2, axis=1)
        return gaussian_log_density(mean, 8 * jnp.tanh(log_variance / 8), z)


def gaussian_log_density(
    mean: Float[Array, "b q"], log_variance: Float[Array, "b q"], z: Float[Array, "c q"]
) -> Scores:
    """Log-densities N(z_j; mean_i, exp(log_variance_i)) of every pair, without a (b, c, q) difference.

    Args:
        mean: (b, q).
        log_variance: (b, q), log of each element's variance.
        z: (c, q).

    Returns:
        (b, c), nats.

    Example:
        >>> scores = gaussian_log_density(jnp.zeros((1, 1)), jnp.zeros((1, 1)), jnp.array([[0.0], [1.0]]))
        >>> [round(score, 4) for score in scores[0].tolist()]
        [-0.9189, -1.4189]
    """
    precision = jnp.exp(-log_variance)
    # Large squares cancel here, so the products are not left to a GPU's shortened floats.
    squares = _product(precision, jnp.square(z)) - 2 * _product(precision * mean, z)
    constant = (precision * jnp.square(mean) + log_variance + math.log(2 * math.pi)).sum(axis=1)
    return -(squares + constant[:, None]) / 2


def _product(x: Float[Array, "b q"], z: Float[Array, "c q"]) -> Scores:
    return jnp.matmul(x, z.T, precision=jax.lax.Precision.HIGHEST)


class _Net(nn.Module):
    """Two smooth layers beside a linear path; 0 at the start where asked."""

    features: int
    width: int
    zero: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b p"]) -> Float[Array, "b f"]:
        hidden = nn.silu(nn.Dense(self.width)(nn.silu(nn.Dense(self.width)(x))))
        init = nn.initializers.zeros if self.zero else nn.initializers.lecun_normal()
        return nn.Dense(self.features, kernel_init=init)(jnp.concatenate([x, hidden], axis=-1))
