"""``none``: the plain split, trained with cross-entropy. The ceiling of utility, and of leakage."""

import dataclasses
from typing import ClassVar

from flax import linen as nn

from ani_jax.defenses.base import Defense, Forward, Terms
from ani_jax.losses.task import cross_entropy
from ani_jax.modules.cloud import CnnCloud
from ani_jax.modules.edge import CnnEdge
from ani_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class Undefended(Defense):
    """Split learning without any protection: minimise CE(server(client(x)), y)."""

    name: ClassVar[str] = "none"
    provenance: ClassVar[str] = "The undefended split of the same backbone: every other defence is measured against it."

    @property
    def client(self) -> nn.Module:
        """Two convolution blocks; z is (H/4, W/4, 2 * width)."""
        return CnnEdge(self.width, axis_name=self.axis_name)

    @property
    def server(self) -> nn.Module:
        """The remaining backbone."""
        return CnnCloud(self.classes, self.width, axis_name=self.axis_name)

    def client_loss(self, forward: Forward, batch: Batch) -> Terms:
        """Cross-entropy only."""
        return {"task": cross_entropy(forward.logits, batch.label).mean()}
