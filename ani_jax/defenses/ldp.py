"""``ldp``: local differential privacy: features clipped to a norm, and the Gaussian noise that its proof asks for (METHODS 3).

    z = f(x) / max(1, |f(x)|) + stddev * eps

Whatever two images are exchanged, the mean moves by 2 at most (replacement), so that one query is (epsilon, delta)-differentially
private with the deviation of the analytic Gaussian mechanism (Balle and Wang 2018, arXiv 1805.06530) [published], which Google's
dp-accounting computes. The one defence here with a proved number. It holds for all inputs and all attackers, and so costs what
that costs: of K equally frequent classes no server is right more often than :func:`accuracy_cap`.
"""

import dataclasses
import functools
import importlib.util
import math
from typing import ClassVar

from flax import linen as nn

from ani_jax.defenses.mixins import Proved
from ani_jax.defenses.options import strength
from ani_jax.defenses.registry import register
from ani_jax.defenses.split import Split
from ani_jax.losses.checks import require
from ani_jax.modules.additive import Additive

SENSITIVITY = 2.0
"""How far apart two points of the unit ball are at most."""
QUERIES = 64
"""How many queries of one image the composed epsilon is told for."""


@register
@dataclasses.dataclass(frozen=True)
class LocalDP(Proved, Split):
    """Clipped features with calibrated noise.

    Attributes:
        epsilon: of one query, above 0.
        delta: of one query.
    """

    epsilon: float = strength(32.0, -1)
    delta: float = 1e-5

    name: ClassVar[str] = "ldp"
    provenance: ClassVar[str] = (
        "The Gaussian mechanism on features of bounded norm, calibrated as Balle and Wang (2018, arXiv 1805.06530) publish it, "
        "by Google's dp-accounting."
    )

    def __post_init__(self):
        super().__post_init__()
        require(0 < self.epsilon <= 1000, "epsilon", self.epsilon, "in (0, 1000]")
        require(0 < self.delta < 1, "delta", self.delta, "in (0, 1)")
        package = "dp_accounting"
        require(
            importlib.util.find_spec(package) is not None,
            "defense",
            self.name,
            f"with {package}: pip install 'ani-jax[dp]'",
        )

    @property
    def stochastic(self) -> bool:
        """It always sends noise."""
        return True

    @property
    def stddev(self) -> float:
        """Of the noise."""
        return SENSITIVITY * gaussian("get_sigma_gaussian", self.epsilon, self.delta)

    @property
    def client(self) -> nn.Module:
        """The edge, within the unit ball, and the noise."""
        return Additive(self.edge, self.stddev, bounded=True, axis_name=self.axis_name)

    @property
    def proved(self) -> tuple[str, ...]:
        """Of one query, of many, and what it costs."""
        # k Gaussian queries are one of deviation stddev / sqrt(k).
        often = gaussian("get_epsilon_gaussian", self.stddev / SENSITIVITY / math.sqrt(QUERIES), self.delta)
        cap = accuracy_cap(self.epsilon, self.delta, self.classes)
        return (
            f"one query is ({self.epsilon:g}, {self.delta:g})-differentially private for any two images, {QUERIES} queries of "
            f"one image ({often:.4g}, {self.delta:g}); no server is right about more than {cap:.1%} of {self.classes} equally "
            "frequent classes",
        )


@functools.cache
def gaussian(name: str, *arguments: float) -> float:
    """A function of the accounting library, which takes seconds to import."""
    import dp_accounting

    return float(getattr(dp_accounting, name)(*arguments))


def accuracy_cap(epsilon: float, delta: float, classes: int) -> float:
    """Largest share of right answers about equally frequent classes that (epsilon, delta)-private releases allow.

        accuracy <= (e^epsilon + (K - 1) delta) / (e^epsilon + K - 1)

    since, with S_k the releases that are answered by k, P(S_k | x_k) <= e^epsilon P(S_k | x_i) + delta for every other class i;
    summed over k and averaged over i. At delta 0 randomised response attains it. [ours]

    Args:
        epsilon: above 0.
        delta: 0 or more.
        classes: K, at least 2.

    Returns:
        A share, at most 1.

    Example:
        >>> round(accuracy_cap(math.log(3), 0.0, 2), 4)
        0.75
    """
    # e^-epsilon, which cannot overflow.
    small = math.exp(-epsilon)
    return min(1.0, (1 + (classes - 1) * delta * small) / (1 + (classes - 1) * small))
