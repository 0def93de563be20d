"""Whether the inversion-difficulty criterion ranks clients as attackers do (METHODS 6)."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata, spearmanr

from ani_jax.records import Evidence, TargetWords
from ani_jax.reporting.findings import Formatter, form, small, targets
from ani_jax.reporting.frame import CRITERION, Column, frame, wide
from ani_jax.reporting.text import clients

FEWEST = 3
"""Clients below which a rank correlation says nothing."""


def rank_correlation(left: Sequence[float], right: Sequence[float]) -> float | None:
    """Spearman's rank correlation; None for under ``FEWEST`` pairs, or where one side is constant.

    Example:
        >>> rank_correlation([1.0, 2.0, 3.0], [9.0, 5.0, 1.0])
        -1.0
    """
    if len(left) < FEWEST or len(set(left)) == 1 or len(set(right)) == 1:
        return None
    # Some perfect orders read 0.9999999999999999; a reader expects 1.
    return round(float(spearmanr(left, right).statistic), 9)  # type: ignore[attr-defined]


def interval(left: Sequence[float], right: Sequence[float], resamples: int = 2000) -> tuple[float, float] | None:
    """95% interval of Spearman's rank correlation over which clients were measured; None where it says nothing.

    Percentiles of resampled pairs; resamples of which one side is constant are left out.

    Example:
        >>> low, high = interval(range(20), [*range(1, 20), 0])
        >>> low < rank_correlation(range(20), [*range(1, 20), 0]) < high
        True
    """
    if rank_correlation(left, right) is None:
        return None
    drawn = np.random.default_rng(0).integers(len(left), size=(resamples, len(left)))
    ranks = [rankdata(np.asarray(side)[drawn], axis=1) for side in (left, right)]
    a, b = (one - one.mean(1, keepdims=True) for one in ranks)
    spread = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    found = (a * b).sum(1)[spread > 0] / spread[spread > 0]
    low, high = np.percentile(found, (2.5, 97.5))
    return float(low), float(high)


def lines(evidences: Sequence[Evidence]) -> tuple[str, ...]:
    """One line for every part of the criterion: its rank correlation with the strongest reconstruction's error.

    A criterion that works is near -1: the more it reads, the smaller the error. Clients without the one or the other are left
    out, and nothing is said about fewer than ``FEWEST``.
    """
    found, data = [], frame(evidences)
    for words in _inputs(evidences):
        error, label = (words.name, words.strength, 1), words.metric(words.strength).label
        for part, name in CRITERION.items():
            pairs = wide(data, [("criterion", part, 0), error], len(evidences)).dropna().to_numpy()
            value, ends = rank_correlation(pairs[:, 0], pairs[:, 1]), interval(pairs[:, 0], pairs[:, 1])
            if value is not None and ends is not None:
                found.append(
                    f"{name} against the strongest reconstruction's {label}: Spearman {value:+.2f} "
                    f"[{ends[0]:+.2f}, {ends[1]:+.2f}] over {len(pairs)} clients"
                )
    return tuple(found)


def table(evidences: Mapping[str, Evidence]) -> str:
    """Aligned text, a line a client: every part of its criterion, then the strongest reconstruction's error.

    Example:
        >>> print(table({"funnel": Evidence("funnel", "digits", 0, "standard", {}, {}, {}, ())}))
        client  I(x; z + noise)
        funnel  –
    """
    measured = {"information", *frame(evidences.values()).metric}
    columns: dict[str, tuple[Formatter, Column]] = {
        name: (small, ("criterion", part, 0)) for part, name in CRITERION.items() if part in measured
    }
    for words in _inputs(tuple(evidences.values())):
        columns[words.metric(words.strength).label] = (form(words, words.strength), (words.name, words.strength, 1))
    return clients("client", evidences, columns)


def caveats(clients: Mapping[str, Evidence]) -> tuple[str, ...]:
    """Which clients' estimates of information say nothing, and whose self-tests failed.

    Example:
        >>> caveats({"funnel": Evidence("funnel", "digits", 0, "standard", {}, {}, {}, ())})
        ()
    """
    found, names = [], [*clients]
    for row in frame(clients.values()).itertuples():
        if (row.part, row.metric) == ("criterion", "information") and row.value <= 0:
            told = "I(x; z + noise) reads 0 or less: no critic found anything, which says nothing of z"
            found.append(f"{names[row.run]}: {told}")
        elif row.part == "self-test" and row.status != "ok":
            found.append(f"{names[row.run]}: the self-test failed: {row.note}")
    return tuple(found)


def _inputs(evidences: Sequence[Evidence]) -> list[TargetWords]:
    """What the criterion is about."""
    return [words for words in targets(evidences) if words.is_input]
