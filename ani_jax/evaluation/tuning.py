"""Learning rate and width of network attackers: short trials on a small grid, the best of them trained to the end.

Every trial is a member of its attack like any other, so the record shows what was tried and how it did.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from ani_jax.attacks import attribute, decoder
from ani_jax.attacks.base import Fitted, Member, OnEvent, View
from ani_jax.types import PRNGKey

GRID = ((1.0, 1.0), (3.0, 1.0), (1.0, 0.5), (3.0, 0.5))
"""Factors of the usual learning rate and of the usual width; the usual ones come first and win ties."""

Net = attribute.Net | decoder.Net


def tuned(target: str, nets: Sequence[Net], steps: int, before: int) -> tuple[Member, ...]:
    """The trials of every cell of the grid, then each network in its best form.

    Args:
        target: what is attacked, "image" or an attribute.
        nets: networks that differ in nothing but their seed; the first one tries the cells.
        steps: of each trial; 0 leaves the networks as they are.
        before: how many members of the attack come before these.

    Example:
        >>> members = tuned("ink", [attribute.Net("ink", 4, 400)], 50, 1)
        >>> [(member.name, member.steps) for member in members][1:3], members[-1].name, members[-1].steps
        ([('network-0, rate x3, width x1', 50), ('network-0, rate x1, width x0.5', 50)], 'network-0', 400)
    """
    if not steps or not nets:
        return tuple(nets)
    trials = [Trial(dataclasses.replace(_cell(nets[0], *cell), steps=steps), _named(nets[0], *cell)) for cell in GRID]
    finals = [Tuned(target, before, tuple(_cell(net, *cell) for cell in GRID)) for net in nets]
    return (*trials, *finals)


@dataclasses.dataclass(frozen=True)
class Trial:
    """A network under the name of its cell.

    Attributes:
        net: the network.
        name: of the member.
    """

    net: Net
    name: str

    @property
    def steps(self) -> int:
        """The network's."""
        return self.net.steps

    def fit(self, key: PRNGKey, view: View, on_event: OnEvent | None = None, earlier: Sequence[Fitted] = ()) -> Fitted:
        """Trains the network."""
        return self.net.fit(key, view, on_event, earlier)


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A network in the form whose trial had the lowest loss on ``validation``.

    Attributes:
        target: "image" or an attribute.
        first: place of the first trial among the attack's members.
        cells: the network in every form, in the order of the trials.
    """

    target: str
    first: int
    cells: tuple[Net, ...]

    @property
    def name(self) -> str:
        """The network's."""
        return self.cells[0].name

    @property
    def steps(self) -> int:
        """The network's."""
        return self.cells[0].steps

    def fit(self, key: PRNGKey, view: View, on_event: OnEvent | None = None, earlier: Sequence[Fitted] = ()) -> Fitted:
        """Trains the best form; where every trial failed, the usual one."""
        trials = earlier[self.first : self.first + len(self.cells)]
        losses = [_loss(self.target, fitted, key, view) for fitted in trials] or [math.inf]
        return self.cells[int(np.argmin(losses))].fit(key, view, on_event, earlier)


def _loss(target: str, fitted: Fitted, key: PRNGKey, view: View) -> float:
    """What networks of this target are selected by, infinite for one that failed."""
    if fitted.attacker is None or fitted.failed is not None:
        return math.inf
    guess = fitted.attacker(key, view.held)
    if target == "image":
        value = decoder.image_mse(guess, view.validation).mean()
    else:
        place = sorted(view.validation.sensitive).index(target)
        value = attribute.cross_entropy(guess, view.validation, jnp.asarray(place)).mean()
    return float(value) if math.isfinite(float(value)) else math.inf


def _cell(net: Net, rate: float, width: float) -> Net:
    faster = dataclasses.replace(net, learning_rate=rate * net.learning_rate)
    if isinstance(faster, attribute.Net):
        return dataclasses.replace(faster, width=max(1, int(width * faster.width)))
    return dataclasses.replace(faster, module=faster.module.clone(width=max(1, int(width * faster.module.width))))  # type: ignore[attr-defined]


def _named(net: Net, rate: float, width: float) -> str:
    return f"{net.name}, rate x{rate:g}, width x{width:g}"
