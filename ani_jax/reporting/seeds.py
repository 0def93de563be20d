"""Several seeds of several clients: means, and differences from the undefended split of the same seed.

A seed decides the split, the training and the attackers, so a run and the reference of its seed are a pair, and the interval is
of the mean difference over seeds (Student's t). With a single seed there is none.
"""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence

from scipy.stats import sem
from scipy.stats import t as student

from ani_jax.records import Estimate, Evidence
from ani_jax.reporting.findings import accuracy, score, strongest, targets
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
    found = []
    for variant, pairs in variants.items():
        runs = [run for _, run in pairs]
        quantities = {"accuracy": ("", "accuracy", 1)}
        for words in targets(runs):
            for queries in sorted({r.queries for run in runs for r in run.attacks if r.target == words.name}):
                suffix = "" if queries == 1 else f", {queries} releases"
                for metric in words.summary:
                    quantities[f"{words.name}: {metric.replace('_', ' ')}{suffix}"] = (words.name, metric, queries)
        for quantity, what in quantities.items():
            values = [value for run in runs if (value := _read(run, *what)) is not None]
            before = [value for reference, _ in pairs if (value := _read(reference, *what)) is not None]
            # A mean over some of the seeds would stand beside means over all of them.
            if len(values) < len(pairs):
                continue
            paired = len(before) == len(pairs)
            # Within seeds: these may differ by more than clients do, which cancels here.
            change = mean([new - old for new, old in zip(values, before, strict=True)]) if paired else None
            found.append(Line(variant, quantity, mean(values), change, tuple(values)))
    return tuple(found)


def _read(run: Evidence, target: str, metric: str, queries: int) -> float | None:
    """One metric of the strongest attack on a target, the accuracy where there is none."""
    if not target:
        return accuracy(run)
    # A deterministic client was asked once and always says the same.
    return score(strongest(run, target, queries) or strongest(run, target), metric)


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
    half = float(student.ppf(0.975, count - 1) * sem(values))
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
