"""Where to cut a plain model: accuracy, what leaks and what the device pays, by depth."""

from collections.abc import Mapping

from ani_jax.records import Evidence
from ani_jax.reporting.findings import count, form, percent, targets
from ani_jax.reporting.frame import frame, wide
from ani_jax.reporting.text import clients


def table(cuts: Mapping[str, Evidence]) -> str:
    """Aligned text, a line a cut; "–" where something was not measured.

    Args:
        cuts: name -> evidence, from the shallowest on.

    Example:
        >>> print(table({"depth 1": Evidence("none", "digits", 0, "standard", {}, {}, {}, ())}))
        cut      accuracy  MACs  bytes, 8 bits
        depth 1  –         –     –
    """
    leaks = targets(tuple(cuts.values()))
    columns = {
        "accuracy": (percent, ("utility", "accuracy", 0)),
        **{f"{w.name}: {w.metric(w.plotted).label}": (form(w, w.plotted), (w.name, w.plotted, 1)) for w in leaks},
        "MACs": (count, ("cost", "macs", 0)),
        "bytes, 8 bits": (count, ("cost", "bytes_quantised", 0)),
    }
    return clients("cut", cuts, columns)


def advice(cuts: Mapping[str, Evidence]) -> str:
    """One sentence: the cut that leaks least of the input, and what it costs; "" where nothing can be compared."""
    words = next((words for words in targets(tuple(cuts.values())) if words.is_input), None)
    if words is None:
        return ""
    known = wide(frame(cuts.values()), [(words.name, words.plotted, 1), ("cost", "macs", 0)], len(cuts))
    known = known.set_axis(["leaked", "macs"], axis=1).set_axis([*cuts]).dropna()
    if len(known) < 2:
        return ""
    # Of two which leak the same the cheaper is named.
    least, cheapest = (known.sort_values(by, kind="stable").iloc[0] for by in (["leaked", "macs"], ["macs"]))
    metric, write = words.metric(words.plotted), form(words, words.plotted)
    told = f"{least.name} leaks least of the {words.name} ({metric.label} {write(least.leaked)})"
    if least.name == cheapest.name:
        return f"{told} and costs the device least."
    more = least.macs / cheapest.macs
    return f"{told} at {more:.1f} times the MACs of {cheapest.name} ({write(cheapest.leaked)})."
