"""Paired measurements: what is compared runs in turn within every round, so that a busy machine slows all of it alike."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

Name = TypeVar("Name")
Timer = Callable[[int], Sequence[float]]
"""Runs a unit of work that many times; the seconds that each took."""

LEAST = 0.2
"""Seconds that a variant runs for in one round, at least: shorter turns measure the scheduler."""
MOST = 200
"""Units that a variant runs in one round, at most."""


@dataclasses.dataclass(frozen=True)
class Spread:
    """A quantity over rounds: its median and its quartiles.

    Attributes:
        median: of the rounds.
        low: lower quartile.
        high: upper quartile.

    Example:
        >>> Spread.of([3.0, 1.0, 2.0])
        Spread(median=2.0, low=1.5, high=2.5)
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of one value a round."""
        # Quartiles need two values; one round's are its own.
        low, median, high = statistics.quantiles(
            values if len(values) > 1 else [*values, *values], n=4, method="inclusive"
        )
        return cls(median, low, high)


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """The spread of the ratio within each round.

    Args:
        over: a value a round.
        under: of the same rounds.

    Example:
        >>> ratio([2.0, 6.0], [1.0, 2.0]).median
        2.5
    """
    return Spread.of([a / b for a, b in zip(over, under, strict=True)])


def measure(
    variants: Mapping[Name, Timer],
    rounds: int,
    on_round: Callable[[int], None] = lambda done: None,
    least: float = LEAST,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Name, list[float]]:
    """Runs variants in turn, in an order that moves on by one every round, after a warm-up that is not counted.

    Args:
        variants: what to compare.
        rounds: at least 1.
        on_round: called with the number of finished rounds.
        least: seconds of each variant in a round.
        clock: tells the seconds.

    Returns:
        The median seconds of a unit, by variant and round.

    Raises:
        ValueError: ``rounds`` is below 1.

    Example:
        >>> measure({"a": lambda count: [1.0] * count, "b": lambda count: [2.0] * count}, rounds=2)
        {'a': [1.0, 1.0], 'b': [2.0, 2.0]}
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: must be at least 1")
    counts = {}
    for name, run in variants.items():
        # The first unit compiles, the next ones may still fill caches.
        run(1)
        started = clock()
        run(2)
        # Not what ``run`` says: that may be the seconds of a piece of a unit.
        counts[name] = max(1, min(MOST, math.ceil(least / max((clock() - started) / 2, 1e-9))))
    names, taken = list(variants), {name: [] for name in variants}
    for done in range(rounds):
        start = done % len(names)
        for name in (*names[start:], *names[:start]):
            taken[name].append(statistics.median(variants[name](counts[name])))
        on_round(done + 1)
    return taken


def repeat(unit: Callable[[], object], count: int, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """The seconds that each of ``count`` calls took; a call must not return before its work is done."""
    taken = []
    for _ in range(count):
        started = clock()
        unit()
        taken.append(clock() - started)
    return taken
