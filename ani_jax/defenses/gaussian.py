"""``gaussian``: Gaussian noise of a fixed size, at the split or on the image; the provider is trained through it (METHODS 3).

    min over client, server of  CE(server(u + noise_stddev * eps), y),     eps ~ N(0, I) for every query

What a practitioner does first. Nobody is hidden from: the noise is as loud over what the task needs as over what it does not, and
a device that is asked k times sends the mean with a k-th of the variance. Two traps: features that may grow outrun noise of a
fixed size, so they are sent at unit variance; and a provider that is not trained through the noise loses what it need not.
"""

import dataclasses
from typing import ClassVar

from flax import linen as nn

from ani_jax.defenses.options import strength
from ani_jax.defenses.registry import register
from ani_jax.defenses.split import Split
from ani_jax.losses.checks import require
from ani_jax.modules.additive import NOISE_AT, Additive


@register
@dataclasses.dataclass(frozen=True)
class Gaussian(Split):
    """Fixed Gaussian noise.

    Attributes:
        noise_stddev: its deviation: at the split in units of each feature's own, on the image in units of its range.
        noise_at: "split", or "input": the noisy image itself is sent, and the device computes nothing.
    """

    noise_stddev: float = strength(2.0, 1)
    noise_at: str = "split"

    name: ClassVar[str] = "gaussian"
    provenance: ClassVar[str] = (
        "Gaussian noise of a fixed size, with a provider trained through it; a baseline of no one paper."
    )

    def __post_init__(self):
        super().__post_init__()
        require(0 < self.noise_stddev <= 100, "noise_stddev", self.noise_stddev, "in (0, 100]")
        require(self.noise_at in NOISE_AT, "noise_at", self.noise_at, f"one of {', '.join(NOISE_AT)}")

    @property
    def stochastic(self) -> bool:
        """It always sends noise."""
        return True

    @property
    def client(self) -> nn.Module:
        """The edge, or nothing, and the noise."""
        return Additive(
            None if self.noise_at == "input" else self.edge, self.noise_stddev, self.name, axis_name=self.axis_name
        )

    @property
    def server(self) -> nn.Module:
        """What the device leaves of the backbone."""
        return self.cloud(0 if self.noise_at == "input" else self.depth)
