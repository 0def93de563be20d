"""How evidence says itself: a short verdict with its reasons, the report within a notebook, the report as a file."""

import pathlib
from typing import Any

from ani_jax.records import AttackResult, Evidence, TargetWords
from ani_jax.reporting import page
from ani_jax.reporting.findings import UNITS, label, percent, points, ratio, small
from ani_jax.reporting.table import Cell, estimate

LONGEST, LINE = 1_900, 240
"""Characters of a verdict, and of a line of it, at most."""


def verdict(evidence: Evidence) -> str:
    """What leaks, and why that can be believed: a few lines for whoever prints the evidence.

    For every target the strongest attack, chosen on its score on ``test`` and so an upper envelope, with its interval, what it is
    read against, and whether its training reached a plateau. A leak that was found stands by itself; that nothing was found
    counts only where planted labels were.

    Args:
        evidence: of one client; one whose targets have no words is told by their names.

    Returns:
        Lines without the last line's end, under 2,000 characters.

    Example:
        >>> print(verdict(Evidence("mine", "digits", 0, "standard", {}, {}, {}, ())))
        mine on digits, seed 0, level standard
        verdict: nothing was attacked
        controls: none, nothing was planted that the audit should have noticed
    """
    known = {words.name: words for words in evidence.targets}
    names = list(dict.fromkeys([*known, *(result.target for result in evidence.attacks)]))
    leaking, silent, unread, lines = [], [], [], []
    for name in names:
        rivals = [result for result in evidence.attacks if result.target == name]
        words = known.get(name)
        if words is None or not {words.strength, words.leakage or words.strength} <= {
            one.name for one in words.metrics
        }:
            unread.append(name)
            lines.append(f"{name}: the record has no words for it")
            continue
        able = [(value, one) for one in rivals if one.status == "ok" and (value := _strength(one, words)) is not None]
        if not able:
            unread.append(name)
            lines.append(f"{name}: no attack ran through, which says nothing about privacy")
            continue
        sign = 1 if words.higher else -1
        _, best = max(able, key=lambda pair: sign * pair[0])
        beyond = best.scores.get(words.beyond or words.leakage, best.leakage)
        (unread if beyond.value is None else leaking if (beyond.low or 0.0) > 0 else silent).append(name)
        lines.append(f"{name}: {reasons(best, words)}")
    missed = [control for control in evidence.controls if not control.heard]
    said = [f"{', '.join(leaking)} {'leaks' if len(leaking) == 1 else 'leak'}"] if leaking else []
    if silent and (not evidence.controls or any(control.withholds for control in missed)):
        why = "a control failed" if evidence.controls else "nothing was planted"
        said.append(f"none on {', '.join(silent)}: {why}")
    elif silent:
        said.append(f"no more than the floor was found of {', '.join(silent)}")
    said += [f"none on {', '.join(unread)}: nothing was measured, or nothing to read it against"] if unread else []
    right = evidence.utility.get("accuracy")
    head = [
        f"{evidence.subject} on {evidence.dataset}, seed {evidence.seed}, level {evidence.level}",
        f"verdict: {'; '.join(said) or 'nothing was attacked'}",
        *([f"accuracy {_text(estimate(right, percent))}"] if right is not None else []),
    ]
    controls = "none, nothing was planted that the audit should have noticed"
    if evidence.controls:
        planted = [control.heard for control in evidence.controls if control.planted]
        controls = f"{sum(planted)} of {len(planted)} planted labels were found"
    if missed:
        faint = (f"{one.name} ({points(one.found or 0)} of {points(one.known or 0)} points)" for one in missed)
        controls += f"; failed: {', '.join(faint)}"
    tail = [f"controls: {controls}"]
    if lines:
        tail.append(f"{len(evidence.notes)} notes: print them with .notes, or write the page with .save('report.html')")
    shown = len(lines)
    while shown and sum(min(len(line), LINE) + 1 for line in (*head, *lines[:shown], *tail)) > LONGEST:
        shown -= 1
    more = [f"… and {len(lines) - shown} more"] if shown < len(lines) else []
    cut = (line if len(line) <= LINE else line[: LINE - 1] + "…" for line in (*head, *lines[:shown], *more, *tail))
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in cut)


def reasons(best: AttackResult, words: TargetWords) -> str:
    """What a verdict says of the strongest result on a target.

    Args:
        best: a result whose strength was measured.
        words: of its target.
    """
    metric = words.metric(words.strength)
    write = UNITS.get(metric.unit, small)
    floors = {name: best.references.get(name) for name in words.floors}
    against = ", ".join(f"{label(name)} {write(value)}" for name, value in floors.items() if value is not None)
    said = [
        f"{metric.label} {_text(estimate(best.scores[words.strength], write))}" + (f" ({against})" if against else "")
    ]
    leakage = best.scores.get(words.leakage) if words.leakage else best.leakage
    if leakage is not None and leakage.value is not None:
        name = words.metric(words.leakage).label if words.leakage else "leakage"
        said.append(f"{name} {_text(estimate(leakage, ratio))}")
    asked = "" if best.queries == 1 else f" on {best.queries} releases"
    return "; ".join((*said, best.chosen + asked, best.ended or "no plateau was looked for"))


def fragment(evidence: Evidence) -> str:
    """The report as a notebook shows it: the page without its frame, whose style reaches nothing around it.

    Args:
        evidence: of one client.
    """
    return page.render([evidence], {}, bare=True, **_made(evidence))


def save(evidence: Evidence, path: str | pathlib.Path) -> None:
    """Writes the report as one self-contained page.

    Args:
        evidence: of one client.
        path: of the file, which ends in ``.html``.

    Raises:
        ValueError: another ending, or a path that cannot be written.
    """
    path = pathlib.Path(path)
    if path.suffix != ".html":
        raise ValueError(f"path={path}: must end in .html")
    text = page.render([evidence], {}, **_made(evidence))
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"path={path}: cannot be written ({error.strerror}); name a file that can") from None


def _made(evidence: Evidence) -> dict[str, Any]:
    """How an evidence that stands alone was made, as far as it knows."""
    command = f"ani_jax.audit(release, data, predict, level={evidence.level!r}, seed={evidence.seed})"
    names = ("subject", "dataset", "seed", "level", "sizes", "steps")
    return {"command": command, "config": {name: getattr(evidence, name) for name in names}}


def _strength(result: AttackResult, words: TargetWords) -> float | None:
    found = result.scores.get(words.strength)
    return None if found is None else found.value


def _text(cell: Cell) -> str:
    return f"{cell.text} {cell.interval}".strip()
