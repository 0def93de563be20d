"""A variational autoencoder of images: what an attacker knows about pictures before it sees any features."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ani_jax.modules.adversaries import ConvClassifier, MirrorDecoder
from ani_jax.types import Images, PRNGKey


class Coded(NamedTuple):
    """What the autoencoder makes of images.

    Attributes:
        mean: of the code's posterior.
        log_stddev: of it.
        image: painted from one draw of the code.
    """

    mean: Float[Array, "b d"]
    log_stddev: Float[Array, "b d"]
    image: Images


class Autoencoder(nn.Module):
    """A code of standard normal numbers, a coarse layer that a dense layer makes of it, and a picture of that.

    The halves of the painter are methods of their own, because an attack searches the codes first and then the layer
    between (METHODS 5.5).

    Args:
        image_shape: ``(height, width, channels)``.
        size: numbers in a code.
        width: channels, as of `MirrorDecoder`.

    Returns:
        :class:`Coded`.

    Example:
        >>> import functools
        >>> module, x, key = Autoencoder((16, 16, 3), 8, 4), jnp.ones((2, 16, 16, 3)), jax.random.key(0)
        >>> found = jax.eval_shape(functools.partial(module.init_with_output, train=False), key, x, key)[0]
        >>> found.mean.shape, found.image.shape
        ((2, 8), (2, 16, 16, 3))
    """

    image_shape: tuple[int, int, int]
    size: int = 64
    width: int = 32

    def setup(self):
        """Makes the three networks."""
        height, width, _ = self.image_shape
        times = 0
        while min(height, width) >> times >= 8 and (height >> times) % 2 == (width >> times) % 2 == 0:
            times += 1
        self.grid = (height >> times, width >> times, 2 * self.width)
        self.encoder = ConvClassifier(2 * self.size, self.width)
        self.first = nn.Dense(self.grid[0] * self.grid[1] * self.grid[2])
        self.painter = MirrorDecoder(self.image_shape, self.width)

    def __call__(self, x: Images, key: PRNGKey, *, train: bool) -> Coded:
        """Codes images and paints them again from one draw."""
        del train
        mean, log_stddev = jnp.split(self.encoder(x), 2, axis=1)
        # Unbounded, one overflowing exponential would end the training.
        log_stddev = log_stddev.clip(-6, 2)
        code = mean + jnp.exp(log_stddev) * jax.random.normal(key, mean.shape)
        return Coded(mean, log_stddev, self.paint(self.layer(code)))

    def code(self, x: Images) -> Float[Array, "b d"]:
        """The likeliest code of each image."""
        return jnp.split(self.encoder(x), 2, axis=1)[0]

    def layer(self, code: Float[Array, "b d"]) -> Float[Array, "b h w c"]:
        """The coarse layer of a code."""
        return nn.relu(self.first(code)).reshape(-1, *self.grid)

    def paint(self, layer: Float[Array, "b h w c"]) -> Images:
        """The picture of a coarse layer."""
        return self.painter(layer)
