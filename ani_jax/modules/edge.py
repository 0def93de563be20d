"""Split encoders that run on the device: the undefended half of a classifier, for each backbone.

A backbone is a row of blocks; the edge runs the first ``depth`` of them and the cloud the others, so that the cut moves blocks
and nothing else. [reconstruction] METHODS 2.2 names the families `cnn`, `resnet` and `vgg`; their sizes here are ours.
"""

import flax.linen as nn
from jaxtyping import Array, Float

from ani_jax.modules.attention import batch_norm
from ani_jax.modules.kernels import Conv, max_pool
from ani_jax.types import PRNGKey, Sent

CNN_BLOCKS = (1, 2, 2)
"""The cnn as a table: each block's channels in units of the width. The edge runs the first, the cloud the others."""
RESNET_BLOCKS = (1, 1, 2, 4, 8)
"""ResNet-18 as CIFAR has it: the stem, then four stages of two basic blocks, all but the first of stride 2."""
VGG_BLOCKS = (1, 2, 4, 8)
"""VGG: two convolutions and a pool each."""
BACKBONES = {"cnn": len(CNN_BLOCKS), "resnet": len(RESNET_BLOCKS), "vgg": len(VGG_BLOCKS)}
"""Backbone -> number of its blocks, which is the greatest depth."""


def divisor(backbone: str, depth: int) -> int:
    """What image sides must be multiples of for ``depth`` blocks on the device.

    Example:
        >>> [divisor(name, 3) for name in BACKBONES]
        [8, 2, 8]
    """
    # Neither resnet's stem nor its first stage halves.
    return 2 ** (max(0, depth - 2) if backbone == "resnet" else depth)


def block(
    backbone: str, index: int, width: int, axis_name: str | None, pool: bool = True, light: bool = False
) -> nn.Module:
    """Block ``index`` of a backbone, named after it; for use inside a module.

    Args:
        backbone: a key of ``BACKBONES``.
        index: 0 to ``BACKBONES[backbone] - 1``.
        width: channels of the first block.
        axis_name: the mapped axis that batch statistics are averaged over, or ``None``.
        pool: whether the block halves the resolution, if it is one that does.
        light: whether the cnn's blocks are, see :class:`CnnBlock`.

    Example:
        >>> block("resnet", 2, 16, None).features
        32
    """
    # Counted from the image on either side of the cut, so that moving it renames no parameter.
    name = f"block_{index}"
    if backbone == "cnn":
        return CnnBlock(CNN_BLOCKS[index] * width, axis_name, pool, light, name=name)
    if backbone == "vgg":
        return VggBlock(VGG_BLOCKS[index] * width, axis_name, pool, name=name)
    features = RESNET_BLOCKS[index] * width
    if index == 0:
        return CnnBlock(features, axis_name, pool=False, name=name)
    return ResnetStage(features, 2 if index > 1 and pool else 1, axis_name, name=name)


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
        light: halve it by a 2x2 convolution of stride 2 in place of both, a ninth of the multiplications.

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
    light: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b p q f"]:
        """Applies the block; ``train`` selects the batch's statistics."""
        x = (Conv(self.features, (2, 2), (2, 2), name="conv") if self.light else Conv(self.features, name="conv"))(x)
        x = batch_norm(train, self.axis_name, name="norm")(x)
        return nn.relu(max_pool(x) if self.pool and not self.light else x)


class VggBlock(nn.Module):
    """Two of conv3x3 with bias, batch normalisation, ReLU; then 2x2 max pooling.

    Args:
        features: channels out, of both convolutions.
        axis_name: the mapped axis that batch statistics are averaged over, or ``None``.
        pool: whether to halve the resolution.

    Returns:
        ``(b, h/2, w/2, features)``, or ``(b, h, w, features)`` without pooling.

    Example:
        >>> import functools, jax, jax.numpy as jnp
        >>> module, x = VggBlock(8), jnp.ones((2, 4, 4, 3))
        >>> jax.eval_shape(functools.partial(module.init_with_output, train=False), jax.random.key(0), x)[0].shape
        (2, 2, 2, 8)
    """

    features: int
    axis_name: str | None = None
    pool: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b p q f"]:
        """Applies the block; ``train`` selects the batch's statistics."""
        x = CnnBlock(self.features, self.axis_name, pool=False, name="first")(x, train=train)
        return CnnBlock(self.features, self.axis_name, self.pool, name="second")(x, train=train)


