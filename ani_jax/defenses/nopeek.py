"""``nopeek``: NoPeek (Vepakomma et al. 2020, arXiv 2008.09161), a split that is decorrelated from the image (METHODS 3).

    min over client, server of  CE(server(z), y) + distance_correlation * dCor(x, z)

[published] the objective. The statistic of a batch is biased: of 128 independent images and features of a thousand dimensions it
is 0.98, so its gradient tells of a dependence that is hardly there, and a small value of it is no proof of privacy.
"""

import dataclasses
from typing import ClassVar

from ani_jax.defenses.base import Forward, Terms
from ani_jax.defenses.options import weight
from ani_jax.defenses.registry import register
from ani_jax.defenses.split import Split
from ani_jax.losses import dependence
from ani_jax.types import Batch


@register
@dataclasses.dataclass(frozen=True)
class NoPeek(Split):
    """A split whose features depend less on the image.

    Attributes:
        distance_correlation: weight of the distance correlation between images and features.
    """

    distance_correlation: float = weight(5.0, private=True)

    name: ClassVar[str] = "nopeek"
    provenance: ClassVar[str] = (
        "NoPeek (Vepakomma et al. 2020, arXiv 2008.09161). The objective is published; networks and weight are this project's."
    )

    def client_loss(self, forward: Forward, batch: Batch) -> Terms:
        """Cross-entropy, and dCor (not squared, biased) of the batch."""
        told = dependence.distance_correlation(batch.image, forward.z, axis_name=self.axis_name)
        return super().client_loss(forward, batch) | {"distance_correlation": told}
