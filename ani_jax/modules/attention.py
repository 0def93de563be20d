"""Attention blocks that keep the shape: squeeze-and-excitation, CBAM and triplet attention.

All three multiply a feature map by gates in (0, 1) that are computed from it. The SE and CBAM perceptrons and every 7x7
convolution are without bias, as in the funnel's edge networks (METHODS 2.3 [code]).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ani_jax.modules.kernels import Conv, peak


def _check(x: Array, reduction: int = 1, kernel_size: int = 1) -> None:
    if x.ndim != 4:
        raise ValueError(f"x: shape {x.shape} is not (batch, height, width, channels)")
    if reduction < 1:
        raise ValueError(f"reduction: {reduction} is not a positive integer")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size: {kernel_size} is not a positive odd integer")


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation (Hu, Shen & Sun 2018): ``x * sigmoid(W2 relu(W1 mean_hw(x)))``, one gate a channel.

    The hidden layer has ``max(1, c // reduction)`` units; neither layer has a bias.

    Args:
        reduction: how many channels share a hidden unit.

    Returns:
        ``(b, h, w, c)``, the input's shape.

    Raises:
        ValueError: a reduction below 1 or an input that is not four-dimensional.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.ones((1, 4, 4, 64))
        >>> variables = jax.eval_shape(SqueezeExcite(32).init, jax.random.key(0), x)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
        256
    """

    reduction: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Scales each channel by its gate."""
        _check(x, self.reduction)
        channels = x.shape[-1]
        hidden = nn.relu(nn.Dense(max(1, channels // self.reduction), use_bias=False, name="squeeze")(x.mean((1, 2))))
        gate = jax.nn.sigmoid(nn.Dense(channels, use_bias=False, name="excite")(hidden))
        return x * gate[:, None, None, :]


class CBAM(nn.Module):
    """Convolutional block attention (Woo et al. 2018): a gate per channel, then a gate per position.

    ``y = x * sigmoid(mlp(mean_hw(x)) + mlp(max_hw(x)))``, one perceptron shared by both pools, then
    ``y * sigmoid(conv(concat(mean_c(y), max_c(y))))``. Nothing has a bias; there is no normalisation (the release's
    parameter count, METHODS 2.3, leaves room for none).

    Args:
        reduction: how many channels share a hidden unit (``max(1, c // reduction)`` units).
        kernel_size: side of the spatial convolution, odd.

    Returns:
        ``(b, h, w, c)``, the input's shape.

    Raises:
        ValueError: a reduction below 1, an even kernel or an input that is not four-dimensional.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.ones((1, 4, 4, 12))
        >>> variables = jax.eval_shape(CBAM(6).init, jax.random.key(0), x)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
        146
    """

    reduction: int
    kernel_size: int = 7

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Scales channels, then positions."""
        _check(x, self.reduction, self.kernel_size)
        channels = x.shape[-1]
        squeeze = nn.Dense(max(1, channels // self.reduction), use_bias=False, name="squeeze")
        excite = nn.Dense(channels, use_bias=False, name="excite")
        gate = excite(nn.relu(squeeze(x.mean((1, 2))))) + excite(
            nn.relu(squeeze(peak(x.reshape(x.shape[0], -1, channels), 1)))
        )
        x = x * jax.nn.sigmoid(gate)[:, None, None, :]
        pooled = jnp.stack([x.mean(-1), peak(x, -1)], axis=-1)
        side = self.kernel_size
        return x * jax.nn.sigmoid(Conv(1, (side, side), use_bias=False, name="spatial")(pooled))


class TripletAttention(nn.Module):
    """Triplet attention (Misra et al. 2021): the mean of three gated copies, one for each pair of dimensions.

    For each axis a of (height, width, channels): ``gate_a = sigmoid(BN(conv(concat(max_a(x), mean_a(x)))))`` over the
    other two, and ``y = mean_a(x * gate_a)``. The paper permutes the tensor so that a 2-D convolution sees the pair;
    pooling over the axis itself gives the same without the permutation.

    Args:
        kernel_size: side of the convolutions, odd.
        axis_name: the mapped axis that batch statistics are averaged over, or ``None``.

    Returns:
        ``(b, h, w, c)``, the input's shape.

    Raises:
        ValueError: an even kernel or an input that is not four-dimensional.

    Example:
        >>> import functools, jax, jax.numpy as jnp
        >>> x = jnp.ones((1, 4, 4, 5))
        >>> init = functools.partial(TripletAttention().init, train=False)
        >>> variables = jax.eval_shape(init, jax.random.key(0), x)
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        300
    """

    kernel_size: int = 7
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        """Averages the three branches; ``train`` selects the batch's statistics."""
        _check(x, kernel_size=self.kernel_size)
        side = self.kernel_size
        gates = []
        for axis, name in ((1, "height"), (2, "width"), (3, "channels")):
            # The maximum comes first, where CBAM has the mean first: a trained kernel depends on it.
            pooled = jnp.stack([peak(x, axis), x.mean(axis)], axis=-1)
            y = Conv(1, (side, side), use_bias=False, name=f"{name}_conv")(pooled)
            y = batch_norm(train, self.axis_name, name=f"{name}_norm")(y)
            gates.append(jnp.expand_dims(jax.nn.sigmoid(y.squeeze(-1)), axis))
        height, width, channels = gates
        return x * (height + width + channels) / 3


def batch_norm(train: bool, axis_name: str | None = None, name: str | None = None) -> nn.BatchNorm:
    """The house's batch normalisation: batch statistics when ``train``, else running ones with momentum 0.9.

    ``axis_name`` must be known at construction: given to the training step alone, gradients across devices are wrong.

    Example:
        >>> batch_norm(True).use_running_average
        False
    """
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, axis_name=axis_name, name=name)
