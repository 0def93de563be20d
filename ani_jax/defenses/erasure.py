"""``erasure``: LEACE (Belrose et al. 2023, arXiv 2306.03819) on a plain split: what a line reads of s is taken out.

    z = h - W^+ Q Q^T W (h - mean),     W = Cov(h)^(-1/2),   Q an orthonormal basis of the columns of W Cov(h, one_hot(s))

fitted on ``defend`` once the split is trained, an affine map of rank K - 1 behind the client's last non-linearity; the server is
then trained on what is left. [published] of all affine maps after which no linear classifier beats a constant, the one that moves
features least. It takes out what is linear, on the data that it was fitted to, and only that: anything curved reads on.
"""

import dataclasses
from typing import Any, ClassVar

from flax import linen as nn

from ani_jax.defenses.base import Phase
from ani_jax.defenses.mixins import Hiding
from ani_jax.defenses.registry import register
from ani_jax.defenses.split import Split
from ani_jax.losses.checks import require
from ani_jax.modules.erasing import Erasing
from ani_jax.types import Data, Images, PRNGKey, Sent


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
        return Erased(self.edge, self.directions(given_label=False))

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Client and server; then the map, and the server alone."""
        return (
            Phase("train", self.steps, ("client", "server"), ("task",)),
            Phase("finish", self.finishing_steps, ("server",), ("task",), prepare=self.prepare),
        )

    def prepare(self, state: Any, data: Data) -> Any:
        """Fits the map to ``defend``."""
        return self.erase(state, data, self.features, given_label=False)


class Erased(nn.Module):
    """Features behind an affine map that takes a few directions out, none until somebody fits it.

    Args:
        encoder: ``(x, key, *, train) -> Sent``.
        rank: directions.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
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
        return Sent(Erasing(self.rank, name="erase")(self.encoder(x, key, train=train).z), {})  # type: ignore[operator]
