"""What the numbers say in words: the reference, the strongest attacks, the headline and the caveats.

The *reference* that changes are measured against is the evidence whose subject is "none", else the first one.
"""

from collections.abc import Callable, Sequence

from ani_jax.records import AttackResult, Estimate, Evidence, TargetWords

Formatter = Callable[[float], str]


def percent(value: float) -> str:
    """A fraction as a percentage with one decimal."""
    return f"{100 * value:.1f}%"


def decibel(value: float) -> str:
    """One decimal and the unit."""
    return f"{value:.1f} dB"


def small(value: float) -> str:
    """Three significant digits, for errors that span magnitudes."""
    return f"{value:#.3g}"


def ratio(value: float) -> str:
    """Two decimals, minus zero written as zero."""
    return f"{round(value, 2) + 0.0:.2f}"


def count(value: float) -> str:
    """A whole number with separated thousands."""
    return f"{value:,.0f}"


UNITS: dict[str, Formatter] = {"percent": percent, "ratio": ratio, "decibel": decibel, "small": small}
"""How values are written, by ``Metric.unit``."""
REFERENCES = {
    "label_mediated": "label-mediated",
    "majority": "majority class",
    "mse_class_mean": "MSE of the class mean",
    "mse_mean_image": "MSE of the mean image",
}
"""What scores are read against, as a reader calls it where the name itself does not say it."""


def label(name: str) -> str:
    """What a reader calls a reference, or anything else whose name is plain words.

    Example:
        >>> label("majority"), label("raw_input")
        ('majority class', 'raw input')
    """
    return REFERENCES.get(name, name.replace("_", " "))


def reference(evidences: Sequence[Evidence]) -> int:
    """Index of the evidence that changes are measured against: "none" if there is one, else the first.

    Raises:
        ValueError: no evidence.
    """
    if not evidences:
        raise ValueError("evidences is empty: a report needs at least one")
    return next((i for i, evidence in enumerate(evidences) if evidence.subject == "none"), 0)


def targets(evidences: Sequence[Evidence]) -> tuple[TargetWords, ...]:
    """The words of all that was attacked, in the order of the evidences.

    Raises:
        KeyError: an evidence has no words for the target of one of its attacks.
    """
    # The name comes back as it went in: asked for, missing words are an error here and not a section that is left out.
    attacked = {evidence.words(result.target).name for evidence in evidences for result in evidence.attacks}
    words = {words.name: words for evidence in evidences for words in evidence.targets}
    return tuple(found for name, found in words.items() if name in attacked)


def strongest(evidence: Evidence, target: str, queries: int = 1) -> AttackResult | None:
    """The successful attack on ``target`` that found most, by the target's own measure of strength.

    The choice is made on test scores over the attacks that saw ``queries`` releases an image, so it is an upper envelope.
    """
    family = [r for r in evidence.attacks if r.target == target and r.queries == queries]
    if not family:
        return None
    words = evidence.words(target)
    scored = [(value, r) for r in family if (value := score(r, words.strength)) is not None]
    return max(scored, key=lambda pair: pair[0] if words.higher else -pair[0])[1] if scored else None


def read(result: AttackResult | None, metric: str) -> Estimate | None:
    """What an attack scored, its normalised leakage for "leakage"; None where it is absent, failed or did not measure it."""
    if result is None or result.status != "ok":
        return None
    return result.leakage if metric == "leakage" else result.scores.get(metric)


def score(result: AttackResult | None, metric: str) -> float | None:
    """The value of :func:`read`."""
    found = read(result, metric)
    return None if found is None else found.value


def accuracy(evidence: Evidence) -> float | None:
    """The provider's accuracy on ``test``, None where it was not measured."""
    return evidence.utility["accuracy"].value if "accuracy" in evidence.utility else None


def form(words: TargetWords, metric: str) -> Formatter:
    """How a target's metric is written."""
    return UNITS[words.metric(metric).unit]


