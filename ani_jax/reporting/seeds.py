"""Several seeds of several clients: means, and differences from the undefended split of the same seed.

A seed decides the split, the training and the attackers, so a run and the reference of its seed are a pair, and the interval is
of the mean difference over seeds (Student's t). With a single seed there is none.
"""

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from scipy.stats import t as student

from ani_jax.records import AttackResult, Estimate, Evidence
from ani_jax.reporting.findings import score, strongest, targets
from ani_jax.reporting.text import aligned

Pair = tuple[Evidence, Evidence]
"""The undefended reference of a seed, and the run of that seed."""


@dataclasses.dataclass(frozen=True)
class Line:
    """One quantity of one variant.

    Attributes:
        variant: the client's name.
        quantity: what was measured.
        value: mean over seeds, with its interval.
        change: mean difference from the reference of the same seed; None where the reference has no such quantity.
        seeds: the values behind the mean, in order of seed.
    """

    variant: str
    quantity: str
    value: Estimate
    change: Estimate | None
    seeds: tuple[float, ...]


def lines(variants: Mapping[str, Sequence[Pair]]) -> tuple[Line, ...]:
    """Every quantity of every variant that all of its seeds measured.

    The attacker of a seed is the strongest of the families, each of which was chosen on ``validation``.

    Args:
        variants: name -> pairs, one a seed.

    Example:
        >>> def run(accuracy): return Evidence("x", "digits", 0, "quick", {}, {}, {"accuracy": Estimate(accuracy)}, ())
        >>> (line,) = lines({"ani": [(run(0.98), run(0.97)), (run(0.99), run(0.99))]})
        >>> line.quantity, round(line.value.value, 3), round(line.change.value, 3)
        ('accuracy', 0.98, -0.005)
    """
    return tuple(line for variant, pairs in variants.items() for line in _of(variant, pairs))


def _of(variant: str, pairs: Sequence[Pair]) -> Iterator[Line]:
    for quantity, read in _quantities([run for _, run in pairs]).items():
        values = [read(run) for _, run in pairs]
        before = [read(reference) for reference, _ in pairs]
        if any(value is None for value in values):
            continue
        known = [value for value in values if value is not None]
        changes = [value - old for value, old in zip(known, before, strict=True) if old is not None]
        change = mean(changes) if len(changes) == len(known) else None
        yield Line(variant, quantity, mean(known), change, tuple(known))


def _quantities(runs: Sequence[Evidence]) -> dict[str, Callable[[Evidence], float | None]]:
    found: dict[str, Callable[[Evidence], float | None]] = {"accuracy": _accuracy}
    for target in targets(runs):
        metrics = ("mse", "r2_class_mean") if target == "image" else ("balanced_accuracy", "leakage")
        often = sorted({r.queries for run in runs for r in run.attacks if r.target == target})
        for queries in often:
            suffix = "" if queries == 1 else f", {queries} releases"
            for metric in metrics:
                found[f"{target}: {metric.replace('_', ' ')}{suffix}"] = _Reader(target, metric, queries)
    return found


def _accuracy(run: Evidence) -> float | None:
    return run.utility["accuracy"].value if "accuracy" in run.utility else None


@dataclasses.dataclass(frozen=True)
class _Reader:
    """One metric of the strongest attack on one target; a deterministic client was asked once and always says the same."""

    target: str
    metric: str
    queries: int

    def __call__(self, run: Evidence) -> float | None:
        result: AttackResult | None = strongest(run, self.target, self.queries) or strongest(run, self.target)
        if self.metric == "leakage":
            return None if result is None else result.leakage.value
        return score(result, self.metric)


def mean(values: Sequence[float]) -> Estimate:
    """Mean over seeds with its 95% t interval; no interval of a single value.

    Example:
        >>> found = mean([1.0, 2.0, 3.0])
        >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
        (2.0, -0.484, 4.484)
    """
    count = len(values)
    centre = sum(values) / count
    if count < 2:
        return Estimate(centre, note="one seed")
    spread = math.sqrt(sum((value - centre) ** 2 for value in values) / (count - 1) / count)
    half = float(student.ppf(0.975, count - 1)) * spread
    return Estimate(centre, centre - half, centre + half)


def table(found: Sequence[Line]) -> str:
    """Aligned text, one line a quantity: mean, interval, change against the reference, number of seeds."""
    rows = [("variant", "quantity", "mean [95%]", "change [95%]", "seeds")]
    rows += [
        (line.variant, line.quantity, _text(line.value), _text(line.change), str(len(line.seeds))) for line in found
    ]
    return aligned(rows)


def as_csv(found: Sequence[Line]) -> str:
    """The same with every seed's value, for a spreadsheet."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("variant", "quantity", "mean", "low", "high", "change", "change_low", "change_high", "seeds"))
    for line in found:
        change = line.change or Estimate(None)
        numbers = (line.value.value, line.value.low, line.value.high, change.value, change.low, change.high)
        writer.writerow((line.variant, line.quantity, *numbers, " ".join(f"{value:.6g}" for value in line.seeds)))
    return out.getvalue()


def _text(value: Estimate | None) -> str:
    if value is None or value.value is None:
        return "–"
    interval = "" if value.low is None or value.high is None else f" [{value.low:.3f}, {value.high:.3f}]"
    return f"{value.value:.3f}{interval}"
