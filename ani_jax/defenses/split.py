"""What most baselines are: a backbone cut in two and trained with cross-entropy. What they do to its features is their own."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ani_jax.defenses.base import Defense, Forward, Terms
from ani_jax.defenses.options import require_split
from ani_jax.losses.task import cross_entropy
from ani_jax.modules.cloud import SplitCloud
from ani_jax.modules.edge import SplitEdge
from ani_jax.types import Batch, Features, Images


@dataclasses.dataclass(frozen=True)
class Split(Defense):
    """Split learning: minimise CE(server(client(x)), y).

    Attributes:
        backbone: "cnn", "resnet" or "vgg".
        depth: how many of the backbone's blocks run on the device.
        light: convolve 2x2 with stride 2 on the device, instead of 3x3 and pooling; of the cnn alone. [ours]
    """

    backbone: str = "cnn"
    # Cut and width are those of partition, so that baselines and it differ in nothing but what protects.
    depth: int = 3
    light: bool = False
    width: int = 16
    steps: int = 1000
    learning_rate: float = 1e-2

    def __post_init__(self):
        super().__post_init__()
        require_split(self.backbone, self.depth, self.image_shape, self.light)

    @property
    def edge(self) -> SplitEdge:
        """The backbone's first blocks; two of the cnn's make (H/4, W/4, 2 * width)."""
        return SplitEdge(self.width, self.depth, self.axis_name, self.backbone, self.light)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Of what the edge makes of one image."""
        image, key = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32), jax.random.key(0)
        made, _ = jax.eval_shape(lambda x: self.edge.init_with_output(key, x, train=False), image)
        return made.z.shape[1:]  # type: ignore[union-attr]

    @property
    def client(self) -> nn.Module:
        """The edge, whose features are sent as they are."""
        return self.edge

    @property
    def server(self) -> nn.Module:
        """The remaining backbone."""
        return self.cloud(self.depth)

    def cloud(self, depth: int) -> SplitCloud:
        """What ``depth`` blocks on the device leave of the backbone."""
        return SplitCloud(self.classes, self.width, depth, None, self.axis_name, self.backbone)

    def features(self, state: Any, images: Images) -> Features:
        """What the edge makes of images at some state of training, in evaluation mode, where it is the client's ``encoder``."""
        statistics = state.statistics["client"].get("encoder", {})
        own = {"params": state.params["client"]["encoder"], **({"batch_stats": statistics} if statistics else {})}
        return self.edge.apply(own, images, train=False).z  # type: ignore[union-attr]

    def client_loss(self, forward: Forward, batch: Batch) -> Terms:
        """Cross-entropy only."""
        return {"task": cross_entropy(forward.logits, batch.label).mean()}
