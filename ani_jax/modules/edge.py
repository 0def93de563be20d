"""Split encoders that run on the device: the undefended half of a classifier."""

import flax.linen as nn
from jaxtyping import Array, Float

from ani_jax.modules.attention import batch_norm
from ani_jax.modules.conv import Conv, max_pool
from ani_jax.types import PRNGKey, Sent

CNN_BLOCKS = (1, 2, 2)
"""The cnn as a table: each block's channels in units of the width. The edge runs the first, the cloud the others."""


def check_images(x: Array, divisor: int) -> None:
    """Raises a ``ValueError`` unless ``x`` is ``(b, h, w, c)`` with sides that ``divisor`` divides."""
    if x.ndim != 4:
        raise ValueError(f"x: shape {x.shape} is not (batch, height, width, channels)")
    if x.shape[1] % divisor or x.shape[2] % divisor:
        raise ValueError(f"x: {x.shape[1]}x{x.shape[2]} images; height and width must be multiples of {divisor}")


class CnnBlock(nn.Module):
    """conv3x3 with bias, batch normalisation, 2x2 max pooling, ReLU.

    Pooling before the ReLU is the same function (both are monotone) on a quarter of the elements.

    Args:
        features: channels out.
        axis_name: the mapped axis that batch statistics are averaged over, or ``None``.
        pool: whether to halve the resolution.

    Returns:
        ``(b, h/2, w/2, features)``, or ``(b, h, w, features)`` without pooling.

    Example:
        >>> import functools, jax, jax.numpy as jnp
        >>> block, x = CnnBlock(8), jnp.ones((2, 4, 4, 3))
        >>> jax.eval_shape(functools.partial(block.init_with_output, train=False), jax.random.key(0), x)[0].shape
        (2, 2, 2, 8)
    """

    features: int
    axis_name: str | None = None
    pool: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b p q f"]:
        """Applies the block; ``train`` selects the batch's statistics."""
        x = Conv(self.features, name="conv")(x)
        x = batch_norm(train, self.axis_name, name="norm")(x)
        return nn.relu(max_pool(x) if self.pool else x)


class CnnEdge(nn.Module):
    """The plain cnn split (METHODS 2.3): the first ``depth`` blocks of conv3x3, BN, maxpool, ReLU, of width w then 2w.

    At depth 2, ``z`` is ``(h/4, w/4, 2 * width)``: 76,032 parameters and 32,768 floats sent for 64x64x3 images, width
    64.

    Args:
        width: channels of the first block.
        depth: how many blocks run on the device, 1 or 2.
        axis_name: the mapped axis that batch statistics are averaged over, or ``None``.

    Returns:
        ``Sent(z, {})``: deterministic, so the key is ignored and may be ``None``.

    Raises:
        ValueError: another depth, or image sides that ``2 ** depth`` does not divide.

    Example:
        >>> import functools, jax, jax.numpy as jnp
        >>> edge, x = CnnEdge(width=8), jnp.ones((2, 8, 8, 3))
        >>> jax.eval_shape(functools.partial(edge.init_with_output, train=False), jax.random.key(0), x)[0].z.shape
        (2, 2, 2, 16)
    """

    width: int = 64
    depth: int = 2
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], key: PRNGKey | None = None, *, train: bool) -> Sent:
        """Encodes images."""
        del key
        if self.depth not in (1, 2):
            raise ValueError(f"depth: {self.depth} blocks on the device; allowed: 1, 2")
        check_images(x, 2**self.depth)
        for index, multiple in enumerate(CNN_BLOCKS[: self.depth]):
            x = CnnBlock(multiple * self.width, self.axis_name, name=f"block_{index}")(x, train=train)
        return Sent(x, {})
