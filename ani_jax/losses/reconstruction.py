"""How far a reconstruction is from its original, per image. Images are NHWC in [0, 1], so every peak is 1.

PSNR and SSIM are dm-pix's (imported where they are used, because it pulls in more than the other losses need): Wang's
window of 11 pixels with standard deviation 1.5, K1 0.01, K2 0.03, ``max_val`` 1.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ani_jax.losses.checks import Features, Images, floating, require, require_rank, require_same_shape
from ani_jax.losses.pairwise import safe_power

WINDOW = 11
"""Side of SSIM's Gaussian window, in pixels."""
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Wang, Simoncelli & Bovik 2003: weight of each scale, finest first."""


def mse(prediction: Features, target: Features) -> Float[Array, " b"]:
    """Mean squared error over all but the leading axis.

    Args:
        prediction: (b, ...).
        target: the same shape.

    Returns:
        (b,), squared pixel units per element.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> mse(jnp.ones((2, 4, 4, 1)), jnp.zeros((2, 4, 4, 1))).tolist()
        [1.0, 1.0]
    """
    prediction, target = _pair(prediction, target)
    return jnp.square(prediction - target).mean(tuple(range(1, target.ndim)))


def l1(prediction: Features, target: Features) -> Float[Array, " b"]:
    """Mean absolute error over all but the leading axis; its gradient at equality is 0.

    Args:
        prediction: (b, ...).
        target: the same shape.

    Returns:
        (b,), pixel units per element.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> l1(jnp.full((1, 2), 0.25), jnp.zeros((1, 2))).tolist()
        [0.25]
    """
    prediction, target = _pair(prediction, target)
    return jnp.abs(prediction - target).mean(tuple(range(1, target.ndim)))


def total_variation(images: Images, *, isotropic: bool = False) -> Float[Array, " b"]:
    """Total variation per element: forward differences, nothing beyond the last row and column.

        anisotropic: sum |d_v| + |d_h|        isotropic: sum sqrt(d_v^2 + d_h^2)        both over h * w * c

    (Rudin, Osher & Fatemi 1992.) Divided by the number of elements, so that a weight means the same at every size.

    Args:
        images: (b, h, w, c).
        isotropic: whether a diagonal edge costs its length.

    Returns:
        (b,), 0 for constant images. The isotropic form's gradient at a flat pixel is 0.

    Raises:
        ValueError: ``images`` is not of rank 4.

    Example:
        >>> step = jnp.zeros((1, 2, 2, 1)).at[0, :, 1].set(1.0)
        >>> total_variation(step).tolist()
        [0.5]
    """
    images = floating(images)
    require_rank(images, "images", 4)
    # The last row and column are repeated, so that both differences of a pixel have its place and can be added there.
    vertical = jnp.diff(images, axis=1, append=images[:, -1:])
    horizontal = jnp.diff(images, axis=2, append=images[:, :, -1:])
    if not isotropic:
        return (jnp.abs(vertical) + jnp.abs(horizontal)).mean((1, 2, 3))
    square = jnp.square(vertical) + jnp.square(horizontal)
    # Two wheres: sqrt's infinite slope at 0 must not meet a zero in the chain rule.
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0).mean((1, 2, 3))


def psnr(prediction: Images, target: Images) -> Float[Array, " b"]:
    """Peak signal-to-noise ratio with peak 1: -10 log10(MSE).

    Args:
        prediction: (b, h, w, c) in [0, 1].
        target: the same shape.

    Returns:
        (b,), decibels; infinite for equal images, so a metric rather than a loss.

    Raises:
        ValueError: the shapes differ or are not of rank 4.

    Example:
        >>> psnr(jnp.full((1, 2, 2, 1), 0.1), jnp.zeros((1, 2, 2, 1))).round(3).tolist()
        [20.0]
    """
    import dm_pix

    return jnp.asarray(dm_pix.psnr(*_images(prediction, target)))


def ssim(prediction: Images, target: Images) -> Float[Array, " b"]:
    """Structural similarity (Wang 2004), averaged over channels and the positions that the whole window covers.

    Args:
        prediction: (b, h, w, c) in [0, 1], h and w of 11 or more.
        target: the same shape.

    Returns:
        (b,), at most 1, which equal images have.

    Raises:
        ValueError: the shapes differ, are not of rank 4, or are smaller than the window.

    Example:
        >>> x = jnp.linspace(0, 1, 256).reshape(1, 16, 16, 1)
        >>> ssim(x, x).round(4).tolist()
        [1.0]
    """
    import dm_pix

    prediction, target = _windowed(prediction, target)
    return jnp.asarray(dm_pix.ssim(prediction, target))


def ssim_loss(prediction: Images, target: Images) -> Float[Array, " b"]:
    """1 - SSIM, a loss.

    Args:
        prediction: (b, h, w, c) in [0, 1], h and w of 11 or more.
        target: the same shape.

    Returns:
        (b,), 0 for equal images, at most 2.

    Raises:
        ValueError: as for :func:`ssim`.

    Example:
        >>> x = jnp.linspace(0, 1, 256).reshape(1, 16, 16, 1)
        >>> bool(ssim_loss(x, x)[0] < 1e-5)
        True
    """
    return 1 - ssim(prediction, target)


def ms_ssim_scales(height: int, width: int) -> int:
    """How many scales an 11-pixel window fits, at most five: report it beside every MS-SSIM.

    Args:
        height: of the images, in pixels.
        width: likewise.

    Returns:
        0 to 5; each further scale halves both sides (rounded down).

    Example:
        >>> [ms_ssim_scales(size, size) for size in (10, 16, 32, 64, 176)]
        [0, 1, 2, 3, 5]
    """
    side, scales = min(height, width), 0
    while side >= WINDOW and scales < len(MS_SSIM_WEIGHTS):
        side, scales = side // 2, scales + 1
    return scales


def ms_ssim(prediction: Images, target: Images) -> Float[Array, " b"]:
    """Multi-scale SSIM (Wang, Simoncelli & Bovik 2003) over the scales that fit, weights renormalised (METHODS 6).

        prod_(j < M) cs_j^(w_j) * ssim_M^(w_M), per channel, then averaged over channels

    cs is SSIM without its luminance factor; scales are 2 x 2 averages. With fewer than five scales (below 176 pixels)
    this is not the published number: label it with :func:`ms_ssim_scales`.

    Args:
        prediction: (b, h, w, c) in [0, 1], h and w of 11 or more.
        target: the same shape.

    Returns:
        (b,), in [0, 1]: a scale with a negative mean counts as 0, where the gradient is 0 too.

    Raises:
        ValueError: as for :func:`ssim`.

    Example:
        >>> x = jnp.linspace(0, 1, 1024).reshape(1, 32, 32, 1)
        >>> ms_ssim(x, x).round(4).tolist()
        [1.0]
    """
    import dm_pix

    prediction, target = _windowed(prediction, target)
    batch, height, width, channels = prediction.shape
    scales = ms_ssim_scales(height, width)
    # dm-pix averages over channels before a power could be taken, so every channel is an image of its own.
    weights = [weight / sum(MS_SSIM_WEIGHTS[:scales]) for weight in MS_SSIM_WEIGHTS[:scales]]
    pair = [jnp.moveaxis(image, 3, 1).reshape(-1, height, width, 1) for image in (prediction, target)]
    product = jnp.ones((), prediction.dtype)
    for scale, weight in enumerate(weights):
        last = scale == scales - 1
        # A huge K1 makes the luminance factor exactly 1, which leaves cs.
        similarity = jnp.asarray(dm_pix.ssim(*pair) if last else dm_pix.ssim(*pair, k1=1e6))
        product = product * safe_power(similarity, weight)
        if not last:
            # Sums of windows, because linen's average pooling would load flax; an odd last row or column is dropped.
            pair = [jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4 for x in pair]
    return product.reshape(batch, channels).mean(1)


def _pair(prediction: Features, target: Features) -> tuple[Array, Array]:
    prediction, target = floating(prediction), floating(target)
    require_same_shape(prediction, "prediction", target, "target")
    require(target.ndim >= 2, "target.shape", target.shape, "of rank 2 or more")
    return prediction, target


def _images(prediction: Images, target: Images) -> tuple[Array, Array]:
    prediction, target = _pair(prediction, target)
    require_rank(target, "target", 4)
    return prediction, target


def _windowed(prediction: Images, target: Images) -> tuple[Array, Array]:
    prediction, target = _images(prediction, target)
    require(min(target.shape[1:3]) >= WINDOW, "target.shape", target.shape, f"at least {WINDOW} pixels a side")
    return prediction, target
