"""Funnel-shaped edge networks (SiftFunnel; Liu 2025, arXiv 2501.00824): attention, a bottleneck, few channels sent."""

import flax.linen as nn
from jaxtyping import Array, Float

from ani_jax.modules.attention import CBAM, SqueezeExcite, TripletAttention, batch_norm
from ani_jax.modules.conv import Conv, max_pool
from ani_jax.modules.edge import CnnBlock, check_images
from ani_jax.types import PRNGKey, Sent

ORTHOGONAL = nn.initializers.orthogonal()
CENTRED = nn.initializers.delta_orthogonal()


class CnnFunnel(nn.Module):
    """The cnn funnel of METHODS 2.3 [code]; ``z`` is ``(h/4, w/4, channels)``.

    conv3x3 C->w, BN, maxpool, ReLU -> SE(r32) -> triplet attention -> 1x1 w->bottleneck, BN, ReLU, maxpool ->
    1x1 -> channels -> 3x3 -> SiLU -> 1x1 -> 3x3 -> 5x5 -> ReLU -> SE(r4) -> CBAM(r6, k7). 10,354 parameters and 3,072
    floats sent for 64x64x3 images at the defaults, against 76,032 and 32,768 of `CnnEdge`. Pooling precedes the ReLU:
    the same function, cheaper.

    Args:
        width: channels of the first block.
        channels: channels released (2, 4, 6, 8 and 12 occur in the release).
        bottleneck: channels between the two pools.
        axis_name: the mapped axis that batch statistics are averaged over, or ``None``.

    Returns:
        ``Sent(z, {})``: deterministic, so the key is ignored and may be ``None``. ``z`` is non-negative.

    Raises:
        ValueError: image sides that 4 does not divide.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> funnel, x = CnnFunnel(), jnp.ones((1, 8, 8, 3))
        >>> variables = jax.eval_shape(lambda key: funnel.init(key, x, train=False), jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        10354
    """

    width: int = 64
    channels: int = 12
    bottleneck: int = 16
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], key: PRNGKey | None = None, *, train: bool) -> Sent:
        """Encodes images."""
        del key
        check_images(x, 4)
        x = CnnBlock(self.width, self.axis_name, name="stem")(x, train=train)
        x = SqueezeExcite(32, name="stem_channels")(x)
        x = TripletAttention(axis_name=self.axis_name, name="stem_triplet")(x, train=train)
        x = Conv(self.bottleneck, (1, 1), name="bottleneck")(x)
        x = nn.relu(max_pool(batch_norm(train, self.axis_name, name="bottleneck_norm")(x)))
        x = Sift(self.channels, name="sift")(x)
        x = SqueezeExcite(4, name="channels")(x)
        return Sent(CBAM(6, name="cbam")(x), {})


class Sift(nn.Module):
    """The funnel's neck: 1x1 to ``channels``, 3x3, SiLU, 1x1, 3x3, 5x5, ReLU, every convolution with bias.

    Kernels start orthogonal and, where larger than 1x1, at their centre alone (Xiao et al. 2018): five linear maps with two
    nonlinearities and no normalisation between them otherwise start as a random blur, and under the correlation
    constraints the task's gradient through it takes several times as many steps to be found.

    Args:
        channels: channels out, and of everything between.

    Returns:
        ``(b, h, w, channels)``, non-negative.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.ones((1, 4, 4, 16))
        >>> sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(Sift(12).init, jax.random.key(0), x)))
        6588
    """

    channels: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w f"]:
        """Narrows and mixes the channels."""
        x = Conv(self.channels, (1, 1), kernel_init=ORTHOGONAL, name="narrow")(x)
        x = nn.silu(Conv(self.channels, (3, 3), kernel_init=CENTRED, name="first")(x))
        x = Conv(self.channels, (1, 1), kernel_init=ORTHOGONAL, name="mix")(x)
        x = Conv(self.channels, (3, 3), kernel_init=CENTRED, name="second")(x)
        return nn.relu(Conv(self.channels, (5, 5), kernel_init=CENTRED, name="third")(x))
