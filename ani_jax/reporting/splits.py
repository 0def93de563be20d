"""Where to cut a plain model: accuracy, what leaks and what the device pays, by depth."""

from collections.abc import Callable, Mapping, Sequence

from ani_jax.records import Evidence
from ani_jax.reporting.findings import count, percent, ratio, score, strongest, targets
from ani_jax.reporting.text import aligned

Column = Callable[[Evidence], str]


def table(cuts: Mapping[str, Evidence]) -> str:
    """Aligned text, a line a cut; "–" where something was not measured.

    Args:
        cuts: name -> evidence, from the shallowest on.

    Example:
        >>> print(table({"depth 1": Evidence("none", "digits", 0, "quick", {}, {}, {}, ())}))
        cut      accuracy  MACs  bytes, 8 bits
        depth 1  –         –     –
    """
    columns = _columns(tuple(cuts.values()))
    return aligned([("cut", *columns), *((name, *(read(e) for read in columns.values())) for name, e in cuts.items())])


def advice(cuts: Mapping[str, Evidence]) -> str:
    """One sentence: the cut that leaks least of the image, and what it costs; "" where nothing can be compared."""
    known = {name: (leaked, e.cost.macs) for name, e in cuts.items() if (leaked := _leaked(e)) is not None and e.cost}
    if len(known) < 2:
        return ""
    least, cheapest = min(known, key=lambda n: known[n]), min(known, key=lambda n: known[n][1])
    told = f"{least} leaks least of the image (R² over class mean {ratio(known[least][0])})"
    if least == cheapest:
        return f"{told} and costs the device least."
    return f"{told} at {known[least][1] / known[cheapest][1]:.1f} times the MACs of {cheapest} ({ratio(known[cheapest][0])})."


def _columns(evidences: Sequence[Evidence]) -> dict[str, Column]:
    found: dict[str, Column] = {"accuracy": _accuracy}
    for target in targets(evidences):
        found[_title(target)] = lambda e, target=target: _strength(e, target)
    return found | {
        "MACs": lambda e: count(e.cost.macs) if e.cost else "–",
        "bytes, 8 bits": lambda e: count(e.cost.bytes_quantised) if e.cost else "–",
    }


def _title(target: str) -> str:
    return "image: R² over class mean" if target == "image" else f"{target}: balanced accuracy"


def _accuracy(evidence: Evidence) -> str:
    found = evidence.utility.get("accuracy")
    return "–" if found is None or found.value is None else percent(found.value)


def _strength(evidence: Evidence, target: str) -> str:
    if target == "image":
        value, form = _leaked(evidence), ratio
    else:
        value, form = score(strongest(evidence, target), "balanced_accuracy"), percent
    return "–" if value is None else form(value)


def _leaked(evidence: Evidence) -> float | None:
    return score(strongest(evidence, "image"), "r2_class_mean")
