"""A network that imitates a client: any image to features of any shape, for attackers who cannot differentiate it."""

import math

import flax.linen as nn

from ani_jax.modules.adversaries import doublings
from ani_jax.modules.kernels import Conv, max_pool
from ani_jax.types import Features, Images


class Imitation(nn.Module):
    """Convolution blocks down to the resolution of the features, then one linear layer to their channels.

    Blocks of conv3x3, ReLU and 2x2 pooling while both sides of the grid are even and above the features', each doubling
    the channels up to ``4 * width``; one more convolution; a 1x1 convolution. Features that are no grid of the image
    come from a dense layer on a grid of sides 4 to 7. Nothing is normalised: how bright an image is may be what is sent.

    Args:
        shape: of one image's features.
        width: channels of the first block.

    Returns:
        Features ``(b, *shape)``.

    Example:
        >>> import functools, jax, jax.numpy as jnp
        >>> module, x = Imitation((8, 8, 12), 16), jnp.ones((2, 32, 32, 3))
        >>> init = functools.partial(module.init_with_output, train=False)
        >>> jax.eval_shape(init, jax.random.key(0), x)[0].shape
        (2, 8, 8, 12)
    """

    shape: tuple[int, ...]
    width: int = 32

    @nn.compact
    def __call__(self, x: Images, *, train: bool) -> Features:
        """Imitates a client; ``train`` changes nothing."""
        del train
        # Pooling must end on the features' own grid; where they have none, on one small enough for a dense layer.
        grid = self.shape[:2] if doublings(self.shape, x.shape[1:]) is not None else (7, 7)
        features = self.width
        while x.shape[1] > grid[0] and x.shape[2] > grid[1] and x.shape[1] % 2 == x.shape[2] % 2 == 0:
            x = max_pool(nn.relu(Conv(features)(x)))
            features = min(2 * features, 4 * self.width)
        x = nn.relu(Conv(features)(x))
        # Asked again of what pooling has left: an odd side stops it early.
        if doublings(self.shape, x.shape[1:]) is not None:
            return Conv(self.shape[-1], (1, 1), name="features")(x)
        x = nn.Dense(math.prod(self.shape), name="features")(x.reshape(x.shape[0], -1))
        return x.reshape(-1, *self.shape)
