"""``max_entropy``: a split trained until an adversary that is told s is unsure of it (Roy and Boddeti 2019, arXiv 1904.05514).

    min over client, server of  (1 - a) * CE(server(z), y) - a * H(softmax A(z)),     A minimises CE(A(z), s)

[published] the objective. It knows s, which the label-free defences do not: the reference for attribute privacy, against one
adversary. Against others it is worth what that adversary hears (METHODS 2.2).
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from ani_jax.defenses.base import Adversary, Forward, Terms
from ani_jax.defenses.mixins import Hiding
from ani_jax.defenses.options import Convex, weight
from ani_jax.defenses.registry import register
from ani_jax.defenses.split import Split
from ani_jax.losses import adversarial
from ani_jax.losses.checks import require
from ani_jax.types import Batch


@register
@dataclasses.dataclass(frozen=True)
class MaxEntropy(Split, Hiding):
    """A split against one adversary for each attribute that it is told of.

    Attributes:
        adversary_width: channels of the adversaries.
        adversary_rate: their step size.
        attribute: a, weight of the adversaries' mean entropy; the task keeps what it leaves of 1.
    """

    adversary_width: int = 64
    adversary_rate: float = 1e-3
    attribute: float = weight(0.5, private=True)

    name: ClassVar[str] = "max_entropy"
    provenance: ClassVar[str] = (
        "Maximum entropy adversarial representation learning (Roy and Boddeti 2019, arXiv 1904.05514). The objective is "
        "published; networks, standardised features and weight are this project's."
    )

    def __post_init__(self):
        super().__post_init__()
        require(self.adversary_width >= 1, "adversary_width", self.adversary_width, "at least 1")
        require(0 < self.adversary_rate < 1, "adversary_rate", self.adversary_rate, "in (0, 1)")

    @property
    def hides(self) -> bool:
        """Whether an attribute is hidden; none is at weight 0."""
        return bool(self.attribute)

    @property
    def weights(self) -> Convex:
        """a: the task keeps what it leaves of 1."""
        return Convex.of(self)

    @property
    def adversaries(self) -> tuple[Adversary, ...]:
        """One for each hidden attribute, of its name."""
        return self.eavesdroppers(self.adversary_width, self.adversary_rate)

    def client_loss(self, forward: Forward, batch: Batch) -> Terms:
        """Cross-entropy, and what is maximised: the adversaries' mean entropy."""
        unsure = [adversarial.max_entropy(guess).mean() for guess in forward.adversaries.values()]
        return super().client_loss(forward, batch) | ({"attribute": jnp.stack(unsure).mean()} if unsure else {})
