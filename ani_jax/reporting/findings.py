"""What the numbers say in words: the reference, the strongest attacks, the headline and the caveats.

The *reference* that changes are measured against is the evidence whose subject is "none", else the first one.
"""

from collections.abc import Callable, Sequence
from typing import Any

from ani_jax.records import BURST, Estimate, Evidence, TargetWords
from ani_jax.reporting.frame import Frame, frame, read, select

Formatter = Callable[[float], str]


def percent(value: float) -> str:
    """A fraction as a percentage with one decimal."""
    return f"{100 * value:.1f}%"


def points(value: float) -> str:
    """A difference of fractions in points with one decimal."""
    return f"{100 * value + 0.0:.1f}".replace("-0.0", "0.0")


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


UNITS: dict[str, Formatter] = {
    "percent": percent,
    "points": lambda value: f"{points(value)} pt",
    "ratio": ratio,
    "decibel": decibel,
    "small": small,
}
"""How values are written, by ``Metric.unit``."""
REFERENCES = {
    "certified": "certified: nobody is above",
    "cosine_mean": "cosine similarity of the mean",
    "label_mediated": "label-mediated",
    "accuracy_lost": "lost of it, image by image",
    "linear_accuracy": "accuracy of a line from z",
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


def form(words: TargetWords, metric: str) -> Formatter:
    """How a target's metric is written."""
    return UNITS[words.metric(metric).unit]


def headline(evidences: Sequence[Evidence]) -> tuple[str, ...]:
    """One sentence per subject other than the reference, computed from the numbers; a lone evidence is summed up.

    Raises:
        ValueError: no evidence.
        KeyError: see :func:`targets`.
    """
    base, found = reference(evidences), frame(evidences)
    if len(evidences) > 1:
        return tuple(_against(found, evidences, base, other) for other in range(len(evidences)) if other != base)
    (alone,) = evidences
    right = read(found, part="utility", metric="accuracy").get(0, Estimate(None)).value
    clauses = [] if right is None else [f"accuracy {percent(right)}"]
    for words in targets(evidences):
        strongest = {"part": "attack", "target": words.name, "queries": 1, "strongest": True}
        best = read(found, **strongest, metric=words.strength).get(0)
        if best is None or best.value is None:
            clauses.append(f"no attack on the {words.name} succeeded in running")
        else:
            said = words.alone.replace("{}", form(words, words.strength)(best.value))
            beside = [
                " ".join(filter(None, (clause.phrase, form(words, clause.metric)(told.value), told.note)))
                for clause in words.clauses
                for told in read(found, **strongest, metric=clause.metric).values()
                if clause.metric != words.strength and told.value is not None
            ]
            clauses.append(said + (f" ({', '.join(beside)})" if beside else ""))
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
        found += [f"{evidence.subject}: {sentence}" for sentence in noticed(evidence)]
        found += [f"{evidence.subject}: {note}" for note in evidence.notes]
    return tuple(dict.fromkeys(found))


def noticed(evidence: Evidence) -> tuple[str, ...]:
    """Whether this audit would have noticed a leak, by its controls; nothing where it has none.

    A linear label of full strength that was missed withholds every verdict of privacy (METHODS 5.0 d), as does an image that is
    not read though it is sent, or something that is read where nothing is.
    """
    told = [control for control in evidence.controls if control.planted and control.found is not None]
    heard = [control for control in told if control.heard]
    said = [
        f"no verdict: of {control.name} {points(control.found or 0)} of {points(control.known or 0)} points over chance was read"
        for control in evidence.controls
        if control.withholds
    ]
    if heard and not said:
        least = min(heard, key=lambda control: control.known or 0)
        said.append(
            f"the smallest planted leak that was found: {least.name}, {points(least.known or 0)} points over chance"
        )
    said += [
        f"a limit of this audit: {control.name} was missed ({points(control.found or 0)} of {points(control.known or 0)} points)"
        for control in told
        if not control.heard and not control.withholds and control.full
    ]
    return tuple(said)


def _against(found: Frame, evidences: Sequence[Evidence], base: int, other: int) -> str:
    """The sentence that compares one subject with the reference, by their runs in the frame."""
    said = []

    def pair(**columns: Any) -> tuple[float, float, str] | None:
        """Before and after, and whether their intervals overlap; None where either was not measured."""
        numbers = read(found, **columns)
        old, new = (numbers.get(run, Estimate(None)) for run in (base, other))
        return None if old.value is None or new.value is None else (old.value, new.value, _overlap(old, new))

    if (accuracies := pair(part="utility", metric="accuracy")) is not None:
        start, end, overlap = accuracies
        # Rounded first: what is printed as 0.0 points must not be called a gain.
        moved = round(100 * (end - start), 1)
        verb = "gains" if moved > 0 else "loses"
        said.append(f"{verb} {abs(moved):.1f} points of accuracy ({percent(start)} → {percent(end)}{overlap})")
    for words in targets((evidences[base], evidences[other])):
        best = {"target": words.name, "strongest": True}
        if pair(**best, part="attack", queries=1, metric=words.strength) is None:
            said.append(f"no successful attack on the {words.name} can be compared")
            continue
        asked = select(found, run=other, target=words.name, status="ok")
        most = asked[~asked.attack.str.endswith(BURST)].queries.max()
        for clause in words.clauses:
            if (numbers := pair(**best, part="attack", queries=1, metric=clause.metric)) is None:
                continue
            old, new, overlap = numbers
            write = form(words, clause.metric)
            change = f"{write(old)} → {write(new)}"
            if clause.relative:
                # A percentage of something at or below 0 says nothing.
                size = f" {abs(100 * (new / old - 1)):,.0f}%" if old > 0 else ""
                change = f"{'rises' if new > old else 'falls'}{size} ({change}{overlap})"
            else:
                # The floor is one of the metric that is plotted: of another it would say nothing.
                floors = read(found, **best, queries=1, part="reference", metric=words.floor)
                floor = floors.get(other, Estimate(None)).value if clause.metric == words.plotted else None
                known = "" if floor is None else f", {label(words.floor)} {write(floor)}"
                change += f" ({(known + overlap)[2:]})" if known or overlap else ""
            often = (
                read(found, **best, part="attack", queries=most, metric=clause.metric).get(other, Estimate(None)).value
            )
            repeated = "" if often is None or most == 1 else f", {write(often)} when asked {most} times"
            said.append(f"{clause.phrase} {change}{repeated}")
    if not said:
        return f"{evidences[other].subject}: nothing that both measured can be compared."
    return f"Against {evidences[base].subject}, {evidences[other].subject} {'; '.join(said)}."


def _overlap(old: Estimate, new: Estimate) -> str:
    """Says so where two intervals share a point: such a change may be chance."""
    if None in (old.low, old.high, new.low, new.high):
        return ""
    return ", intervals overlap" if old.low <= new.high and new.low <= old.high else ""  # type: ignore[operator]
