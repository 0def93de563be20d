"""``none``: the plain split, trained with cross-entropy. The ceiling of utility, and of leakage."""

import dataclasses
from typing import ClassVar

from flax import linen as nn

from ani_jax.defenses.base import Defense, Forward, Terms
from ani_jax.defenses.options import require_split
from ani_jax.defenses.registry import register
from ani_jax.losses.task import cross_entropy
from ani_jax.modules.cloud import SplitCloud
from ani_jax.modules.edge import SplitEdge
from ani_jax.types import Batch


@register
@dataclasses.dataclass(frozen=True)
class Undefended(Defense):
    """Split learning without any protection: minimise CE(server(client(x)), y).

    Attributes:
        backbone: "cnn", "resnet" or "vgg".
        depth: how many of the backbone's blocks run on the device.
        light: convolve 2x2 with stride 2 on the device, instead of 3x3 and pooling; of the cnn alone. [ours]
    """

    backbone: str = "cnn"
    depth: int = 2
    light: bool = False

    # Its plateau on digits: 97.5% on validation after 800 steps and 98.3% after these (practice seed 100).
    steps: int = 1600
    learning_rate: float = 5e-3

    name: ClassVar[str] = "none"
    provenance: ClassVar[str] = "The undefended split of the same backbone: every other defence is measured against it."

    def __post_init__(self):
        super().__post_init__()
        require_split(self.backbone, self.depth, self.image_shape, self.light)

    @property
    def client(self) -> nn.Module:
        """The backbone's first blocks; two of the cnn's make z (H/4, W/4, 2 * width)."""
        return SplitEdge(self.width, self.depth, self.axis_name, self.backbone, self.light)

    @property
    def server(self) -> nn.Module:
        """The remaining backbone."""
        return SplitCloud(self.classes, self.width, self.depth, None, self.axis_name, self.backbone)

    def client_loss(self, forward: Forward, batch: Batch) -> Terms:
        """Cross-entropy only."""
        return {"task": cross_entropy(forward.logits, batch.label).mean()}
