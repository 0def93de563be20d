"""``label_only``: the whole classifier runs on the device and its answer is all that is sent (METHODS 3).

    min over client of  CE(client(x), y),        z = one_hot(argmax client(x))

The floor of what a useful release leaks, and the ceiling of what a client computes: a defence whose client computes no less, and
answers no better, protects nothing that answering on the device would not.
"""

import dataclasses
from typing import ClassVar

import jax
from flax import linen as nn
from jaxtyping import Array

from ani_jax.defenses.base import Defense, Forward, Phase, Terms
from ani_jax.defenses.options import require_split
from ani_jax.defenses.registry import register
from ani_jax.losses.task import cross_entropy
from ani_jax.modules.edge import BACKBONES, SplitEdge
from ani_jax.types import Batch, Features, Images, Logits, PRNGKey, Sent

LOGITS = "logits"
"""Name, in what the client keeps to itself, of what its answer was taken from."""


@register
@dataclasses.dataclass(frozen=True)
class LabelOnly(Defense):
    """Answers on the device; nothing is left for a server to learn.

    Attributes:
        backbone: "cnn", "resnet" or "vgg", all of its blocks.
        light: convolve 2x2 with stride 2, instead of 3x3 and pooling; of the cnn alone.
    """

    backbone: str = "cnn"
    light: bool = False
    width: int = 4
    steps: int = 1600
    learning_rate: float = 5e-3

    name: ClassVar[str] = "label_only"
    provenance: ClassVar[str] = "A classifier on the device; networks and training are those of the undefended split."

    def __post_init__(self):
        super().__post_init__()
        # Before its blocks are counted: an unknown backbone has none.
        require_split(self.backbone, BACKBONES.get(self.backbone, 1), self.image_shape, self.light)

    @property
    def client(self) -> nn.Module:
        """All blocks and a linear classifier; z is (K,), 1 at the answer."""
        blocks = SplitEdge(self.width, BACKBONES[self.backbone], self.axis_name, self.backbone, self.light)
        return Answer(blocks, self.classes)

    @property
    def server(self) -> nn.Module:
        """Repeats what it was told."""
        return Told()

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The client alone."""
        return (Phase("train", self.steps, ("client",), ("task",)),)

    def client_loss(self, forward: Forward, batch: Batch) -> Terms:
        """Cross-entropy of what the answer is taken from, since an answer has no gradient."""
        return {"task": cross_entropy(forward.aux[LOGITS], batch.label).mean()}


class Answer(nn.Module):
    """A classifier that sends its answer.

    Args:
        blocks: ``(x, key, *, train) -> Sent``.
        classes: K.

    Returns:
        ``Sent`` of (b, K), 1 at the answer and 0 elsewhere.

    Example:
        >>> import jax.numpy as jnp
        >>> module, x = Answer(SplitEdge(2, 3), 10), jnp.ones((2, 16, 16, 3))
        >>> (sent, _), _ = module.init_with_output(jax.random.key(0), x, train=False)
        >>> sent.shape, sent.sum().item()
        ((2, 10), 2.0)
    """

    blocks: nn.Module
    classes: int

    @nn.compact
    def __call__(self, x: Images, key: PRNGKey | None = None, *, train: bool) -> Sent:
        """Classifies images."""
        features: Array = self.blocks(x, key, train=train).z  # type: ignore[operator]
        logits = nn.Dense(self.classes, name="classifier")(features.reshape(x.shape[0], -1))
        return Sent(jax.nn.one_hot(logits.argmax(1), self.classes, dtype=logits.dtype), {LOGITS: logits})


class Told(nn.Module):
    """The provider's whole network: what the device said."""

    def __call__(self, z: Features, *, train: bool) -> Logits:
        """The answer, as logits."""
        del train
        return z
