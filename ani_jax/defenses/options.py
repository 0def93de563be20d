"""Options of a defence: how one is refused, and those of them that are loss weights.

Architecture is code and weights are data: a field marked by :func:`weight` takes no part in equality, so one compiled step serves
every weight. The values travel in ``state.weights``; what they come to, :class:`Weights` says.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

import jax.numpy as jnp
from jaxtyping import Array

from ani_jax.losses.checks import require
from ani_jax.modules.edge import BACKBONES, divisor

REPEATS = ("fresh", "memoised")
"""What noise a device sends when it is asked about an image again: other noise, or the same (``modules/pseudorandom.py``)."""


def weight(default: float, *, private: bool = False) -> Any:
    """A dataclass field for a loss weight: traced data, not architecture, so equality and hash leave it out.

    Args:
        default: its value.
        private: whether it protects, so that a utility budget and a frontier scale it.
    """
    return dataclasses.field(default=default, compare=False, metadata={"weight": True, "private": private})


def strength(default: Any, power: int) -> Any:
    """A dataclass field that is architecture, and by which a defence without privacy weights is made stronger.

    Args:
        default: its value.
        power: of the protection that is asked for: what protects m times as much has m**power times the value.
    """
    return dataclasses.field(default=default, metadata={"strength": power})


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weights of a defence, each the factor of the term of its name. A term without a weight counts once.

    Attributes:
        values: by name, 0 or more.
        privacy: names of those that protect.

    Raises:
        ValueError: a value is out of range.
    """

    values: Mapping[str, float]
    privacy: tuple[str, ...] = ()

    def __post_init__(self):
        for name, value in self.values.items():
            require(math.isfinite(value) and value >= 0, name, value, "a finite number, 0 or more")

    @classmethod
    def of(cls, options: Any) -> Self:
        """The weights among the fields of a dataclass.

        Example:
            >>> from ani_jax.defenses.ani import Ani
            >>> Weights.of(Ani(entropy=2.0))
            Weights(values={'entropy': 2.0, 'excess': 0.0}, privacy=('entropy', 'excess'))
        """
        marked = [field for field in dataclasses.fields(options) if "weight" in field.metadata]
        values = {field.name: getattr(options, field.name) for field in marked}
        return cls(values, tuple(field.name for field in marked if field.metadata["private"]))

    @property
    def active(self) -> tuple[str, ...]:
        """Names of those that are not 0: 0 * NaN is NaN, so a term that is off must not be computed."""
        return tuple(name for name, value in self.values.items() if value)

    def arrays(self) -> dict[str, Array]:
        """The values as they travel in ``state.weights``."""
        return {name: jnp.float32(value) for name, value in self.values.items()}

    def factors(self, traced: Mapping[str, Array]) -> Mapping[str, Array]:
        """Term name -> factor.

        Args:
            traced: the values at this step, by name.
        """
        return traced

    def scaled(self, traced: Mapping[str, Array], multiplier: Array) -> dict[str, Array]:
        """The values with those that protect multiplied.

        Args:
            traced: see :meth:`factors`.
            multiplier: above 0.
        """
        return {name: value * multiplier if name in self.privacy else value for name, value in traced.items()}


@dataclasses.dataclass(frozen=True)
class Convex(Weights):
    """Weights of terms that are *maximised*; the task keeps what they leave of 1. All of them protect.

        L = (1 - sum a_j) * task - sum a_j * term_j

    Example:
        >>> weights = Convex({"attribute": 0.5}, ("attribute",))
        >>> {name: float(value) for name, value in weights.scaled(weights.arrays(), jnp.float32(3)).items()}
        {'attribute': 0.75}
    """

    def __post_init__(self):
        super().__post_init__()
        total = sum(self.values.values())
        require(total < 1, " + ".join(self.values), total, "below 1, the rest being the task's weight")

    def factors(self, traced: Mapping[str, Array]) -> Mapping[str, Array]:
        """What the task keeps, and minus each weight."""
        return {"task": 1 - jnp.stack(list(traced.values())).sum(), **{name: -a for name, a in traced.items()}}

    def scaled(self, traced: Mapping[str, Array], multiplier: Array) -> dict[str, Array]:
        """Multiplies the odds: with l_j = a_j / (1 - sum a), a_j' = m * l_j / (1 + m * sum l), so the sum stays below 1."""
        total = jnp.stack([traced[name] for name in self.privacy]).sum()
        odds = {name: multiplier * traced[name] / (1 - total) for name in self.privacy}
        return {name: value / (1 + jnp.stack(list(odds.values())).sum()) for name, value in odds.items()}


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
