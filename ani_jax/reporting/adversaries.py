"""What a training log says of co-trained adversaries: whether they learnt at all, and how far retrained attackers go beyond.

A log entry holds "adversary/NAME" (its own loss) and, beside it, "adversary/NAME/accuracy" and "adversary/NAME/majority" for
an attribute (NAME is ATTRIBUTE-LISTENER), or "adversary/NAME/blind", the loss of the mean image.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ani_jax.records import Evidence
from ani_jax.reporting.findings import percent, small
from ani_jax.reporting.frame import frame, select

WINDOW = 5
"""Logged steps that are averaged: one batch is too few to tell chance from a little more."""
ERRORS = 3
"""How many standard errors above the majority class count as having learnt."""

Log = Sequence[Mapping[str, Any]]


def silent(log: Log, batch_size: int) -> tuple[str, ...]:
    """Warnings about adversaries that sat at or below chance from the first step on: they never learnt to listen.

    A defence that wins brings its adversaries down to chance, but only after they were above it. One that never was, in no
    ``WINDOW`` consecutive entries by ``ERRORS`` standard errors, is a fault (no gradient, a rate too small, blind features)
    or a client that had nothing to say to begin with; either way its term taught the client nothing.

    Args:
        log: entries of ``metrics.jsonl``, oldest first.
        batch_size: examples that one entry's accuracy is an average of.

    Returns:
        One sentence an adversary, none where all learnt or there are none.

    Example:
        >>> entry = {"adversary/ink-mlp": 1.4, "adversary/ink-mlp/accuracy": 0.2, "adversary/ink-mlp/majority": 0.25}
        >>> silent([entry] * 9, 64)
        ('adversary ink-mlp was never clearly better than the majority class (best 20.0% against 25.0%): it may not have learnt',)
    """
    found = []
    for name in _names(log):
        accuracies, majorities = _series(log, f"{name}/accuracy"), _series(log, f"{name}/majority")
        losses, blind = _series(log, name), _series(log, f"{name}/blind")
        if majorities:
            best, majority = max(_means(accuracies)), majorities[-1]
            # Of a mean over WINDOW batches; a shorter log averages fewer.
            error = math.sqrt(majority * (1 - majority) / (batch_size * min(WINDOW, len(accuracies))))
            if best <= majority + ERRORS * error:
                found.append(_warning(name, "majority class", percent(best), percent(majority)))
        elif blind and (best := min(_means(losses))) >= blind[-1]:
            found.append(_warning(name, "mean image", small(best), small(blind[-1])))
    return tuple(found)


def gaps(log: Log, evidence: Evidence) -> tuple[str, ...]:
    """How far retrained attackers go beyond the co-trained adversaries: what an evaluation by the latter would have hidden.

    Args:
        log: as for :func:`silent`.
        evidence: the audit of the same run.

    Returns:
        One sentence an attribute that had adversaries; their accuracy is the best listener's over the last ``WINDOW`` entries.
    """
    trained: dict[str, float] = {}
    for name in _names(log):
        if accuracies := _series(log, f"{name}/accuracy"):
            # From the right: the name of an attribute may hold a dash.
            attribute = name.rpartition("-")[0]
            trained[attribute] = max(trained.get(attribute, 0.0), fmean(accuracies[-WINDOW:]))
    best = select(frame([evidence]), part="attack", strongest=True, queries=1)
    fresh = best[best.metric == best.strength].set_index("target").value
    return tuple(
        f"{attribute}: the co-trained adversaries ended at {percent(own)}, retrained attackers reach "
        f"{percent(fresh[attribute])}, a gap of {100 * (fresh[attribute] - own):.1f} points"
        for attribute, own in trained.items()
        if attribute in fresh
    )


def _warning(name: str, floor: str, best: str, against: str) -> str:
    return f"adversary {name} was never clearly better than the {floor} (best {best} against {against}): it may not have learnt"


def _names(log: Log) -> tuple[str, ...]:
    """Adversaries of a log in order of appearance."""
    keys = (key for entry in log for key in entry if key.startswith("adversary/"))
    return tuple(dict.fromkeys(key.split("/")[1] for key in keys))


def _series(log: Log, key: str) -> list[float]:
    return [entry[f"adversary/{key}"] for entry in log if f"adversary/{key}" in entry]


def _means(values: list[float]) -> list[float]:
    """Means of ``WINDOW`` consecutive values; of all, where there are fewer."""
    size = min(WINDOW, len(values))
    return [fmean(values[start : start + size]) for start in range(len(values) - size + 1)]
