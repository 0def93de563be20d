"""Funnel-shaped edge networks (SiftFunnel; Liu 2025, arXiv 2501.00824): attention, a bottleneck, few channels sent."""

import flax.linen as nn
from jaxtyping import Array, Float

from ani_jax.modules.attention import CBAM, SqueezeExcite, TripletAttention, batch_norm
from ani_jax.modules.conv import Conv
from ani_jax.modules.edge import CnnBlock, VggBlock, check_images
from ani_jax.modules.pool import max_pool
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


class ResnetFunnel(nn.Module):
    """The resnet funnel of METHODS 2.3 [code]; ``z`` is ``(h/2, w/2, channels)``.

    stem conv3x3 C->w -> SE(r16) -> triplet attention -> 3x3 stride 2 w->2w, BN, ReLU, 3x3 2w->2w, BN, ReLU -> SE(r32) ->
    triplet attention -> 1x1 2w->bottleneck, BN, ReLU -> :class:`Sift` -> SE(r3) -> CBAM(r3). [reconstruction] The stem has
    batch normalisation and a ReLU, and every convolution before a normalisation a bias, as in `CnnFunnel`.

    Args:
        width: channels of the stem.
        channels: channels released, 6 in the release.
        bottleneck: channels before the neck.
        axis_name: the mapped axis that batch statistics are averaged over, or ``None``.

    Returns:
        ``Sent(z, {})``: deterministic, so the key is ignored and may be ``None``. ``z`` is non-negative.

    Raises:
        ValueError: image sides that 2 does not divide.

    Example:
        >>> import functools, jax, jax.numpy as jnp
        >>> funnel, x = ResnetFunnel(width=8), jnp.ones((2, 8, 8, 3))
        >>> jax.eval_shape(functools.partial(funnel.init_with_output, train=False), jax.random.key(0), x)[0].z.shape
        (2, 4, 4, 6)
    """

    width: int = 64
    channels: int = 6
    bottleneck: int = 32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], key: PRNGKey | None = None, *, train: bool) -> Sent:
        """Encodes images."""
        del key
        check_images(x, 2)
        axis = self.axis_name
        x = CnnBlock(self.width, axis, pool=False, name="stem")(x, train=train)
        x = SqueezeExcite(16, name="stem_channels")(x)
        x = TripletAttention(axis_name=axis, name="stem_triplet")(x, train=train)
        x = nn.relu(batch_norm(train, axis, "down_norm")(Conv(2 * self.width, strides=(2, 2), name="down")(x)))
        x = CnnBlock(2 * self.width, axis, pool=False, name="body")(x, train=train)
        x = SqueezeExcite(32, name="body_channels")(x)
        x = TripletAttention(axis_name=axis, name="body_triplet")(x, train=train)
        x = nn.relu(batch_norm(train, axis, "bottleneck_norm")(Conv(self.bottleneck, (1, 1), name="bottleneck")(x)))
        x = SqueezeExcite(3, name="channels")(Sift(self.channels, name="sift")(x))
        return Sent(CBAM(3, name="cbam")(x), {})


class VggFunnel(nn.Module):
    """The vgg funnel of METHODS 2.3 [code]; ``z`` is ``(h/4, w/4, channels)``.

    two conv3x3 w and a pool -> SE -> triplet attention -> two conv3x3 2w and a pool -> SE -> triplet attention ->
    3x3 2w->bottleneck, BN, ReLU -> :class:`Sift` -> SE(r4) -> CBAM(r4). [reconstruction] The first two SE blocks' ratios, 16
    and 32 as in `ResnetFunnel`, and batch normalisation behind every convolution of a block.

    Args:
        width: channels of the first block.
        channels: channels released, 4 in the release.
        bottleneck: channels before the neck.
        axis_name: the mapped axis that batch statistics are averaged over, or ``None``.

    Returns:
        ``Sent(z, {})``: deterministic, so the key is ignored and may be ``None``. ``z`` is non-negative.

    Raises:
        ValueError: image sides that 4 does not divide.

    Example:
        >>> import functools, jax, jax.numpy as jnp
        >>> funnel, x = VggFunnel(width=8), jnp.ones((2, 8, 8, 3))
        >>> jax.eval_shape(functools.partial(funnel.init_with_output, train=False), jax.random.key(0), x)[0].z.shape
        (2, 2, 2, 4)
    """

    width: int = 64
    channels: int = 4
    bottleneck: int = 32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], key: PRNGKey | None = None, *, train: bool) -> Sent:
        """Encodes images."""
        del key
        check_images(x, 4)
        for index, (multiple, reduction) in enumerate(((1, 16), (2, 32))):
            x = VggBlock(multiple * self.width, self.axis_name, name=f"block_{index}")(x, train=train)
            x = SqueezeExcite(reduction, name=f"channels_{index}")(x)
            x = TripletAttention(axis_name=self.axis_name, name=f"triplet_{index}")(x, train=train)
        x = CnnBlock(self.bottleneck, self.axis_name, pool=False, name="bottleneck")(x, train=train)
        x = SqueezeExcite(4, name="channels")(Sift(self.channels, name="sift")(x))
        return Sent(CBAM(4, name="cbam")(x), {})


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
