"""Where to cut a plain model: accuracy, what leaks and what the device pays, by depth."""

from collections.abc import Mapping, Sequence

from ani_jax.records import Evidence, TargetWords
from ani_jax.reporting.findings import accuracy, count, form, percent, score, strongest, targets
from ani_jax.reporting.text import aligned


def table(cuts: Mapping[str, Evidence]) -> str:
    """Aligned text, a line a cut; "–" where something was not measured.

    Args:
        cuts: name -> evidence, from the shallowest on.

    Example:
        >>> print(table({"depth 1": Evidence("none", "digits", 0, "quick", {}, {}, {}, ())}))
        cut      accuracy  MACs  bytes, 8 bits
        depth 1  –         –     –
    """
    leaks = targets(tuple(cuts.values()))
    titles = [f"{words.name}: {words.metric(words.plotted).label}" for words in leaks]
    rows: list[Sequence[str]] = [("cut", "accuracy", *titles, "MACs", "bytes, 8 bits")]
    for name, e in cuts.items():
        cells = [
            (percent, accuracy(e)),
            *((form(words, words.plotted), _leaked(e, words)) for words in leaks),
            (count, e.cost and e.cost.macs),
            (count, e.cost and e.cost.bytes_quantised),
        ]
        rows.append((name, *("–" if value is None else write(value) for write, value in cells)))
    return aligned(rows)


def advice(cuts: Mapping[str, Evidence]) -> str:
    """One sentence: the cut that leaks least of the input, and what it costs; "" where nothing can be compared."""
    words = next((words for words in targets(tuple(cuts.values())) if words.is_input), None)
    if words is None:
        return ""
    known = {n: (leaked, e.cost.macs) for n, e in cuts.items() if (leaked := _leaked(e, words)) is not None and e.cost}
    if len(known) < 2:
        return ""
    # Pairs (leakage, MACs) are compared, so that of two which leak the same the cheaper is named.
    least, cheapest = min(known, key=lambda n: known[n]), min(known, key=lambda n: known[n][1])
    metric, write = words.metric(words.plotted), form(words, words.plotted)
    told = f"{least} leaks least of the {words.name} ({metric.label} {write(known[least][0])})"
    if least == cheapest:
        return f"{told} and costs the device least."
    more = known[least][1] / known[cheapest][1]
    return f"{told} at {more:.1f} times the MACs of {cheapest} ({write(known[cheapest][0])})."


def _leaked(evidence: Evidence, words: TargetWords) -> float | None:
    return score(strongest(evidence, words.name), words.plotted)
