"""What the evidence says, as rows of formatted cells: the terminal table, and the same rows for the page."""

import dataclasses
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence

from ani_jax.records import AttackResult, Criterion, Estimate, Evidence, SelfTest
from ani_jax.reporting.findings import caveats, count, decibel, percent, ratio, reference, score, small

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


Formatter = Callable[[float], str]
ATTRIBUTE: dict[str, tuple[str, Formatter]] = {
    "balanced_accuracy": ("balanced accuracy", percent),
    "auc": ("AUC", ratio),
}
IMAGE: dict[str, tuple[str, Formatter]] = {
    "mse": ("MSE", small),
    "mse_worst": ("MSE, most leaked 5%", small),
    "psnr": ("PSNR", decibel),
    "ssim": ("SSIM", ratio),
    "r2_mean": ("R² over mean", ratio),
    "r2_class_mean": ("R² over class mean", ratio),
    "retrieval": ("retrieval, top-1", percent),
}
REFERENCES = {
    "chance": "chance",
    "majority": "majority class",
    "label_mediated": "label-mediated",
    "raw_input": "raw input",
    "random_encoder": "random encoder",
    "mse_mean_image": "MSE of the mean image",
    "mse_class_mean": "MSE of the class mean",
}
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
    """
    base = reference(evidences)
    keys = dict.fromkeys((r.attack, r.target, r.queries) for evidence in evidences for r in evidence.attacks)
    attacks = [_attack(evidences, base, *key) for key in keys]
    found = [_utility(evidences, base), *attacks, _criterion(evidences), _cost(evidences)]
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
        digits, seed 0, budget quick
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
    columns = [_column(e.subject, i, found, marks) for i, e in enumerate(evidences)]
    lines = textwrap.wrap(f"{base.dataset}, seed {base.seed}, budget {base.budget}{_sizes(base.sizes)}", WIDTH)
    for block in _blocks(columns, WIDTH - edge):
        lines += ["", *_lines(found, edge, block)]
    tail = [f"({number}) {note}" for note, number in marks.items()] + [f"! {c}" for c in caveats(evidences)]
    if tail:
        lines += ["", *(part for line in tail for part in textwrap.wrap(line, WIDTH, subsequent_indent="    "))]
    return "\n".join(_printable(line).rstrip() for line in lines) + "\n"


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
    ends = ", ".join(form(end).rstrip("% dB") for end in (value.low, value.high))
    return Cell(form(value.value), f"[{ends}]", value.note)


def _utility(evidences: Sequence[Evidence], base: int) -> Section:
    rows = []
    for metric in dict.fromkeys(name for evidence in evidences for name in evidence.utility):
        values = [evidence.utility.get(metric) for evidence in evidences]
        rows.append(Row(_words(metric), tuple(estimate(v, percent) for v in values)))
        if metric == "accuracy":
            rows += _change("change in points", [v and v.value for v in values], base, _points)
    return Section("Utility on test", tuple(rows))


def _attack(evidences: Sequence[Evidence], base: int, attack: str, target: str, queries: int) -> Section:
    results = [_find(evidence, attack, target, queries) for evidence in evidences]
    forms = IMAGE if target == "image" else ATTRIBUTE
    rows = []
    for metric, (label, form) in forms.items():
        if not any(metric in r.scores for r in results if r):
            continue
        rows.append(Row(label, tuple(_scored(r, metric, form) for r in results)))
        values = [score(r, metric) for r in results]
        if metric in ("mse", "r2_class_mean"):
            rows += _change("change", values, base, _relative)
        if metric == "balanced_accuracy":
            rows += _change("change in points", values, base, _points)
        if metric in ("mse", "balanced_accuracy"):
            rows += _references(results, small if metric == "mse" else percent)
    if any(r and (r.leakage.value is not None or target != "image") for r in results):
        rows.append(Row("normalised leakage", tuple(_leakage(r) for r in results)))
    if not rows:
        rows.append(Row("score", tuple(_scored(r, "", ratio) for r in results)))
    asked = "" if queries == 1 else f", {queries} releases"
    return Section(f"{_title(target)}: {attack} attack{asked}", tuple(rows))


def _criterion(evidences: Sequence[Evidence]) -> Section:
    """The criterion's numbers, each self-test of its estimator beside what it estimated."""
    title, found = "Inversion difficulty, nats", [evidence.criterion for evidence in evidences]
    if all(criterion is None for criterion in found):
        return Section(title, ())
    rows = [Row("I(x; z + noise)", tuple(_information(criterion) for criterion in found))]
    for truth in dict.fromkeys(test.truth for c in found if c for test in c.information.self_tests):
        tests = [next((t for t in c.information.self_tests if t.truth == truth), None) if c else None for c in found]
        rows.append(Row(f"its self-test, {truth:g} known", tuple(_self_test(test) for test in tests), "reference"))
    for field, label in CRITERION.items():
        values = [Estimate(getattr(c, field)) if c else None for c in found]
        rows.append(Row(label, tuple(estimate(v, ratio, "undefined, or not asked for") for v in values)))
    return Section(title, tuple(rows))


