"""What the numbers say in words: the reference, the strongest attacks, the headline and the caveats.

The *reference* that changes are measured against is the evidence whose subject is "none", else the first one.
"""

from collections.abc import Callable, Iterator, Sequence

from ani_jax.records import AttackResult, Estimate, Evidence


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


def reference(evidences: Sequence[Evidence]) -> int:
    """Index of the evidence that changes are measured against: "none" if there is one, else the first.

    Raises:
        ValueError: no evidence.
    """
    if not evidences:
        raise ValueError("evidences is empty: a report needs at least one")
    return next((i for i, evidence in enumerate(evidences) if evidence.subject == "none"), 0)


def strongest(evidence: Evidence, target: str, queries: int = 1) -> AttackResult | None:
    """The successful attack on ``target`` that found most: least MSE on images, else most balanced accuracy.

    The choice is made on test scores over the attacks that saw ``queries`` releases an image, so it is an upper envelope.
    """
    metric, sign = ("mse", -1.0) if target == "image" else ("balanced_accuracy", 1.0)
    family = [r for r in evidence.attacks if r.target == target and r.queries == queries]
    scored = [(value, r) for r in family if (value := score(r, metric)) is not None]
    return max(scored, key=lambda pair: sign * pair[0])[1] if scored else None


def score(result: AttackResult | None, metric: str) -> float | None:
    """Value of a metric, None where the attack is absent, failed or did not measure it."""
    if result is None or result.status != "ok" or metric not in result.scores:
        return None
    return result.scores[metric].value


def targets(evidences: Sequence[Evidence]) -> tuple[str, ...]:
    """What was attacked: attributes in order of appearance, then "image" if any attack aimed at it."""
    names = list(dict.fromkeys(result.target for evidence in evidences for result in evidence.attacks))
    return tuple(sorted(names, key=lambda name: name == "image"))


def headline(evidences: Sequence[Evidence]) -> tuple[str, ...]:
    """One sentence per subject other than the reference, computed from the numbers; a lone evidence is summed up.

    Raises:
        ValueError: no evidence.
    """
    base = reference(evidences)
    if len(evidences) == 1:
        return (_alone(evidences[0]),)
    return tuple(_against(evidences[base], e) for i, e in enumerate(evidences) if i != base)


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
            for field in ("dataset", "seed", "budget", "steps", "sizes")
            if getattr(evidence, field) != getattr(base, field)
        ]
        found += [f"{evidence.subject}: {note}" for note in evidence.notes]
    return tuple(dict.fromkeys(found))


def _against(base: Evidence, other: Evidence) -> str:
    """The sentence that compares one subject with the reference."""
    clauses = []
    old, new = base.utility.get("accuracy"), other.utility.get("accuracy")
    if old and new and old.value is not None and new.value is not None:
        moved = round(100 * (new.value - old.value), 1)
        verb = "gains" if moved > 0 else "loses"
        spread = f"{percent(old.value)} → {percent(new.value)}{_overlap(old, new)}"
        clauses.append(f"{verb} {abs(moved):.1f} points of accuracy ({spread})")
    for target in sorted(targets((base, other)), key=lambda name: name != "image"):
        clauses += _found(base, other, target)
    body = "; ".join(clauses) if clauses else "nothing that both measured can be compared"
    return f"Against {base.subject}, {other.subject} {body}." if clauses else f"{other.subject}: {body}."


def _found(base: Evidence, other: Evidence, target: str) -> Iterator[str]:
    """What the strongest attacks on one target found, before and after."""
    before, after = strongest(base, target), strongest(other, target)
    if before is None or after is None:
        yield f"no successful attack on the {target} can be compared"
    elif target != "image":
        old, new = before.scores["balanced_accuracy"], after.scores["balanced_accuracy"]
        chance = after.references.get("chance")
        aside = "".join(filter(None, ("" if chance is None else f", chance {percent(chance)}", _overlap(old, new))))
        change = f"{percent(old.value or 0)} → {percent(new.value or 0)}"
        repeated = _repeated(other, target, "balanced_accuracy", percent)
        yield f"balanced accuracy in inferring {target} {change}{f' ({aside[2:]})' if aside else ''}{repeated}"
    else:
        for metric, noun in (
            ("mse", "the strongest reconstruction's error"),
            ("r2_class_mean", "R² over class mean"),
        ):
            old, new = score(before, metric), score(after, metric)
            if old is None or new is None:
                continue
            form = small if metric == "mse" else ratio
            verb = "rises" if new > old else "falls"
            size = f" {abs(100 * (new / old - 1)):,.0f}%" if old > 0 else ""
            overlap = _overlap(before.scores[metric], after.scores[metric])
            repeated = _repeated(other, target, metric, form)
            yield f"{noun} {verb}{size} ({form(old)} → {form(new)}{overlap}){repeated}"


def _repeated(evidence: Evidence, target: str, metric: str, form: Callable[[float], str]) -> str:
    """What asking the client most often gave, where anybody asked more than once."""
    most = max((r.queries for r in evidence.attacks if r.target == target and r.status == "ok"), default=1)
    value = score(strongest(evidence, target, most), metric) if most > 1 else None
    return "" if value is None else f", {form(value)} when asked {most} times"


def _alone(evidence: Evidence) -> str:
    accuracy = evidence.utility.get("accuracy")
    clauses = [f"accuracy {percent(accuracy.value)}"] if accuracy and accuracy.value is not None else []
    for target in targets((evidence,)):
        result = strongest(evidence, target)
        if result is None:
            clauses.append(f"no attack on the {target} succeeded in running")
        elif target != "image":
            clauses.append(
                f"{target} inferred with {percent(score(result, 'balanced_accuracy') or 0)} balanced accuracy"
            )
        else:
            clauses.append(f"the strongest reconstruction's MSE is {small(score(result, 'mse') or 0)}")
    return f"{evidence.subject}: {'; '.join(clauses) or 'nothing was measured'}."


def _overlap(old: Estimate, new: Estimate) -> str:
    """Says so where two intervals share a point: such a change may be chance."""
    if None in (old.low, old.high, new.low, new.high):
        return ""
    return ", intervals overlap" if old.low <= new.high and new.low <= old.high else ""  # type: ignore[operator]
