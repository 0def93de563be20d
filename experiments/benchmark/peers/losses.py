"""Our losses in PyTorch, with the library's own fused forms where it has them."""

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional as F


def smoothed_kl(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """KL(q_smooth || softmax(logits)), its mean: PyTorch's smoothed cross-entropy but for a constant."""
    classes = logits.shape[1]
    constant = (1 - smoothing) * math.log(1 - smoothing) + smoothing * math.log(smoothing / (classes - 1))
    return constant + F.cross_entropy(logits, labels, label_smoothing=smoothing * classes / (classes - 1))


def entropy(logits: Tensor) -> Tensor:
    """H(softmax(logits)), its mean."""
    log_p = F.log_softmax(logits, 1)
    return -(log_p.exp() * log_p).sum(1).mean()


def centred(matrix: Tensor) -> Tensor:
    """Double centring of symmetric (..., b, b)."""
    means = matrix.mean(-1)
    return matrix - means[..., None] - means[..., None, :] + means.mean(-1)[..., None, None]


def u_centred(matrix: Tensor) -> Tensor:
    """U-centring of symmetric (..., b, b) with a zero diagonal."""
    count = matrix.shape[-1]
    sums = matrix.sum(-1)
    total = sums.sum(-1) / ((count - 1) * (count - 2))
    sums = sums / (count - 2)
    matrix = matrix - sums[..., None] - sums[..., None, :] + total[..., None, None]
    return matrix * _other(count)


@functools.cache
def _other(count: int) -> Tensor:
    return 1 - torch.eye(count)


def distance_correlation(x: Tensor, z: Tensor) -> Tensor:
    """The biased distance correlation of (b, d) and (b, e)."""
    a, b = centred(torch.cdist(x, x)), centred(torch.cdist(z, z))
    return ((a * b).mean() / ((a * a).mean() * (b * b).mean()).sqrt()).clamp(0, 1).sqrt()


def local_distance_correlation(x: Tensor, z: Tensor) -> Tensor:
    """Mean over positions of the corrected form; z is (b, c, h, w)."""
    here = z.permute(2, 3, 0, 1).flatten(0, 1).contiguous()
    # Products of distances that are not centred yet need no diagonal: it is 0 but for rounding.
    a, b = (u_centred(torch.cdist(value, value) * _other(len(x))) for value in (x, here))
    products = (a * b).sum((1, 2)) / ((a * a).sum() * (b * b).sum((1, 2))).sqrt()
    return products.clamp(-1, 1).mean()


def standardise(z: Tensor) -> Tensor:
    """Features at unit variance over the batch."""
    z = z - z.mean(0)
    variance = z.square().mean(0)
    return z * torch.rsqrt(variance + 1e-5 * variance.mean() + 1e-12)


def decorrelate(z: Tensor, ridge: float = 1e-4) -> Tensor:
    """Standardised (b, c, h, w) with uncorrelated channels; the matrix is a constant."""
    u = standardise(z).permute(0, 2, 3, 1)
    with torch.no_grad():
        flat = u.reshape(-1, u.shape[-1])
        covariance = flat.T @ flat / len(flat)
        channels = len(covariance)
        floor = ridge * covariance.trace() / channels + 1e-12
        values, vectors = torch.linalg.eigh(covariance + floor * torch.eye(channels))
        whiten = (vectors * values.clamp_min(floor).rsqrt()) @ vectors.T
    return (u @ whiten).permute(0, 3, 1, 2)


def channel_pearson(z: Tensor) -> Tensor:
    """Mean squared correlation between an example's channels, over the batch; z is (b, c, h, w)."""
    z = z.permute(0, 2, 3, 1).flatten(1, 2)
    z = z - z.mean(1, keepdim=True)
    variance = z.square().mean(1)
    unit = z * torch.where(variance > 1e-12, variance, torch.inf).rsqrt()[:, None]
    correlation = unit.transpose(1, 2) @ unit / z.shape[1]
    channels = z.shape[2]
    return (correlation.square() * _other(channels)).sum((1, 2)).mean() / (channels * (channels - 1))


def ssim(guess: Tensor, image: Tensor) -> Tensor:
    """SSIM of every image with Wang's window, as dm-pix computes it."""
    channels = image.shape[1]
    stacked = torch.cat([guess, image, guess * guess, image * image, guess * image], 1)
    window = _window().expand(5 * channels, 1, 11)
    blurred = F.conv2d(stacked, window[..., None], groups=5 * channels)
    blurred = F.conv2d(blurred, window[:, :, None], groups=5 * channels)
    first, second, squares, others, products = blurred.split(channels, 1)
    means, mixed = first.square() + second.square(), first * second
    variance, other = (squares - first.square()).clamp_min(1e-14), (others - second.square()).clamp_min(1e-14)
    covariance = products - mixed
    covariance = covariance.sign() * torch.minimum((variance * other).sqrt(), covariance.abs())
    above = (2 * mixed + 1e-4) * (2 * covariance + 9e-4)
    return (above / ((means + 1e-4) * (variance + other + 9e-4))).mean((1, 2, 3))


@functools.cache
def _window() -> Tensor:
    window = torch.exp(-0.5 * ((torch.arange(11) - 5) / 1.5) ** 2)
    return (window / window.sum())[None, None]


def total_variation(images: Tensor) -> Tensor:
    """The anisotropic form of every image, per element."""
    vertical = images.diff(dim=2).abs().sum((1, 2, 3))
    horizontal = images.diff(dim=3).abs().sum((1, 2, 3))
    return (vertical + horizontal) / images[0].numel()


def mine(scores: Tensor, log_ema: Tensor, decay: float = 0.99) -> tuple[Tensor, Tensor]:
    """MINE's surrogate, whose gradient a moving average corrects, and the new average's logarithm."""
    count = len(scores)
    marginal = scores.flatten()[1:].view(count - 1, count + 1)[:, :-1].flatten()
    log_mean = marginal.logsumexp(0) - math.log(len(marginal))
    new = torch.logaddexp(log_ema + math.log(decay), log_mean.detach() + math.log1p(-decay))
    return scores.diagonal().mean() - torch.exp(log_mean - new), new