def headline(evidences: Sequence[Evidence]) -> tuple[str, ...]:
    """One sentence per subject other than the reference, computed from the numbers; a lone evidence is summed up.

    Raises:
        ValueError: no evidence.
        KeyError: see :func:`targets`.
    """
    base = reference(evidences)
    if len(evidences) > 1:
        return tuple(_against(evidences[base], e) for i, e in enumerate(evidences) if i != base)
    alone = evidences[base]
    right = accuracy(alone)
    clauses = [] if right is None else [f"accuracy {percent(right)}"]
    for words in targets(evidences):
        found = score(strongest(alone, words.name), words.strength)
        if found is None:
            clauses.append(f"no attack on the {words.name} succeeded in running")
        else:
            clauses.append(words.alone.replace("{}", form(words, words.strength)(found)))
    return (f"{alone.subject}: {'; '.join(clauses) or 'nothing was measured'}.",)


def caveats(evidences: Sequence[Evidence]) -> tuple[str, ...]:
    """Failed attacks, differences that make columns incomparable, and the notes of every evidence."""
    base = evidences[reference(evidences)]
    found = []
    for evidence in evidences:
        found += [
            f"{evidence.subject}: {r.attack} attack on {r.target} {r.status}; it says nothing about privacy"
            for r in evidence.attacks
            if r.status != "ok"
        ]
        found += [
            f"{evidence.subject} and {base.subject} differ in {field}: compare them with care"
            for field in ("dataset", "seed", "level", "steps", "sizes")
            if getattr(evidence, field) != getattr(base, field)
        ]
        found += [f"{evidence.subject}: {note}" for note in evidence.notes]
    return tuple(dict.fromkeys(found))


def _against(base: Evidence, other: Evidence) -> str:
    """The sentence that compares one subject with the reference."""
    said = []
    start, end = accuracy(base), accuracy(other)
    if start is not None and end is not None:
        # Rounded first: what is printed as 0.0 points must not be called a gain.
        moved = round(100 * (end - start), 1)
        overlap = _overlap(base.utility["accuracy"], other.utility["accuracy"])
        verb = "gains" if moved > 0 else "loses"
        said.append(f"{verb} {abs(moved):.1f} points of accuracy ({percent(start)} → {percent(end)}{overlap})")
    for words in targets((base, other)):
        before, after = strongest(base, words.name), strongest(other, words.name)
        if before is None or after is None:
            said.append(f"no successful attack on the {words.name} can be compared")
            continue
        most = max(r.queries for r in other.attacks if r.target == words.name and r.status == "ok")
        for clause in words.clauses:
            old, new = read(before, clause.metric), read(after, clause.metric)
            if old is None or new is None or old.value is None or new.value is None:
                continue
            write, overlap = form(words, clause.metric), _overlap(old, new)
            change = f"{write(old.value)} → {write(new.value)}"
            if clause.relative:
                # A percentage of something at or below 0 says nothing.
                size = f" {abs(100 * (new.value / old.value - 1)):,.0f}%" if old.value > 0 else ""
                change = f"{'rises' if new.value > old.value else 'falls'}{size} ({change}{overlap})"
            else:
                # The floor is one of the metric that is plotted: of another it would say nothing.
                floor = after.references.get(words.floor) if clause.metric == words.plotted else None
                known = "" if floor is None else f", {label(words.floor)} {write(floor)}"
                change += f" ({(known + overlap)[2:]})" if known or overlap else ""
            often = score(strongest(other, words.name, most), clause.metric) if most > 1 else None
            repeated = "" if often is None else f", {write(often)} when asked {most} times"
            said.append(f"{clause.phrase} {change}{repeated}")
    if not said:
        return f"{other.subject}: nothing that both measured can be compared."
    return f"Against {base.subject}, {other.subject} {'; '.join(said)}."


def _overlap(old: Estimate, new: Estimate) -> str:
    """Says so where two intervals share a point: such a change may be chance."""
    if None in (old.low, old.high, new.low, new.high):
        return ""
    return ", intervals overlap" if old.low <= new.high and new.low <= old.high else ""  # type: ignore[operator]
