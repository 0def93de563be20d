"""Evidence as one tidy frame, a row for every number that was measured: what every report selects from."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas

from ani_jax.records import Estimate, Evidence

BLANK: dict[str, Any] = (
    {"run": 0, "subject": "", "dataset": "", "seed": 0, "level": "", "part": ""}
    | {"target": "", "attack": "", "queries": 0, "chosen": "", "status": "ok"}
    | {"strength": "", "higher": False, "leaks": ""}
    | {"metric": "", "value": math.nan, "low": math.nan, "high": math.nan, "stddev": math.nan, "size": 0, "note": ""}
)
"""Columns, and what stands in those that do not concern a number."""
Frame = Any
"""A ``pandas.DataFrame`` or a part of one: its columns are unknown to a type checker."""
Column = tuple[str, str, int]
"""What :func:`wide` has in a column: target, metric and number of releases; part, metric and 0 where nothing was attacked."""
CRITERION = {
    "information": "I(x; z + noise)",
    "volume_ratio": "effective volume",
    "mean_abs": "mean |z|",
    "entropy_gaussian": "Gaussian entropy",
    "entropy_knn": "neighbours' entropy",
    "tangent": "tangent, R²",
    "tangent_bound": "mean information, R²",
    "tangent_nats": "tangent, nats",
    "ceiling": "Gaussian ceiling, nats",
    "ceiling_told": "Gaussian ceiling, label known",
    "ridge": "fitted line, -MSE",
    "kernel": "fitted kernel, -MSE",
}
"""Numbers of the criterion by their ``metric``, as a reader calls them; R² over the class mean. What is fitted is an attack."""
LEAKAGE = "leakage"
"""Metric of ``AttackResult.leakage``."""
ATTACK = ["run", "target", "queries", "attack"]
"""Columns that tell attacks apart."""


def frame(evidences: Iterable[Evidence]) -> Frame:
    """One row a number.

    ``run`` counts the evidences. ``part`` is "utility", "attack" (its scores and its leakage), "reference" (what these are
    read against), "slice" (its strength on ``size`` test images, ``metric`` being "BY: NAME"),
    "criterion", "self-test" (``metric`` is the known truth), "control" (points over chance that were found of what
    was planted), "planted" (that can be found) or "cost". ``value`` is NaN where there is none,
    ``low`` and ``high`` where there is no interval, and ``note`` says why. ``status`` is "ok", or what failed. ``strength``,
    ``higher`` and ``leaks`` are what the words of the target say. ``strongest`` holds for the successful attack that found most
    among those on its target that saw as many releases; it is chosen on test scores, so it is an upper envelope.

    Args:
        evidences: audits, in the order of a report.

    Raises:
        KeyError: an evidence has no words for the target of one of its attacks.

    Example:
        >>> found = frame([Evidence("none", "digits", 0, "standard", {}, {}, {"accuracy": Estimate(0.97, 0.96, 0.98)}, ())])
        >>> found[["part", "metric", "value", "low", "high"]].to_csv(index=False).split()
        ['part,metric,value,low,high', 'utility,accuracy,0.97,0.96,0.98']
    """
    rows = [
        {**BLANK, "run": run, "part": part, "metric": metric, **dataclasses.asdict(value), **more}
        | {name: getattr(evidence, name) for name in ("subject", "dataset", "seed", "level")}
        for run, evidence in enumerate(evidences)
        for part, metric, value, more in _numbers(evidence)
    ]
    found: Frame = pandas.DataFrame(rows, columns=[*BLANK]).astype({name: type(blank) for name, blank in BLANK.items()})
    scores = found[(found.part == "attack") & (found.metric == found.strength) & (found.status == "ok")].dropna(
        subset="value"
    )
    order = scores.value.where(scores.higher, -scores.value).sort_values(ascending=False, kind="stable").index
    best = scores.loc[order].drop_duplicates(["run", "target", "queries"])
    chosen = pandas.MultiIndex.from_frame(best[ATTACK])
    return found.assign(strongest=pandas.MultiIndex.from_frame(found[ATTACK]).isin(chosen))


def _numbers(evidence: Evidence) -> Iterator[tuple[str, str, Estimate, dict[str, Any]]]:
    """Every number with its part, its name, and the columns that it has beyond these."""
    for name, value in evidence.utility.items():
        yield "utility", name, value, {}
    for name, value in dataclasses.asdict(evidence.cost).items() if evidence.cost else ():
        yield "cost", name, Estimate(value), {}
    for result in evidence.attacks:
        words = evidence.words(result.target)
        more = {name: getattr(result, name) for name in ("target", "attack", "queries", "chosen", "status")}
        more |= {"strength": words.strength, "higher": words.higher, "leaks": words.leakage or LEAKAGE}
        for name, value in [*result.scores.items(), (LEAKAGE, result.leakage)]:
            yield "attack", name, value, more
        for name, value in result.references.items():
            yield "reference", name, Estimate(value), more
        for part in result.slices:
            yield "slice", f"{part.by}: {part.name}", part.score, {**more, "size": part.size}
    for control in evidence.controls:
        missing = "" if control.found is not None else "no attacker ran through"
        yield "control", control.name, Estimate(control.found, note=missing), {"chosen": control.attacker}
        unknown = "" if control.known is not None else "nobody knows"
        yield "planted", control.name, Estimate(control.known, note=unknown), {}
    if (criterion := evidence.criterion) is not None:
        told = criterion.information
        note = "; ".join(filter(None, (told.reason, *told.caveats, *criterion.caveats)))
        yield "criterion", "information", Estimate(told.value, note=note), {"stddev": told.stddev}
        for name in ("mean_abs", "entropy_gaussian", "entropy_knn", "volume", "volume_ratio"):
            yield "criterion", name, Estimate(getattr(criterion, name)), {}
        for name, value in criterion.quantities.items():
            yield "criterion", name, value, {}
        inputs = [one for one in evidence.attacks if evidence.words(one.target).is_input and one.queries == 1]
        # The decoders' own come first; whoever attacks by another client has attackers of the same names.
        fitted = {
            one.name: one.test for result in reversed(inputs) for one in result.attackers if one.name in CRITERION
        }
        for name, value in fitted.items():
            yield "criterion", name, Estimate(value, note="an attack's own score"), {}
        for test in told.self_tests:
            more = {"stddev": test.stddev, "status": "ok" if test.passed else "failed"}
            yield "self-test", f"{test.truth:g}", Estimate(test.value, note=test.note), more


def select(found: Frame, **columns: Any) -> Frame:
    """The rows whose columns have these values."""
    return found[(found[[*columns]] == pandas.Series(columns)).all(axis=1)]


def read(found: Frame, **columns: Any) -> dict[int, Estimate]:
    """Run -> its number, of the rows whose columns have these values; the note of one that was not measured says why.

    Example:
        >>> runs = [Evidence(name, "digits", 0, "standard", {}, {}, {"accuracy": Estimate(0.97)}, ()) for name in "ab"]
        >>> read(frame(runs), metric="accuracy", subject="b")
        {1: Estimate(value=0.97, low=None, high=None, note='')}
    """
    own = select(found, **columns).drop_duplicates("run").set_index("run")[["value", "low", "high", "note"]]
    return {row.Index: Estimate(*row[1:]) for row in own.astype(object).where(own.notna(), None).itertuples()}


def wide(found: Frame, columns: Sequence[Column], runs: int) -> Frame:
    """A row a run, NaN where it has no such number.

    Args:
        found: the frame.
        columns: of targets, numbers of the strongest attack.
        runs: how many there are.
    """
    own = found[found.part.isin(("utility", "criterion", "cost")) | found.strongest & (found.part == "attack")]
    own = own.assign(target=own.target.where(own.part == "attack", own.part))
    values = own.pivot(index="run", columns=["target", "metric", "queries"], values="value").reindex(index=range(runs))
    often, once = (
        values.reindex(columns=pandas.MultiIndex.from_tuples(asked))
        for asked in (columns, [(*what, min(queries, 1)) for *what, queries in columns])
    )
    # A deterministic client was asked once and always says the same.
    return often.fillna(once.set_axis(often.columns, axis=1))
