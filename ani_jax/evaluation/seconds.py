"""A number of seconds as a table of steps: fixed before an audit starts, the same on every machine.

What an audit finds must not depend on how busy a machine is, so seconds are not measured: they are divided by declared
costs, those of a client of 64 channels on 32x32 images on two cores. A faster machine ends earlier.
"""

import dataclasses
import math
from types import MappingProxyType
from typing import NamedTuple

from ani_jax.evaluation.budgets import BUDGETS, Budget


class Cost(NamedTuple):
    """Declared seconds of a budget: what closed forms and references take, and what grows with the steps."""

    fixed: float
    stepped: float


COSTS = MappingProxyType({"quick": Cost(25.0, 15.0), "standard": Cost(120.0, 460.0)})
"""By name of a budget, least first."""


def within(seconds: float) -> Budget:
    """The largest budget that is declared to fit, with as many more (or, under the least one, fewer) steps as fit.

    Args:
        seconds: above 0.

    Returns:
        The table; every number of steps is scaled alike and at least 1 where it was.

    Raises:
        ValueError: seconds that are not above 0 and finite.

    Example:
        >>> within(sum(COSTS["quick"])) == BUDGETS["quick"]
        True
        >>> within(1e4).residual_steps > BUDGETS["standard"].residual_steps
        True
    """
    if not (0 < seconds < math.inf):
        raise ValueError(f"budget={seconds}: seconds must be above 0 and finite")
    name = next((name for name in reversed(COSTS) if sum(COSTS[name]) <= seconds), next(iter(COSTS)))
    factor = (seconds - COSTS[name].fixed) / COSTS[name].stepped
    steps = {
        field.name: max(1, int(factor * getattr(BUDGETS[name], field.name)))
        for field in dataclasses.fields(Budget)
        if field.name.endswith("steps") and getattr(BUDGETS[name], field.name)
    }
    return dataclasses.replace(BUDGETS[name], **steps)
