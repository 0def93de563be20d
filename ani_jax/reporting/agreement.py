"""Whether the inversion-difficulty criterion ranks clients as attackers do (METHODS 6)."""

from collections.abc import Callable, Mapping, Sequence

from scipy.stats import spearmanr

from ani_jax.records import Criterion, Evidence, TargetWords
from ani_jax.reporting.findings import form, score, small, strongest, targets
from ani_jax.reporting.text import aligned

FEWEST = 3
"""Clients below which a rank correlation says nothing."""
PARTS: dict[str, Callable[[Criterion], float | None]] = {
    "I(x; z + noise)": lambda criterion: criterion.information.value,
    "effective volume": lambda criterion: criterion.volume_ratio,
    "mean |z|": lambda criterion: criterion.mean_abs,
    "Gaussian entropy": lambda criterion: criterion.entropy_gaussian,
    "neighbours' entropy": lambda criterion: criterion.entropy_knn,
}


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


def lines(evidences: Sequence[Evidence]) -> tuple[str, ...]:
    """One line for every part of the criterion: its rank correlation with the strongest reconstruction's error.

    A criterion that works is near -1: the more it reads, the smaller the error. Clients without the one or the other are left
    out, and nothing is said about fewer than ``FEWEST``.
    """
    found = []
    for words in _inputs(evidences):
        errors = [score(strongest(evidence, words.name), words.strength) for evidence in evidences]
        label = words.metric(words.strength).label
        for name, read in PARTS.items():
            parts = [evidence.criterion and read(evidence.criterion) for evidence in evidences]
            pairs = [(p, e) for p, e in zip(parts, errors, strict=True) if p is not None and e is not None]
            value = rank_correlation([part for part, _ in pairs], [error for _, error in pairs])
            if value is not None:
                found.append(
                    f"{name} against the strongest reconstruction's {label}: "
                    f"Spearman {value:+.2f} over {len(pairs)} clients"
                )
    return tuple(found)


def table(clients: Mapping[str, Evidence]) -> str:
    """Aligned text, a line a client: every part of its criterion, then the strongest reconstruction's error.

    Example:
        >>> print(table({"funnel": Evidence("funnel", "digits", 0, "quick", {}, {}, {}, ())}))
        client  I(x; z + noise)  effective volume  mean |z|  Gaussian entropy  neighbours' entropy
        funnel  –                –                 –         –                 –
    """
    inputs = _inputs(tuple(clients.values()))
    rows: list[Sequence[str]] = [("client", *PARTS, *(words.metric(words.strength).label for words in inputs))]
    for name, evidence in clients.items():
        cells = [(small, evidence.criterion and read(evidence.criterion)) for read in PARTS.values()]
        cells += [(form(w, w.strength), score(strongest(evidence, w.name), w.strength)) for w in inputs]
        rows.append((name, *("–" if value is None else write(value) for write, value in cells)))
    return aligned(rows)


def caveats(clients: Mapping[str, Evidence]) -> tuple[str, ...]:
    """Which clients' estimates of information say nothing, and whose self-tests failed.

    Example:
        >>> caveats({"funnel": Evidence("funnel", "digits", 0, "quick", {}, {}, {}, ())})
        ()
    """
    found = []
    for name, evidence in clients.items():
        if evidence.criterion is None:
            continue
        told = evidence.criterion.information
        if told.value is not None and told.value <= 0:
            found.append(f"{name}: I(x; z + noise) reads 0 or less: no critic found anything, which says nothing of z")
        found += [f"{name}: the self-test failed: {test.note}" for test in told.self_tests if not test.passed]
    return tuple(found)


def _inputs(evidences: Sequence[Evidence]) -> list[TargetWords]:
    """What the criterion is about."""
    return [words for words in targets(evidences) if words.is_input]
