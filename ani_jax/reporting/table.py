"""What the evidence says, as rows of formatted cells: the terminal table, and the same rows for the page."""

import dataclasses
import textwrap
from collections.abc import Sequence

from ani_jax.records import AttackResult, Estimate, Evidence, TargetWords
from ani_jax.reporting.findings import (
    UNITS,
    Formatter,
    accuracy,
    caveats,
    count,
    label,
    percent,
    ratio,
    read,
    reference,
    score,
    targets,
)

WIDTH = 110
"""Columns that the terminal table fits in."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One formatted value, its 95% interval ("" for none) and why it is missing or limited ("" if it is not)."""

    text: str
    interval: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """One quantity for every subject; ``kind`` is "score", "reference" (what scores are read against) or "change"."""

    label: str
    cells: tuple[Cell, ...]
    kind: str = "score"


@dataclasses.dataclass(frozen=True)
class Section:
    """Rows that belong together: utility, one attack on one target, or the client's cost."""

    title: str
    rows: tuple[Row, ...]


CRITERION = {
    "volume_ratio": "effective volume / inputs",
    "mean_abs": "mean |z|",
    "entropy_gaussian": "entropy, Gaussian",
    "entropy_knn": "entropy, neighbours",
}
COSTS = {
    "parameters": "client parameters",
    "macs": "MACs per image",
    "floats": "floats sent per query",
    "bytes_quantised": "bytes sent, 8 bits",
    "bytes_raw": "bytes of the raw image",
}


def sections(evidences: Sequence[Evidence]) -> tuple[Section, ...]:
    """All rows of the report, one cell per evidence in every row.

    Raises:
        ValueError: no evidence.
        KeyError: no words for the target of an attack.
    """
    base = reference(evidences)
    rows = []
    for metric in dict.fromkeys(name for evidence in evidences for name in evidence.utility):
        rows.append(Row(label(metric), tuple(estimate(e.utility.get(metric), percent) for e in evidences)))
        if metric == "accuracy":
            rows += _change("points", [accuracy(e) for e in evidences], base)
    found = [Section("Utility on test", tuple(rows))]
    for words in targets(evidences):
        asked = dict.fromkeys((r.attack, r.queries) for e in evidences for r in e.attacks if r.target == words.name)
        found += [_attack(evidences, base, words, *one) for one in asked]
    found.append(_criterion(evidences))
    if any(evidence.cost for evidence in evidences):
        opaque = Cell("–", note="the release is opaque: its cost is not known")
        rows = [
            Row(title, tuple(Cell(count(getattr(e.cost, field))) if e.cost else opaque for e in evidences))
            for field, title in COSTS.items()
        ]
        found.append(Section("Cost on the device", tuple(rows)))
    return tuple(section for section in found if section.rows)


def summary(evidences: Sequence[Evidence]) -> str:
    """The terminal table: aligned plain text within 110 columns, one column per subject, footnotes and caveats below.

    Subjects that do not fit side by side go to further blocks of the same rows.

    Args:
        evidences: audits to compare; the reference is the one called "none", else the first.

    Returns:
        Lines without trailing spaces, ending in a newline. Characters that would steer a terminal are shown as "?".

    Raises:
        ValueError: no evidence.

    Example:
        >>> utility = {"accuracy": Estimate(0.976, 0.96, 0.99)}
        >>> print(summary([Evidence("none", "digits", 0, "quick", {}, {}, utility, ())]))
        digits, seed 0, level quick
        <BLANKLINE>
                     none
        Utility on test
          accuracy   97.6% [96.0, 99.0]
    """
    found = sections(evidences)
    base = evidences[reference(evidences)]
    marks = footnotes(found)
    labels = [section.title for section in found] + ["  " + row.label for section in found for row in section.rows]
    edge = min(max(map(len, labels), default=0) + 2, 44)
    blocks: list[list[list[str]]] = [[]]
    for number, evidence in enumerate(evidences):
        own = [row.cells[number] for section in found for row in section.rows]
        # A long name would push every other column off the line.
        column = [evidence.subject if len(evidence.subject) <= 24 else evidence.subject[:23] + "…"]
        # Values end in one column and intervals begin in one: numbers are compared by eye.
        left = max([len(cell.text) for cell in own], default=0)
        for cell in own:
            tail = " ".join(filter(None, (cell.interval, f"({marks[cell.note]})" if cell.note else "")))
            column.append(f"{cell.text:>{left}} {tail}".rstrip())
        width = max(map(len, column)) + 2
        column = [text.ljust(width) for text in column]
        if blocks[-1] and sum(len(c[0]) for c in blocks[-1]) + len(column[0]) > WIDTH - edge:
            blocks.append([])
        blocks[-1].append(column)
    sizes = "".join(
        f", {count(base.sizes[name])} {name}" for name in ("auxiliary", "validation", "test") if name in base.sizes
    )
    lines = textwrap.wrap(f"{base.dataset}, seed {base.seed}, level {base.level}{sizes}", WIDTH)
    for block in blocks:
        cells = ("".join(parts) for parts in zip(*block, strict=True))
        lines += ["", " " * edge + next(cells)]
        for section in found:
            lines.append(section.title[:WIDTH])
            for row in section.rows:
                text = ("    " if row.kind == "reference" else "  ") + row.label
                lines.append(f"{text[: edge - 1]:<{edge}}{next(cells)}")
    tail = [f"({number}) {note}" for note, number in marks.items()] + [f"! {c}" for c in caveats(evidences)]
    if tail:
        lines += ["", *(part for line in tail for part in textwrap.wrap(line, WIDTH, subsequent_indent="    "))]
    return "".join("".join(c if c.isprintable() else "?" for c in line).rstrip() + "\n" for line in lines)


