"""``max_entropy``: a split trained until an adversary that is told s is unsure of it (Roy and Boddeti 2019, arXiv 1904.05514).

    min over client, server of  (1 - a) * CE(server(z), y) - a * H(softmax A(z)),     A minimises CE(A(z), s)

[published] the objective. It knows s, which the label-free defences do not: the reference for attribute privacy, against one
adversary. Against others it is worth what that adversary hears (METHODS 2.2).
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from ani_jax.defenses.base import Forward, Terms
from ani_jax.defenses.mixins import Contested
from ani_jax.defenses.registry import register
from ani_jax.defenses.split import Split
from ani_jax.losses import adversarial
from ani_jax.types import Batch


@register
@dataclasses.dataclass(frozen=True)
class MaxEntropy(Split, Contested):
    """A split against one adversary for each attribute that it is told of; ``attribute`` weighs their mean entropy."""

    name: ClassVar[str] = "max_entropy"
    provenance: ClassVar[str] = (
        "Maximum entropy adversarial representation learning (Roy and Boddeti 2019, arXiv 1904.05514). The objective is "
        "published; networks, standardised features and weight are this project's."
    )

    def client_loss(self, forward: Forward, batch: Batch) -> Terms:
        """Cross-entropy, and what is maximised: the adversaries' mean entropy."""
        unsure = [adversarial.max_entropy(guess).mean() for guess in forward.adversaries.values()]
        return super().client_loss(forward, batch) | ({"attribute": jnp.stack(unsure).mean()} if unsure else {})
