"""Networks that try to undo a client: image decoders and attribute classifiers, trained with a defence or after it.

None keeps batch statistics (group and layer normalisation), so an adversary's answer about one example never depends on
its companions and its parameters are all of its state. Each takes features ``(b, h, w, c)`` or ``(b, d)``.

Upsampling is a 3x3 convolution to four times the channels followed by `depth_to_space`: exactly a transposed
convolution of stride 2 with a 6x6 kernel, without multiplying by the zeros that dilation inserts.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ani_jax.modules.kernels import Conv, max_pool
from ani_jax.types import Features, Images, Logits


def depth_to_space(x: Float[Array, "b h w c"], factor: int | tuple[int, int] = 2) -> Float[Array, "b p q f"]:
    """Unfolds channels into pixels: ``(b, h, w, f * rows * columns)`` to ``(b, h * rows, w * columns, f)``.

    Args:
        x: features.
        factor: rows and columns, or one number for both.

    Raises:
        ValueError: channels that ``rows * columns`` does not divide.

    Example:
        >>> import jax.numpy as jnp
        >>> depth_to_space(jnp.arange(4.0).reshape(1, 1, 1, 4))[0, :, :, 0].tolist()
        [[0.0, 1.0], [2.0, 3.0]]
    """
    b, h, w, c = x.shape
    rows, columns = (factor, factor) if isinstance(factor, int) else factor
    if c % (rows * columns):
        raise ValueError(f"x: {c} channels; must be a multiple of {rows * columns}")
    x = x.reshape(b, h, w, rows, columns, c // (rows * columns)).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * rows, w * columns, c // (rows * columns))


def space_to_depth(x: Float[Array, "b h w c"], factor: int = 2) -> Float[Array, "b p q f"]:
    """Folds ``factor x factor`` pixels into channels: the inverse of `depth_to_space`.

    Raises:
        ValueError: sides that ``factor`` does not divide.

    Example:
        >>> import jax.numpy as jnp
        >>> space_to_depth(jnp.ones((1, 8, 8, 3)), 4).shape
        (1, 2, 2, 48)
    """
    b, h, w, c = x.shape
    if h % factor or w % factor:
        raise ValueError(f"x: {h}x{w}; height and width must be multiples of {factor}")
    x = x.reshape(b, h // factor, factor, w // factor, factor, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // factor, w // factor, c * factor**2)


def _norm(channels: int) -> nn.GroupNorm:
    # Eight groups, or as many as any number of channels can be dealt into evenly.
    return nn.GroupNorm(num_groups=math.gcd(8, channels))


def _halvings(height: int, width: int, most: int) -> int:
    """How often both sides can be halved, at most ``most`` times."""
    count = 0
    while count < most and height % 2 ** (count + 1) == 0 and width % 2 ** (count + 1) == 0:
        count += 1
    return count


def doublings(grid: tuple[int, ...], image: tuple[int, ...]) -> int | None:
    """How often a grid's sides must be doubled to give the image's; ``None`` where nothing does.

    Args:
        grid: shape of one image's features; anything but ``(h, w, c)`` is no grid.
        image: ``(height, width, channels)``.

    Example:
        >>> doublings((8, 8, 12), (32, 32, 3)), doublings((8, 4, 12), (32, 32, 3)), doublings((768,), (32, 32, 3))
        (2, None, None)
    """
    if len(grid) != 3 or image[0] % grid[0] or image[1] % grid[1]:
        return None
    ratio = image[0] // grid[0]
    return ratio.bit_length() - 1 if ratio == image[1] // grid[1] and ratio & (ratio - 1) == 0 else None


class Grid(nn.Module):
    """Brings any features to a grid from which doublings reach the image.

    A grid finer than a quarter of the image's sides is folded to that where its sides allow it (`space_to_depth`:
    nothing is lost, and a convolution there costs up to 16 times less); a coarser one that the image is a power of two
    of is kept; anything else is flattened and mapped by a dense layer to a grid of sides 4 to 7, where the image's
    sides allow it.

    Args:
        image_shape: ``(height, width, channels)`` of the image to reach.
        width: channels of the grid that a dense layer makes.

    Returns:
        ``(b, height / 2**n, width / 2**n, c)``.

    Raises:
        ValueError: features that are neither ``(b, h, w, c)`` nor ``(b, d)``, or a bad image shape.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> Grid((32, 32, 3), 8).apply({}, jnp.ones((1, 32, 32, 3))).shape
        (1, 8, 8, 48)
    """

    image_shape: tuple[int, int, int]
    width: int

    @nn.compact
    def __call__(self, z: Features) -> Float[Array, "b h w c"]:
        """Folds, keeps or maps the features."""
        _check(z)
        if len(self.image_shape) != 3 or min(self.image_shape) < 1:
            raise ValueError(f"image_shape: {self.image_shape} is not (height, width, channels)")
        height, width, _ = self.image_shape
        times = doublings(z.shape[1:], self.image_shape)
        if times is None:
            # Down to a shorter side of 4 to 7: a dense layer's weights grow with the area that it makes.
            times = _halvings(height, width, max(0, min(height, width).bit_length() - 3))
            grid = (height >> times, width >> times, self.width)
            return nn.Dense(math.prod(grid), name="grid")(z.reshape(z.shape[0], -1)).reshape(-1, *grid)
        fold = _halvings(z.shape[1], z.shape[2], max(0, 2 - times))
        return space_to_depth(z, 2**fold) if fold else z


class _Raise(nn.Module):
    """Doublings to the image's resolution, halving the channels each time; a sigmoid at the end."""

    image_shape: tuple[int, int, int]
    floor: int = 16

    @nn.compact
    def __call__(self, x: Float[Array, "b p q f"]) -> Images:
        height, _, channels = self.image_shape
        times = (height // x.shape[1]).bit_length() - 1
        for _ in range(times - 1):
            features = max(x.shape[-1] // 2, min(self.floor, x.shape[-1]))
            # Normalised after unfolding: before it, the four pixels that a position becomes would be in different groups.
            x = depth_to_space(Conv(4 * features)(x))
            x = nn.relu(_norm(features)(x))
        x = depth_to_space(Conv(4 * channels, name="pixels")(x)) if times else Conv(channels, name="pixels")(x)
        return jax.nn.sigmoid(x)


class MirrorDecoder(nn.Module):
    """The edge network in reverse: transposed convolutions that double the resolution up to the image's (METHODS 5.2).

    conv3x3 to ``2 * width`` at z's resolution, then stride-2 transposed convolutions, each halving the channels, group
    normalisation and ReLU between them, a sigmoid on the pixels.

    Args:
        image_shape: ``(height, width, channels)`` of the images to reconstruct.
        width: as the edge's; ``2 * width`` channels at z's resolution.

    Returns:
        Images ``(b, height, width, channels)`` in (0, 1).

    Raises:
        ValueError: features that are neither ``(b, h, w, c)`` nor ``(b, d)``, or a bad image shape.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> decoder, z = MirrorDecoder((16, 16, 3), width=8), jnp.ones((2, 4, 4, 12))
        >>> jax.eval_shape(decoder.init_with_output, jax.random.key(0), z)[0].shape
        (2, 16, 16, 3)
    """

    image_shape: tuple[int, int, int]
    width: int = 64

    @nn.compact
    def __call__(self, z: Features, *, train: bool = False) -> Images:
        """Reconstructs images; ``train`` changes nothing."""
        del train
        x = Grid(self.image_shape, 2 * self.width)(z)
        x = nn.relu(_norm(2 * self.width)(Conv(2 * self.width, name="first")(x)))
        return _Raise(self.image_shape)(x)


class ConvClassifier(nn.Module):
    """Convolution blocks and a small perceptron: a class from features.

    Blocks of conv3x3, group normalisation, ReLU of ``width`` and then ``2 * width`` channels, pooled by 2 where both
    sides are even and above 2: two of them, up to four while a side is above 4. Flat features go straight to the
    perceptron.

    Args:
        classes: K.
        width: channels of the first block.

    Returns:
        Logits ``(b, K)``.

    Raises:
        ValueError: features that are neither ``(b, h, w, c)`` nor ``(b, d)``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> module, z = ConvClassifier(4, width=8), jnp.ones((2, 8, 8, 12))
        >>> jax.eval_shape(module.init_with_output, jax.random.key(0), z)[0].shape
        (2, 4)
    """

    classes: int
    width: int = 64

    @nn.compact
    def __call__(self, z: Features, *, train: bool = False) -> Logits:
        """Classifies features; ``train`` changes nothing."""
        del train
        _check(z)
        x = z
        for index in range(4 if z.ndim == 4 else 0):
            if index >= 2 and max(x.shape[1:3]) <= 4:
                break
            features = self.width * min(2, index + 1)
            x = _norm(features)(Conv(features)(x))
            # Pooled before the ReLU: the same function on a quarter of the elements.
            x = nn.relu(max_pool(x) if _halvings(x.shape[1], x.shape[2], 1) and min(x.shape[1:3]) > 2 else x)
        x = nn.relu(nn.Dense(2 * self.width, name="hidden")(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.classes, name="classifier")(x)


class MLPClassifier(nn.Module):
    """Two hidden layers with layer normalisation and ReLU on the flattened features.

    Args:
        classes: K.
        width: units of a hidden layer.

    Returns:
        Logits ``(b, K)``.

    Raises:
        ValueError: features that are neither ``(b, h, w, c)`` nor ``(b, d)``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> module, z = MLPClassifier(4, width=8), jnp.ones((2, 12))
        >>> jax.eval_shape(module.init_with_output, jax.random.key(0), z)[0].shape
        (2, 4)
    """

    classes: int
    width: int = 256

    @nn.compact
    def __call__(self, z: Features, *, train: bool = False) -> Logits:
        """Classifies features; ``train`` changes nothing."""
        del train
        _check(z)
        x = z.reshape(z.shape[0], -1)
        for _ in range(2):
            x = nn.relu(nn.LayerNorm()(nn.Dense(self.width)(x)))
        return nn.Dense(self.classes, name="classifier")(x)


def _check(z: Array) -> None:
    if z.ndim not in (2, 4):
        raise ValueError(f"z: shape {z.shape} is neither (batch, height, width, channels) nor (batch, features)")
    if not jnp.issubdtype(z.dtype, jnp.floating):
        raise ValueError(f"z: dtype {z.dtype} is not floating point")
