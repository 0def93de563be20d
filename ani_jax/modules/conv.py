"""One convolution and one max pooling for every network of the house."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def plain(x, kernel, strides=(1, 1), padding="SAME"):
    """XLA's own convolution."""
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


conv2d = plain


class Conv(nn.Module):
    """A 2-D convolution with ``nn.Conv``'s parameters and initialisation."""

    features: int
    kernel_size: Sequence[int] = (3, 3)
    strides: Sequence[int] = (1, 1)
    padding: str = "SAME"
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b p q f"]:
        """Convolves a batch of images or feature maps."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        y = conv2d(x, kernel.astype(x.dtype), tuple(self.strides), self.padding)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
            y = y + bias.astype(x.dtype)[None, None, None, :]
        return y


@jax.custom_vjp
def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b p q c"]:
    """2x2 max pooling."""
    return _pool(x)


def _pool(x):
    b, h, w, c = x.shape
    if h % 2 or w % 2:
        raise ValueError(f"x: {h}x{w} cannot be pooled by 2; height and width must be even")
    return x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))


def _pool_forward(x):
    y = _pool(x)
    return y, (x, y)


def _pool_backward(saved, g):
    x, y = saved
    b, h, w, c = x.shape
    cells = x.reshape(b, h // 2, 2, w // 2, 2, c)
    hit = cells == y[:, :, None, :, None, :]
    return (jnp.where(hit, g[:, :, None, :, None, :], 0).reshape(x.shape),)


max_pool.defvjp(_pool_forward, _pool_backward)
