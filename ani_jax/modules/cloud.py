"""The provider's networks: what turns the received features into logits."""

import flax.linen as nn
from jaxtyping import Array, Float

from ani_jax.modules.attention import TripletAttention, batch_norm
from ani_jax.modules.edge import BACKBONES, block, check_depth
from ani_jax.modules.kernels import Conv
from ani_jax.types import Logits


class SplitCloud(nn.Module):
    """What the edge left of a backbone: optional channel expansion, the remaining blocks, a linear classifier.

    The expansion is METHODS 2.3's cloud "upsampling" [code], at constant resolution: conv3x3 c->C, conv3x3 C->C, BN,
    ReLU, triplet attention. The backbone behind it is ours, not the paper's, and the same for the plain and the funnel
    client, so that a comparison is of clients: the blocks that the edge left. A block halves the resolution only where
    both sides are even, so 7x7 features work. The resnet's classifier sees the mean over positions, the others' all.

    Args:
        classes: K.
        width: the edge's width, channels of the backbone's first block.
        depth: how many blocks have run on the device, 0 (the features are the image) to all.
        expansion: channels to expand to, 128 for the cnn and resnet funnels and 256 for vgg's; ``None`` for no expansion.
        axis_name: the mapped axis that batch statistics are averaged over, or ``None``.
        backbone: "cnn", "resnet" or "vgg".

    Returns:
        Logits ``(b, K)``.

    Raises:
        ValueError: an unknown backbone, another depth, or features that are not ``(b, h, w, c)``.

    Example:
        >>> import functools, jax, jax.numpy as jnp
        >>> cloud, z = SplitCloud(10, width=8), jnp.ones((2, 4, 4, 16))
        >>> jax.eval_shape(functools.partial(cloud.init_with_output, train=False), jax.random.key(0), z)[0].shape
        (2, 10)
    """

    classes: int
    width: int = 64
    depth: int = 2
    expansion: int | None = None
    axis_name: str | None = None
    backbone: str = "cnn"

    @nn.compact
    def __call__(self, z: Float[Array, "b h w c"], *, train: bool) -> Logits:
        """Classifies features."""
        if z.ndim != 4:
            raise ValueError(f"z: shape {z.shape} is not (batch, height, width, channels)")
        check_depth(self.backbone, self.depth, least=0)
        if self.expansion is not None:
            z = Expansion(self.expansion, self.axis_name, name="expansion")(z, train=train)
        # Sides are asked here and not of a table: another client may send features of any resolution.
        for index in range(self.depth, BACKBONES[self.backbone]):
            pool = z.shape[1] % 2 == 0 and z.shape[2] % 2 == 0
            z = block(self.backbone, index, self.width, self.axis_name, pool)(z, train=train)  # type: ignore[operator]
        z = z.mean((1, 2)) if self.backbone == "resnet" else z.reshape(z.shape[0], -1)
        return nn.Dense(self.classes, name="classifier")(z)


class CnnCloud(SplitCloud):
    """The provider's half of the plain cnn: :class:`SplitCloud` with its default backbone."""


class Expansion(nn.Module):
    """Channel expansion (METHODS 2.3 [code]): conv3x3 c->C, conv3x3 C->C, BN, ReLU, triplet attention.

    Args:
        channels: C.
        axis_name: the mapped axis that batch statistics are averaged over, or ``None``.

    Returns:
        ``(b, h, w, C)``.

    Example:
        >>> import functools, jax, jax.numpy as jnp
        >>> module, z = Expansion(8), jnp.ones((1, 4, 4, 2))
        >>> jax.eval_shape(functools.partial(module.init_with_output, train=False), jax.random.key(0), z)[0].shape
        (1, 4, 4, 8)
    """

    channels: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w f"]:
        """Expands the channels; ``train`` selects the batch's statistics."""
        z = Conv(self.channels, name="first")(z)
        z = nn.relu(batch_norm(train, self.axis_name, name="norm")(Conv(self.channels, name="second")(z)))
        return TripletAttention(axis_name=self.axis_name, name="triplet")(z, train=train)