def footnotes(found: Sequence[Section]) -> dict[str, int]:
    """Numbers the distinct notes of all cells from 1, in reading order."""
    notes = (cell.note for section in found for row in section.rows for cell in row.cells if cell.note)
    return {note: number for number, note in enumerate(dict.fromkeys(notes), 1)}


def estimate(value: Estimate | None, form: Formatter, missing: str = "not measured") -> Cell:
    """Formats an estimate; a missing one becomes "–" with its reason."""
    if value is None or value.value is None:
        return Cell("–", note=(value.note if value else "") or missing)
    if value.low is None or value.high is None:
        return Cell(form(value.value), note=value.note)
    # The unit stands behind the value already; rstrip takes characters, and no number ends in one of these.
    ends = ", ".join(form(end).rstrip("% dB") for end in (value.low, value.high))
    return Cell(form(value.value), f"[{ends}]", value.note)


def _attack(evidences: Sequence[Evidence], base: int, words: TargetWords, attack: str, queries: int) -> Section:
    """Every metric with its change and what it is read against, then the normalised leakage."""
    key = (attack, words.name, queries)
    results = [next((r for r in e.attacks if (r.attack, r.target, r.queries) == key), None) for e in evidences]
    ran = [r for r in results if r is not None]
    rows = []
    for metric in words.metrics:
        if not any(metric.name in r.scores for r in ran):
            continue
        form = UNITS[metric.unit]
        rows.append(Row(metric.label, tuple(_scored(r, metric.name, form) for r in results)))
        rows += _change(metric.change, [score(r, metric.name) for r in results], base)
        for name in dict.fromkeys(name for r in ran for name in r.references if metric.references):
            values = [Estimate(r.references.get(name)) if r else None for r in results]
            cells = (estimate(value, form, "reference not available") for value in values)
            rows.append(Row(label(name), tuple(cells), "reference"))
    if not words.leakage or any(r.leakage.value is not None for r in ran):
        rows.append(Row("normalised leakage", tuple(_scored(r, "leakage", ratio) for r in results)))
    # No attack of this family ran through: one row is kept, to say so.
    if not rows:
        rows.append(Row("score", tuple(_scored(r, words.strength, ratio) for r in results)))
    asked = "" if queries == 1 else f", {queries} releases"
    return Section(f"{words.title}: {attack} attack{asked}", tuple(rows))


def _criterion(evidences: Sequence[Evidence]) -> Section:
    """The criterion's numbers, each self-test of its estimator beside what it estimated."""
    title, found = "Inversion difficulty, nats", [evidence.criterion for evidence in evidences]
    if all(criterion is None for criterion in found):
        return Section(title, ())
    cells = []
    for criterion in found:
        if criterion is None:
            cells.append(Cell("–", note="the criterion was not asked for"))
            continue
        told = criterion.information
        spread = "" if told.stddev is None else f"± {told.stddev:.2f}"
        note = "; ".join(filter(None, (told.reason, *told.caveats, *criterion.caveats)))
        cells.append(Cell("–" if told.value is None else ratio(told.value), spread, note))
    rows = [Row("I(x; z + noise)", tuple(cells))]
    for truth in dict.fromkeys(test.truth for c in found if c for test in c.information.self_tests):
        cells = []
        for criterion in found:
            tests = criterion.information.self_tests if criterion else ()
            test = next((test for test in tests if test.truth == truth), None)
            if test is None or test.value is None:
                cells.append(Cell("–", note=(test.note if test else "") or "not tested"))
            else:
                cells.append(Cell(ratio(test.value), note="" if test.passed else f"the self-test failed: {test.note}"))
        rows.append(Row(f"its self-test, {truth:g} known", tuple(cells), "reference"))
    for field, name in CRITERION.items():
        values = [Estimate(getattr(c, field)) if c else None for c in found]
        rows.append(Row(name, tuple(estimate(v, ratio, "undefined, or not asked for") for v in values)))
    return Section(title, tuple(rows))


def _change(kind: str, values: Sequence[float | None], base: int) -> list[Row]:
    """The row of changes against ``values[base]``, see ``Metric.change``; no row where there is nothing to compare."""
    start = values[base]
    if not kind or start is None or len(values) == 1 or all(v is None for i, v in enumerate(values) if i != base):
        return []
    cells = []
    for value in values:
        if value is None:
            cells.append(Cell("–", note="not measured"))
        elif kind == "points":
            # Rounding can leave a minus in front of zero, which reads as a loss.
            cells.append(Cell(f"{100 * (value - start) + 0.0:+.1f} pt".replace("-0.0", "+0.0")))
        elif start <= 0:
            cells.append(Cell("–", note="no relative change: the reference is 0 or less"))
        else:
            cells.append(Cell(f"{100 * (value / start - 1):+,.0f}%".replace("-0%", "+0%")))
    cells[base] = Cell("ref.")
    return [Row("change in points" if kind == "points" else "change", tuple(cells), "change")]


def _scored(result: AttackResult | None, metric: str, form: Formatter) -> Cell:
    if result is None:
        return Cell("–", note="this attack was not run")
    if result.status != "ok":
        return Cell("failed", note=result.status)
    return estimate(read(result, metric), form)
