"""``laplace``: as ``gaussian``, with Laplace noise, whose tails are heavier (METHODS 3).

Local differential privacy is often claimed of it; of unbounded features it has no sensitivity, and so no epsilon: see ``ldp``.
"""

import dataclasses
from typing import ClassVar

from ani_jax.defenses.gaussian import Gaussian
from ani_jax.defenses.registry import register


@register
@dataclasses.dataclass(frozen=True)
class Laplace(Gaussian):
    """Fixed Laplace noise; ``noise_stddev`` is its deviation, sqrt(2) times its scale."""

    name: ClassVar[str] = "laplace"
    provenance: ClassVar[str] = (
        "Laplace noise of a fixed size, with a provider trained through it; a baseline of no one paper."
    )
