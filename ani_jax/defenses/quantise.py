"""``quantise``: every feature is rounded to a grid of few values (METHODS 3).

    z = grid(clip(u, -4, 4)),     u the features at unit variance

The provider is trained on what is rounded; gradients pass the grid as if it were not there (straight through). What a
practitioner does to send less: through each feature go at most ``bits`` bits, and through hundreds of them nearly everything.
"""

import dataclasses
from typing import ClassVar

from flax import linen as nn

from ani_jax.defenses.options import strength
from ani_jax.defenses.registry import register
from ani_jax.defenses.split import Split
from ani_jax.losses.checks import require
from ani_jax.modules.sender import Sender


@register
@dataclasses.dataclass(frozen=True)
class Quantise(Split):
    """Few bits of every feature.

    Attributes:
        release_bits: how many, 1 to 16.
    """

    release_bits: int = strength(1, -1)

    name: ClassVar[str] = "quantise"
    provenance: ClassVar[str] = "Features rounded to a grid, straight through; a baseline of no one paper."

    def __post_init__(self):
        super().__post_init__()
        require(1 <= self.release_bits <= 16, "release_bits", self.release_bits, "1 to 16")

    @property
    def client(self) -> nn.Module:
        """The edge, and the grid."""
        return Sender(self.edge, 0.0, self.release_bits, axis_name=self.axis_name)
