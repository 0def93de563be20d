"""``erasure``: LEACE (Belrose et al. 2023, arXiv 2306.03819) on a plain split: what a line reads of s is taken out.

    z = h - W^+ Q Q^T W (h - mean),     W = Cov(h)^(-1/2),   Q an orthonormal basis of the columns of W Cov(h, one_hot(s))

fitted on ``defend`` once the split is trained, an affine map of rank K - 1 behind the client's last non-linearity; the server is
then trained on what is left. [published] of all affine maps after which no linear classifier beats a constant, the one that moves
features least. It takes out what is linear, on the data that it was fitted to, and only that: anything curved reads on.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float

from ani_jax.defenses.base import Phase
from ani_jax.defenses.mixins import Hiding
from ani_jax.defenses.registry import register
from ani_jax.defenses.split import Split
from ani_jax.losses.checks import require
from ani_jax.types import Data, Images, PRNGKey, Sent, Source

DRAWN = 8192
"""Drawings of ``defend`` that the map is fitted to."""
DRAW = 2**32 - 4
"""What their key is folded with: a step that no training reaches."""
SILENT = 1e-6
"""Directions of so small a share of the largest variance count as constant."""


@register
@dataclasses.dataclass(frozen=True)
class Erasure(Split, Hiding):
    """A split of whose features what is linear in the hidden attributes is erased.

    Attributes:
        finishing_steps: steps of the server on what is left.
    """

    finishing_steps: int = 200
    steps: int = 800

    name: ClassVar[str] = "erasure"
    provenance: ClassVar[str] = (
        "LEACE (Belrose et al. 2023, arXiv 2306.03819), whose formula is published, behind a split of this project's."
    )

    def __post_init__(self):
        super().__post_init__()
        require(self.finishing_steps >= 0, "finishing_steps", self.finishing_steps, "0 or more")

    @property
    def client(self) -> nn.Module:
        """The edge, and the map."""
        return Erased(self.edge, sum(classes - 1 for classes in self.hidden.values()))

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Client and server; then the map, and the server alone."""
        return (
            Phase("train", self.steps, ("client", "server"), ("task",)),
            Phase("finish", self.finishing_steps, ("server",), ("task",), prepare=self.prepare),
        )

    def prepare(self, state: Any, data: Data) -> Any:
        """Fits the map to ``defend``."""
        batch = jax.jit(Source.draw, static_argnums=2)(data.defend, jax.random.fold_in(state.key, DRAW), DRAWN)
        asked = jax.jit(self.features)
        found = [asked(state, batch.image[start : start + 1024]) for start in range(0, DRAWN, 1024)]
        labels = [np.eye(classes)[np.asarray(batch.sensitive[name])] for name, classes in self.hidden.items()]
        flat = np.concatenate(found).reshape(DRAWN, -1).astype(np.float64)
        mean, into, out = leace(flat, np.concatenate(labels, 1))
        fitted = {"mean": mean, "into": into, "out": out}
        client = state.statistics["client"] | {name: jnp.asarray(value, jnp.float32) for name, value in fitted.items()}
        return dataclasses.replace(state, statistics={**state.statistics, "client": client})


def leace(
    h: Float[np.ndarray, "n d"], s: Float[np.ndarray, "n k"]
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d r"], Float[np.ndarray, "d r"]]:
    """The least map after which nothing linear tells of s: ``h - (h - mean) @ into @ out.T``.

    Args:
        h: features.
        s: one-hot labels, of several attributes side by side.

    Returns:
        mean, into and out; r is k less one for each attribute, zeros where s has fewer directions than that.

    Example:
        >>> h, s = np.array([[0.0, 1.0], [0.0, -1.0], [2.0, 1.0], [2.0, -1.0]]), np.eye(2)[[0, 0, 1, 1]]
        >>> mean, into, out = leace(h, s)
        >>> (h - (h - mean) @ into @ out.T).round(6).tolist()
        [[1.0, 1.0], [1.0, -1.0], [1.0, 1.0], [1.0, -1.0]]
    """
    mean, attributes = h.mean(0), round(s.sum(1)[0])
    centred = h - mean
    sizes, directions = np.linalg.eigh(centred.T @ centred / len(h))
    alive = sizes > SILENT * sizes.max()
    roots, directions = np.sqrt(sizes[alive]), directions[:, alive]
    # In the coordinates in which features are white.
    told = (directions / roots).T @ (centred.T @ (s - s.mean(0)) / len(h))
    basis, strengths, _ = np.linalg.svd(told, full_matrices=False)
    rank = s.shape[1] - attributes
    basis = np.where(strengths > 1e-9, basis, 0)[:, :rank]
    basis = np.pad(basis, ((0, 0), (0, rank - basis.shape[1])))
    return mean, (directions / roots) @ basis, (directions * roots) @ basis


class Erased(nn.Module):
    """Features behind an affine map that takes a few directions out, none until somebody fits it.

    Args:
        encoder: ``(x, key, *, train) -> Sent``.
        rank: directions.

    Example:
        >>> from ani_jax.modules.edge import SplitEdge
        >>> module, x = Erased(SplitEdge(8), 3), jnp.ones((2, 16, 16, 3))
        >>> module.init_with_output(jax.random.key(0), x, None, train=False)[0].z.shape
        (2, 4, 4, 16)
    """

    encoder: nn.Module
    rank: int

    @nn.compact
    def __call__(self, x: Images, key: PRNGKey | None, *, train: bool) -> Sent:
        """Sends what is left."""
        z = self.encoder(x, key, train=train).z  # type: ignore[operator]
        flat = z.reshape(z.shape[0], -1)
        size = flat.shape[1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, (size,)).value
        into, out = (self.variable("batch_stats", name, jnp.zeros, (size, self.rank)).value for name in ("into", "out"))
        return Sent((flat - (flat - mean[None]) @ into @ out.T).reshape(z.shape), {})