def _information(criterion: Criterion | None) -> Cell:
    if criterion is None:
        return Cell("–", note="the criterion was not asked for")
    told = criterion.information
    spread = "" if told.stddev is None else f"± {told.stddev:.2f}"
    note = "; ".join(filter(None, (told.reason, *told.caveats, *criterion.caveats)))
    return Cell("–" if told.value is None else ratio(told.value), spread, note)


def _self_test(test: SelfTest | None) -> Cell:
    if test is None or test.value is None:
        return Cell("–", note=(test.note if test else "") or "not tested")
    return Cell(ratio(test.value), note="" if test.passed else f"the self-test failed: {test.note}")


def _cost(evidences: Sequence[Evidence]) -> Section:
    if all(evidence.cost is None for evidence in evidences):
        return Section("Cost on the device", ())
    opaque = Cell("–", note="the release is opaque: its cost is not known")
    rows = [
        Row(label, tuple(Cell(count(getattr(e.cost, field))) if e.cost else opaque for e in evidences))
        for field, label in COSTS.items()
    ]
    return Section("Cost on the device", tuple(rows))


def _references(results: Sequence[AttackResult | None], form: Formatter) -> Iterator[Row]:
    for name in dict.fromkeys(name for r in results if r for name in r.references):
        values = [Estimate(r.references.get(name)) if r else None for r in results]
        label = REFERENCES.get(name, _words(name))
        yield Row(label, tuple(estimate(v, form, "reference not available") for v in values), "reference")


def _change(label: str, values: Sequence[float | None], base: int, form: Callable[[float, float], Cell]) -> list[Row]:
    """The row of changes against ``values[base]``; no row where there is nothing to compare."""
    start = values[base]
    if start is None or len(values) == 1 or all(v is None for i, v in enumerate(values) if i != base):
        return []
    cells = [Cell("–", note="not measured") if v is None else form(start, v) for v in values]
    cells[base] = Cell("ref.")
    return [Row(label, tuple(cells), "change")]


def _points(start: float, end: float) -> Cell:
    return Cell(f"{100 * (end - start) + 0.0:+.1f} pt".replace("-0.0", "+0.0"))


def _relative(start: float, end: float) -> Cell:
    if start <= 0:
        return Cell("–", note="no relative change: the reference is 0 or less")
    return Cell(f"{100 * (end / start - 1):+,.0f}%".replace("-0%", "+0%"))


def _scored(result: AttackResult | None, metric: str, form: Formatter) -> Cell:
    if result is None:
        return Cell("–", note="this attack was not run")
    if result.status != "ok":
        return Cell("failed", note=result.status)
    return estimate(result.scores.get(metric), form)


def _leakage(result: AttackResult | None) -> Cell:
    if result is None or result.status != "ok":
        return _scored(result, "", ratio)
    return estimate(result.leakage, ratio)


def _find(evidence: Evidence, attack: str, target: str, queries: int) -> AttackResult | None:
    try:
        return evidence.attack(attack, target, queries)
    except KeyError:
        return None


def _column(subject: str, index: int, found: Sequence[Section], marks: Mapping[str, int]) -> list[str]:
    """One subject's cells, header first: values right-aligned, intervals left-aligned, all of one width."""
    cells = [row.cells[index] for section in found for row in section.rows]
    head = subject if len(subject) <= 24 else subject[:23] + "…"
    left = max([len(cell.text) for cell in cells], default=0)
    tails = [" ".join(filter(None, (cell.interval, f"({marks[cell.note]})" if cell.note else ""))) for cell in cells]
    texts = [head, *(f"{cell.text:>{left}} {tail}".rstrip() for cell, tail in zip(cells, tails, strict=True))]
    width = max(map(len, texts)) + 2
    return [text.ljust(width) for text in texts]


def _blocks(columns: Sequence[list[str]], room: int) -> list[list[list[str]]]:
    """Packs columns greedily into blocks whose widths fit ``room``; a block holds at least one column."""
    blocks: list[list[list[str]]] = [[]]
    for column in columns:
        if blocks[-1] and sum(len(c[0]) for c in blocks[-1]) + len(column[0]) > room:
            blocks.append([])
        blocks[-1].append(column)
    return blocks


def _lines(found: Sequence[Section], edge: int, block: Sequence[list[str]]) -> Iterator[str]:
    cells = (list(parts) for parts in zip(*block, strict=True))
    yield " " * edge + "".join(next(cells))
    for section in found:
        yield section.title[:WIDTH]
        for row in section.rows:
            label = ("    " if row.kind == "reference" else "  ") + row.label
            yield f"{label[: edge - 1]:<{edge}}" + "".join(next(cells))


def _sizes(sizes: Mapping[str, int]) -> str:
    return "".join(
        f", {count(sizes[name])} {_words(name)}" for name in ("auxiliary", "validation", "test") if name in sizes
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _title(target: str) -> str:
    return "Image" if target == "image" else f"Attribute {target}"


def _printable(line: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in line)
