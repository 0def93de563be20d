"""What the evidence says, as rows of formatted cells: the terminal table, and the same rows for the page."""

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence

from ani_jax.records import Estimate, Evidence, TargetWords
from ani_jax.reporting.findings import (
    UNITS,
    Formatter,
    caveats,
    count,
    label,
    percent,
    points,
    ratio,
    reference,
    small,
    targets,
)
from ani_jax.reporting.frame import CRITERION, LEAKAGE, Frame, frame, read, select

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


COSTS = {
    "parameters": "client parameters",
    "macs": "MACs per input",
    "floats": "floats sent per query",
    "bytes_quantised": "bytes sent, 8 bits",
    "bytes_raw": "bytes of the raw input",
    "channels": "channels sent",
    "live_channels": "of these say something of their own",
}


def sections(evidences: Sequence[Evidence]) -> tuple[Section, ...]:
    """All rows of the report, one cell per evidence in every row.

    Raises:
        ValueError: no evidence.
        KeyError: no words for the target of an attack.
    """
    base, runs, found = reference(evidences), range(len(evidences)), frame(evidences)
    rows = []
    for metric in select(found, part="utility").metric.unique():
        numbers = read(found, part="utility", metric=metric)
        rows.append(_row(label(metric), numbers, runs, percent))
        if metric == "accuracy":
            rows += _change("points", numbers, runs, base)
    told = [Section("Utility on test", tuple(rows))]
    for words in targets(evidences):
        attacks = select(found, target=words.name).groupby(["attack", "queries"], sort=False)
        told += [_attack(own, runs, base, words, *which) for which, own in attacks]
    told += [_controls(found, runs), _criterion(found, runs)]
    if (found.part == "cost").any():
        opaque = "the release is opaque: its cost is not known"
        costs = [(title, read(found, part="cost", metric=field)) for field, title in COSTS.items()]
        # Vectors have no channels.
        known = [(title, numbers) for title, numbers in costs if any(one.value is not None for one in numbers.values())]
        rows = [_row(title, numbers, runs, count, opaque) for title, numbers in known]
        told.append(Section("Cost on the device", tuple(rows)))
    return tuple(section for section in told if section.rows)


def parts(evidences: Sequence[Evidence]) -> tuple[Section, ...]:
    """Whom the strongest attack on each target reads: its strength on parts of the test images, with their sizes.

    Raises:
        KeyError: no words for the target of an attack.
    """
    runs, found, told = range(len(evidences)), frame(evidences), []
    for words in targets(evidences):
        own = select(found, part="slice", target=words.name, queries=1, strongest=True)
        write, rows = UNITS[words.metric(words.strength).unit], []
        for name, part in own.groupby("metric", sort=False):
            row, sizes = _row(str(name), read(part), runs, write), part.set_index("run")["size"]
            cells = [
                dataclasses.replace(cell, interval=f"{cell.interval} n = {count(sizes[run])}".strip())
                if run in sizes
                else cell
                for run, cell in zip(runs, row.cells, strict=True)
            ]
            rows.append(dataclasses.replace(row, cells=tuple(cells)))
        told.append(Section(f"{words.title}: {words.metric(words.strength).label}", tuple(rows)))
    return tuple(section for section in told if section.rows)


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
        >>> print(summary([Evidence("none", "digits", 0, "standard", {}, {}, utility, ())]))
        digits, seed 0, level standard
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
    ends = ", ".join(form(end).rstrip("% dBpt") for end in (value.low, value.high))
    return Cell(form(value.value), f"[{ends}]", value.note)


def _attack(own: Frame, runs: range, base: int, words: TargetWords, attack: str, queries: int) -> Section:
    """Every metric with its change and what it is read against, then the normalised leakage."""
    status = own.drop_duplicates("run").set_index("run").status
    scores, references = select(own, part="attack"), select(own, part="reference")

    def scored(title: str, metric: str, form: Formatter) -> Row:
        row = _row(title, read(scores, metric=metric), runs, form)
        absent = {run: Cell("–", note="this attack was not run") for run in runs if run not in status}
        failed = {run: Cell("failed", note=reason) for run, reason in status.items() if reason != "ok"}
        return Row(title, tuple((absent | failed).get(run, cell) for run, cell in zip(runs, row.cells, strict=True)))

    rows = []
    for metric in words.metrics:
        if not (scores.metric == metric.name).any():
            continue
        form = UNITS[metric.unit]
        rows.append(scored(metric.label, metric.name, form))
        rows += _change(metric.change, read(scores, metric=metric.name, status="ok"), runs, base)
        for name in references.metric.unique() if metric.references else ():
            numbers = read(references, metric=name)
            rows.append(_row(label(name), numbers, runs, form, "reference not available", "reference"))
    if not words.leakage or select(scores, metric=LEAKAGE).value.notna().any():
        rows.append(scored("normalised leakage", LEAKAGE, ratio))
    # No attack of this family ran through: one row is kept, to say so.
    if not rows:
        rows.append(scored("score", words.strength, ratio))
    asked = "" if queries == 1 else f", {queries} releases"
    return Section(f"{words.title}: {attack} attack{asked}", tuple(rows))


def _controls(found: Frame, runs: range) -> Section:
    """What was found of every control, and below it what can be found."""
    rows = []
    for name in select(found, part="control").metric.unique():
        rows.append(_row(name, read(found, part="control", metric=name), runs, points, "no control of this client"))
        known = read(found, part="planted", metric=name)
        rows.append(_row("can be found", known, runs, points, "no control", "reference"))
    return Section(
        "Would the audit have noticed? Points over chance, of reconstructions 100 R² over the mean", tuple(rows)
    )


def _criterion(found: Frame, runs: range) -> Section:
    """The criterion's numbers, each self-test of its estimator beside what it estimated."""
    title, told = "Inversion difficulty, nats", select(found, part="criterion", metric="information")
    if told.empty:
        return Section(title, ())
    row = _row(CRITERION["information"], read(told), runs, ratio, "the criterion was not asked for")
    spread = {run: f"± {stddev:.2f}" for run, stddev in told.set_index("run").stddev.dropna().items()}
    cells = (dataclasses.replace(cell, interval=spread.get(run, "")) for run, cell in zip(runs, row.cells, strict=True))
    rows = [dataclasses.replace(row, cells=tuple(cells))]
    for truth, tests in select(found, part="self-test").groupby("metric", sort=False):
        short = (tests.status != "ok") & tests.value.notna()
        tests = tests.assign(note=tests.note.mask(short, "the self-test failed: " + tests.note))
        rows.append(_row(f"its self-test, {truth} known", read(tests), runs, ratio, "not tested", "reference"))
    for metric, name in CRITERION.items():
        numbers = read(found, part="criterion", metric=metric)
        if metric != "information" and numbers:
            write = small if name.endswith("MSE") else ratio
            rows.append(_row(name, numbers, runs, write, "undefined, or not asked for"))
    return Section(title, tuple(rows))


def _row(
    title: str,
    numbers: Mapping[int, Estimate],
    runs: range,
    form: Formatter,
    missing: str = "not measured",
    kind: str = "score",
) -> Row:
    return Row(title, tuple(estimate(numbers.get(run), form, missing) for run in runs), kind)


def _change(kind: str, numbers: Mapping[int, Estimate], runs: range, base: int) -> list[Row]:
    """The row of changes against the run ``base``, see ``Metric.change``; no row where there is nothing to compare."""
    values = [numbers[run].value if run in numbers else None for run in runs]
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
