"""``none``: the plain split, trained with cross-entropy. The ceiling of utility, and of leakage."""

import dataclasses
from typing import ClassVar

from flax import linen as nn

from ani_jax.defenses.base import Defense, Forward, Terms
from ani_jax.defenses.registry import register
from ani_jax.losses.checks import require
from ani_jax.losses.task import cross_entropy
from ani_jax.modules.cloud import SplitCloud
from ani_jax.modules.edge import BACKBONES, SplitEdge, divisor
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


def require_split(backbone: str, depth: int, image_shape: tuple[int, int, int] | None, light: bool = False) -> None:
    """Refuses a cut that the backbone or the images, where they are known, do not have.

    Raises:
        ValueError: one line that names the option, its value and what is allowed.

    Example:
        >>> require_split("resnet", 6, (32, 32, 3))
        Traceback (most recent call last):
        ValueError: depth=6: must be 1 to 5 for resnet
    """
    require(backbone in BACKBONES, "backbone", backbone, f"one of {', '.join(BACKBONES)}")
    require(1 <= depth <= BACKBONES[backbone], "depth", depth, f"1 to {BACKBONES[backbone]} for {backbone}")
    require(not light or backbone == "cnn", "light", light, f"False with backbone={backbone}")
    side = divisor(backbone, depth)
    fits = image_shape is None or (image_shape[0] % side == 0 and image_shape[1] % side == 0)
    require(fits, "depth", depth, f"less, for images whose sides {side} does not divide")
