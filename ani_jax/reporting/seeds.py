"""Several seeds of several clients: means, and differences from the undefended split of the same seed.

A seed decides the split, the training and the attackers, so a run and the reference of its seed are a pair, and the interval is
of the mean difference over seeds (Student's t). With a single seed there is none.
"""

from collections.abc import Mapping, Sequence

import pandas
from scipy.stats import t as student

from ani_jax.records import Evidence
from ani_jax.reporting.findings import targets
from ani_jax.reporting.frame import Column, Frame, frame, select, wide
from ani_jax.reporting.text import aligned

Pair = tuple[Evidence, Evidence]
"""The undefended reference of a seed, and the run of that seed."""


def lines(variants: Mapping[str, Sequence[Pair]]) -> Frame:
    """Every quantity of every variant that all of its seeds measured.

    The attacker of a seed is the strongest of the families, each of which was chosen on ``validation``.

    Args:
        variants: name -> pairs, one a seed.

    Returns:
        A row for each, with its ``mean`` over seeds, ``change`` (mean difference from the reference of the same seed, NaN where
        that has no such quantity), ``low``, ``high``, ``change_low`` and ``change_high`` of their intervals, and the ``seeds``.

    Example:
        >>> from ani_jax.records import Estimate
        >>> def run(accuracy): return Evidence("x", "digits", 0, "standard", {}, {}, {"accuracy": Estimate(accuracy)}, ())
        >>> found = lines({"ani": [(run(0.98), run(0.97)), (run(0.99), run(0.99))]})
        >>> found[["quantity", "mean", "change"]].round(3).to_csv(index=False).split()
        ['quantity,mean,change', 'accuracy,0.98,-0.005']
    """
    found = []
    for variant, pairs in variants.items():
        before, runs = (frame(side) for side in zip(*pairs, strict=True))
        quantities: dict[str, Column] = {"accuracy": ("utility", "accuracy", 0)}
        for words in targets([run for _, run in pairs]):
            for queries in sorted(select(runs, target=words.name).queries.unique()):
                suffix = "" if queries == 1 else f", {queries} releases"
                for metric in words.summary:
                    quantities[f"{words.name}: {metric.replace('_', ' ')}{suffix}"] = (words.name, metric, queries)
        values, start = (
            wide(side, [*quantities.values()], len(pairs)).set_axis([*quantities], axis=1) for side in (runs, before)
        )
        # Within seeds: these may differ by more than clients do, which cancels here.
        both = pandas.DataFrame({"mean": values.stack(), "change": (values - start).stack()})
        found.append(both.rename_axis(["seed", "quantity"]).assign(variant=variant))
    groups = pandas.concat(found).groupby(["variant", "quantity"], sort=False)
    seeds = groups["mean"].agg(seeds=lambda own: " ".join(f"{value:.6g}" for value in own))
    # A mean over some of the seeds would stand beside means over all of them.
    lines = mean(groups["mean"]).join([mean(groups["change"]), seeds]).dropna(subset="mean").reset_index()
    return lines.rename(columns={"mean_low": "low", "mean_high": "high"})


def mean(groups: Frame) -> Frame:
    """Mean of every group of seeds with its 95% t interval: NaN where a seed lacks it, no interval of a single seed.

    Args:
        groups: of a series, which names the columns.

    Example:
        >>> values = pandas.Series([1.0, 2.0, 3.0], name="x")
        >>> mean(values.groupby(["a", "a", "a"])).round(3).to_csv().split()
        [',x,x_low,x_high', 'a,2.0,-0.484,4.484']
    """
    centre, name = groups.mean(skipna=False), groups.obj.name
    half = student.ppf(0.975, groups.size() - 1) * groups.sem(skipna=False)
    return pandas.DataFrame({name: centre, f"{name}_low": centre - half, f"{name}_high": centre + half})


def table(found: Frame) -> str:
    """Aligned text, one line a quantity: mean, interval, change against the reference, number of seeds."""
    rows = [("variant", "quantity", "mean [95%]", "change [95%]", "seeds")]
    for line in found.itertuples():
        value, change = _text(line.mean, line.low, line.high), _text(line.change, line.change_low, line.change_high)
        rows.append((line.variant, line.quantity, value, change, str(len(line.seeds.split()))))
    return aligned(rows)


def _text(value: float, low: float, high: float) -> str:
    interval = "" if pandas.isna(low) else f" [{low:.3f}, {high:.3f}]"
    return "–" if pandas.isna(value) else f"{value:.3f}{interval}"