class ResnetStage(nn.Module):
    """Two basic blocks (He 2016): ``relu(short(x) + BN(conv(relu(BN(conv(x))))))``, 3x3 without bias.

    The shortcut is the identity where the shape stays, else a strided 1x1 convolution and batch normalisation.

    Args:
        features: channels out.
        stride: of the first convolution.
        axis_name: the mapped axis that batch statistics are averaged over, or ``None``.

    Returns:
        ``(b, h / stride, w / stride, features)``, sides rounded up.

    Example:
        >>> import functools, jax, jax.numpy as jnp
        >>> module, x = ResnetStage(8, 2), jnp.ones((2, 4, 4, 3))
        >>> jax.eval_shape(functools.partial(module.init_with_output, train=False), jax.random.key(0), x)[0].shape
        (2, 2, 2, 8)
    """

    features: int
    stride: int = 1
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b p q f"]:
        """Applies the stage; ``train`` selects the batch's statistics."""

        def norm(name: str) -> nn.BatchNorm:
            return batch_norm(train, self.axis_name, name=name)

        for index, stride in enumerate((self.stride, 1)):
            # No convolution here has a bias: the normalisation behind it would take it away again.
            short, strides, name = x, (stride, stride), f"block_{index}"
            if stride > 1 or x.shape[-1] != self.features:
                short = Conv(self.features, (1, 1), strides, use_bias=False, name=f"{name}_short")(x)
                short = norm(f"{name}_short_norm")(short)
            x = Conv(self.features, strides=strides, use_bias=False, name=f"{name}_first")(x)
            x = nn.relu(norm(f"{name}_first_norm")(x))
            x = Conv(self.features, use_bias=False, name=f"{name}_second")(x)
            x = nn.relu(short + norm(f"{name}_second_norm")(x))
        return x


class SplitEdge(nn.Module):
    """The first ``depth`` blocks of a backbone.

    Args:
        width: channels of the first block.
        depth: how many blocks run on the device, from 1 to all.
        axis_name: the mapped axis that batch statistics are averaged over, or ``None``.
        backbone: "cnn", "resnet" or "vgg".
        light: whether the cnn's blocks are, see :class:`CnnBlock`.

    Returns:
        ``Sent(z, {})``: deterministic, so the key is ignored and may be ``None``.

    Raises:
        ValueError: an unknown backbone, another depth, or image sides that :func:`divisor` does not divide.

    Example:
        >>> import functools, jax, jax.numpy as jnp
        >>> edge, x = SplitEdge(8, depth=3, backbone="resnet"), jnp.ones((2, 8, 8, 3))
        >>> jax.eval_shape(functools.partial(edge.init_with_output, train=False), jax.random.key(0), x)[0].z.shape
        (2, 4, 4, 16)
    """

    width: int = 64
    depth: int = 2
    axis_name: str | None = None
    backbone: str = "cnn"
    light: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], key: PRNGKey | None = None, *, train: bool) -> Sent:
        """Encodes images."""
        del key
        check_depth(self.backbone, self.depth, least=1)
        check_images(x, divisor(self.backbone, self.depth))
        for index in range(self.depth):
            one = block(self.backbone, index, self.width, self.axis_name, light=self.light)
            x = one(x, train=train)  # type: ignore[operator]
        return Sent(x, {})


def check_depth(backbone: str, depth: int, least: int) -> None:
    """Raises a ``ValueError`` unless the backbone is known and can be cut at ``depth``."""
    if backbone not in BACKBONES:
        raise ValueError(f"backbone: {backbone!r}; allowed: {', '.join(BACKBONES)}")
    if not least <= depth <= BACKBONES[backbone]:
        raise ValueError(f"depth: {depth} blocks on the device; allowed: {least} to {BACKBONES[backbone]}")


class CnnEdge(SplitEdge):
    """The plain cnn split (METHODS 2.3): the first ``depth`` blocks of conv3x3, BN, maxpool, ReLU, of width w then 2w.

    At depth 2, ``z`` is ``(h/4, w/4, 2 * width)``: 76,032 parameters and 32,768 floats sent for 64x64x3 images, width
    64.

    Args:
        width: channels of the first block.
        depth: how many blocks run on the device, 1 to 3.
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
