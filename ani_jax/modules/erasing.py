"""Taking out of features what is linear in an attribute, and no more (LEACE, Belrose et al. 2023, arXiv 2306.03819)."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ani_jax.types import Features

SILENT = 1e-6
"""Directions of so small a share of the largest variance count as constant."""


class Erasing(nn.Module):
    """An affine map that takes a few directions out, none until somebody fits it.

    Args:
        rank: directions.

    Example:
        >>> import jax
        >>> jax.eval_shape(Erasing(3).init_with_output, jax.random.key(0), jnp.ones((2, 4, 4, 16)))[0].shape
        (2, 4, 4, 16)
    """

    rank: int

    @nn.compact
    def __call__(self, z: Features) -> Features:
        """What is left, in z's shape."""
        flat = z.reshape(z.shape[0], -1)
        size = flat.shape[1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, (size,)).value
        into, out = (self.variable("batch_stats", name, jnp.zeros, (size, self.rank)).value for name in ("into", "out"))
        return (flat - (flat - mean[None]) @ into @ out.T).reshape(z.shape)


def leace(
    h: Float[np.ndarray, "n d"], s: Float[np.ndarray, "n k"], rank: int
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d {rank}"], Float[np.ndarray, "d {rank}"]]:
    """The least map after which nothing linear tells of s: ``h - (h - mean) @ into @ out.T``.

    Args:
        h: features.
        s: labels as columns: one-hot ones of several attributes side by side, or :func:`beside` a label.
        rank: directions that s has at most; of more only the strongest are taken out.

    Returns:
        mean, into and out; zeros where s has fewer directions.

    Example:
        >>> h, s = np.array([[0.0, 1.0], [0.0, -1.0], [2.0, 1.0], [2.0, -1.0]]), np.eye(2)[[0, 0, 1, 1]]
        >>> mean, into, out = leace(h, s, 1)
        >>> (h - (h - mean) @ into @ out.T).round(6).tolist()
        [[1.0, 1.0], [1.0, -1.0], [1.0, 1.0], [1.0, -1.0]]
    """
    mean = h.mean(0)
    centred = h - mean
    sizes, directions = np.linalg.eigh(centred.T @ centred / len(h))
    alive = sizes > SILENT * sizes.max()
    roots, directions = np.sqrt(sizes[alive]), directions[:, alive]
    # In the coordinates in which features are white.
    told = (directions / roots).T @ (centred.T @ (s - s.mean(0)) / len(h))
    basis, strengths, _ = np.linalg.svd(told, full_matrices=False)
    basis = np.where(strengths > 1e-9, basis, 0)[:, :rank]
    basis = np.pad(basis, ((0, 0), (0, rank - basis.shape[1])))
    return mean, (directions / roots) @ basis, (directions * roots) @ basis


def beside(s: Int[np.ndarray, " n"], label: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n k"]:
    """An attribute as columns of which each is of one class of the label, and 0 on average there [ours].

    What is linear in these tells of the attribute to who knows the label, as whoever is sent z does: erasing the attribute alone
    leaves what moves with it one way for one class and the other way for another.

    Args:
        s: the attribute, from 0 up.
        label: likewise.

    Example:
        >>> np.abs(beside(np.array([0, 1, 0, 0]), np.array([0, 0, 1, 1]))).tolist()
        [[0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """
    one, members = np.eye(s.max() + 1)[s], np.eye(label.max() + 1)[label]
    usual = members.T @ one / np.maximum(members.sum(0), 1)[:, None]
    return (members[:, :, None] * (one - usual[label])[:, None]).reshape(len(s), -1)
