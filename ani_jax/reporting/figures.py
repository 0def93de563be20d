"""Figures as SVG or PNG bytes, equal for equal inputs: training curves, utility against leakage, galleries.

matplotlib's object API only: no pyplot, no current figure. The SVGs carry a rule for dark pages; colours are Okabe and
Ito's, told apart by colour-blind readers, and every subject has a marker of its own.
"""

import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from ani_jax.records import Estimate, Evidence, Picture, TargetWords
from ani_jax.reporting.findings import targets
from ani_jax.reporting.frame import Frame, frame, read, select

INK, MUTED, PAPER = "#1f2933", "#68727d", "#ffffff"
DARK = {INK: "#e4e7eb", MUTED: "#9aa5b1", PAPER: "#16191d"}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
MARKERS = ("o", "D", "s", "^", "v", "P", "X", "*")
STYLE = {
    # Unsalted, the ids inside an SVG are random, and equal inputs would give unequal bytes.
    "svg.hashsalt": "ani_jax",
    # Outlines, since a reader's machine need not have the font.
    "svg.fonttype": "path",
    # A name with dollar signs is a name, not a formula.
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "legend.frameon": False,
}
PANEL = (3.1, 2.3)
POINTS = 600
Bars = tuple[float, list[list[float]] | None]
"""A value and matplotlib's asymmetric error bars for it."""


def scalars(metrics: Sequence[Mapping[str, Any]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Every logged number as (steps, values), nested mappings joined by "/"; "step" and "phase" are axes, not curves.

    Values that are not finite become gaps (NaN). Where no "step" was logged, the position in the log serves.

    Example:
        >>> list(scalars([{"step": 0, "loss": 2.0, "terms": {"ce": 1.0}}]))
        ['loss', 'terms/ce']
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for position, event in enumerate(metrics):
        for name, value in _flat(event):
            if name not in ("step", "phase"):
                found.setdefault(name, []).append((_step(event, position), value if math.isfinite(value) else math.nan))
    return {name: (np.array(p)[:, 0], np.array(p)[:, 1]) for name, p in found.items()}


def curves(metrics: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None, columns: int = 3) -> bytes:
    """Training curves: one small panel for every logged scalar, with a dotted line where a phase ends.

    Args:
        metrics: log events, each a mapping with "step", optionally "phase", and numbers or mappings of numbers.
        names: which scalars to draw, in this order (see :func:`scalars`); all of them by default.
        columns: panels in a row.

    Returns:
        An SVG document.

    Raises:
        ValueError: nothing to draw, or a name that was not logged.

    Example:
        >>> curves([{"step": 0, "loss": 2.0}, {"step": 10, "loss": 1.0}])[:5]
        b'<?xml'
    """
    found = scalars(metrics)
    names = tuple(found) if names is None else tuple(names)
    if not names or any(name not in found for name in names):
        raise ValueError(f"names is {names}: expected some of the logged scalars {tuple(found)}")
    phases = [(event["phase"], _step(event, position)) for position, event in enumerate(metrics) if "phase" in event]
    ends = [step for (old, _), (new, step) in itertools.pairwise(phases) if old != new]
    with styled():
        figure, axes = grid(len(names), columns)
        for axis, name, number in zip(axes, names, range(len(names)), strict=True):
            steps, values = found[name]
            stride = max(1, len(steps) // POINTS)
            # A line through a single value would not show.
            mark = "." if len(steps) < 3 else ""
            axis.plot(steps[::stride], values[::stride], color=COLOURS[number % 4], linewidth=1.4, marker=mark)
            for end in ends:
                axis.axvline(end, color=MUTED, linewidth=0.8, linestyle=":")
            axis.set_title(drawable(name.replace("_", " ").replace("/", " / ")))
            axis.set_xlabel("step")
        return svg(figure)


def scatter(evidences: Sequence[Evidence], measures: Sequence[str] | None = None, columns: int = 3) -> bytes:
    """Utility against leakage: one panel for every target, one point for every subject, bars are 95% intervals.

    Leakage is the strongest attack's, by the metric that the target names. A dashed line marks its floor; lower and further
    right is better. A subject without both values is left out.

    Args:
        evidences: audits to compare.
        measures: which targets to draw (see :func:`measured`), all by default.
        columns: panels in a row.

    Returns:
        An SVG document.

    Raises:
        ValueError: nothing to draw, or a target without any point.
    """
    available = measured(evidences)
    measures = available if measures is None else tuple(measures)
    if not measures or any(measure not in available for measure in measures):
        raise ValueError(f"measures is {tuple(measures)}: expected some of the measured targets {available}")
    words, found = {known.name: known for known in targets(evidences)}, frame(evidences)
    with styled():
        figure, axes = grid(len(measures), columns)
        for axis, target in zip(axes, measures, strict=True):
            for number, ((x, x_bars), (y, y_bars)) in _points(found, words[target]).items():
                axis.errorbar(
                    x,
                    y,
                    xerr=x_bars,
                    yerr=y_bars,
                    fmt=MARKERS[number % len(MARKERS)],
                    color=COLOURS[number % len(COLOURS)],
                    elinewidth=1.2,
                    markersize=7,
                    label=drawable(evidences[number].subject),
                )
            _frame(axis, words[target], found, "accuracy on the task, %")
        legend(figure, axes)
        return svg(figure)


def plateaus(evidence: Evidence, columns: int = 3) -> bytes | None:
    """How strong each trained attacker was after every stage of its training, one panel for every attack.

    Attackers that are trained to a plateau should end flat: where the thick line, the chosen attacker's, still rises, the
    result is a lower bound. A dashed line is the loss on rows that an attacker has learnt from, where the panel shows losses.

    Args:
        evidence: of one client.
        columns: panels in a row.

    Returns:
        An SVG document, None where nothing was trained in stages.
    """
    told = [result for result in evidence.attacks if any(len(one.curve) > 1 for one in result.attackers)]
    if not told:
        return None
    names = list(dict.fromkeys(one.name for result in told for one in result.attackers if one.curve))
    with styled():
        figure, axes = grid(len(told), columns)
        # Room for the names below the panels.
        figure.set_figheight(figure.get_figheight() + 0.2 * math.ceil(len(names) / columns))
        for axis, result in zip(axes, told, strict=True):
            words = evidence.words(result.target)
            metric = words.metric(words.strength)
            factor = 100.0 if metric.unit == "percent" else 1.0
            for one in result.attackers:
                if not one.curve:
                    continue
                number, steps = names.index(one.name), [look.steps for look in one.curve]
                values = [factor * look.strength if words.higher else look.loss for look in one.curve]
                axis.plot(
                    steps,
                    values,
                    color=COLOURS[number % len(COLOURS)],
                    marker=MARKERS[number % len(MARKERS)],
                    markersize=4,
                    linewidth=2.4 if one.name == result.chosen else 1.0,
                    label=drawable(one.name),
                )
                own = [math.nan if look.own is None else look.own for look in one.curve]
                if not words.higher:
                    axis.plot(steps, own, color=COLOURS[number % len(COLOURS)], linewidth=0.9, linestyle="--")
            asked = "" if result.queries == 1 else f", {result.queries} releases"
            axis.set_title(drawable(f"{result.attack} {result.target}{asked}"))
            axis.set_xscale("log", base=2)
            # matplotlib's own labels of a logarithmic axis are formulas, which are not parsed here.
            axis.set_xticks(sorted({look.steps for one in result.attackers for look in one.curve}))
            axis.xaxis.set_major_formatter("{x:,.0f}")
            axis.tick_params(axis="x", labelsize=7.5)
            axis.set_xlabel("steps, or rows of a library")
            axis.set_ylabel(drawable(f"{metric.label}{', %' if metric.unit == 'percent' else ''}"))
        legend(figure, axes)
        return svg(figure)


def variants(pairs: Mapping[str, Sequence[tuple[Evidence, Evidence]]], columns: int = 3) -> bytes:
    """Accuracy lost against leakage over seeds: a small mark a seed, a large one for a variant's mean.

    Args:
        pairs: name of a variant -> (undefended reference, run) of each seed.
        columns: panels in a row.

    Returns:
        An SVG document; one panel a target, the strongest attack with one release an image. Lower and further left is better.

    Raises:
        ValueError: nothing to draw.
    """
    everything = [run for runs in pairs.values() for _, run in runs]
    available = measured(everything)
    if not available:
        raise ValueError("pairs: no run has both an accuracy and an attack; nothing to draw")
    before, found = (frame(side) for side in zip(*(pair for runs in pairs.values() for pair in runs), strict=True))
    start = read(before, part="utility", metric="accuracy")
    owners = [name for name, runs in pairs.items() for _ in runs]
    with styled():
        figure, axes = grid(len(available), columns)
        for axis, words in zip(axes, (w for w in targets(everything) if w.name in available), strict=True):
            points = _points(found, words)
            for number, name in enumerate(pairs):
                drawn = [
                    (100 * (start[run].value or 0) - right, leaked)
                    for run, ((right, _), (leaked, _)) in points.items()
                    if owners[run] == name
                ]
                if not drawn:
                    continue
                x, y = zip(*drawn, strict=True)
                style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
                axis.plot(x, y, linestyle="", markersize=4, alpha=0.5, **style)
                axis.plot(np.mean(x), np.mean(y), linestyle="", markersize=9, label=drawable(name), **style)
            _frame(axis, words, found, "points of accuracy lost")
        legend(figure, axes, 2)
        return svg(figure)


def measured(evidences: Sequence[Evidence]) -> tuple[str, ...]:
    """The targets for which at least one subject has both accuracy and leakage."""
    found = frame(evidences)
    return tuple(words.name for words in targets(evidences) if _points(found, words))


def gallery(originals: Picture, rows: Mapping[str, Picture], width: int = 900) -> bytes:
    r"""A grid of originals above reconstructions, each row labelled, pixels enlarged to whole squares (never smoothed).

    Args:
        originals: (n, h, w, c) images.
        rows: label -> reconstructions of the same images in the same order.
        width: pixels that the grid should not exceed; images are shown at least at their own size.

    Returns:
        A PNG file.

    Raises:
        ValueError: a row's shape differs from the originals'.

    Example:
        >>> gallery(Picture.of(np.ones((2, 4, 4, 1))), {})[:4]
        b'\x89PNG'
    """
    for label, picture in rows.items():
        if picture.shape != originals.shape:
            raise ValueError(f"rows[{label!r}] has shape {picture.shape}: expected the originals' {originals.shape}")
    count, _, w, _ = originals.shape
    gap, line = 6, 34
    scale = max(1, (width - gap * (count + 1)) // (count * w))
    strips = []
    for picture in (originals, *rows.values()):
        pixels = picture.array().repeat(scale, axis=1).repeat(scale, axis=2)
        pixels = np.broadcast_to(pixels, (*pixels.shape[:3], 3))
        padded = np.pad(pixels, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
        strips.append(np.concatenate(list(padded), axis=1))
    pitch = strips[0].shape[0] + line
    size = (max(strips[0].shape[1] + gap, 320), pitch * len(strips) + gap)
    with styled():
        figure = Figure(figsize=(size[0] / 100, size[1] / 100), dpi=100)
        FigureCanvasAgg(figure)
        for number, (label, strip) in enumerate(zip(("original", *rows), strips, strict=True)):
            top = size[1] - pitch * number
            figure.text(gap / size[0], (top - line / 2) / size[1], drawable(label), fontsize=12, va="center")
            figure.figimage(strip, gap, top - pitch, origin="upper")
        out = io.BytesIO()
        # The version of matplotlib would be written into the file and make equal pictures differ.
        figure.savefig(out, format="png", dpi=100, metadata={"Software": None})
    return out.getvalue()


def _points(found: Frame, words: TargetWords) -> dict[int, tuple[Bars, Bars]]:
    """Run -> accuracy in percent and what leaks by the strongest attack, in the axis' unit; no run that lacks either."""
    leaked = read(found, target=words.name, part="attack", queries=1, strongest=True, metric=words.plotted)
    rights, leaks = _bars(read(found, part="utility", metric="accuracy"), 100.0), _bars(leaked, _factor(words))
    return {run: (right, leaks[run]) for run, right in rights.items() if run in leaks}


def _bars(numbers: Mapping[int, Estimate], factor: float) -> dict[int, Bars]:
    bars = {}
    for run, number in numbers.items():
        value, low, high = number.value, number.low, number.high
        if value is None:
            continue
        # An interval by resampling may miss its own value, and matplotlib refuses a bar of negative length.
        ends = (
            None
            if low is None or high is None
            else [[factor * max(0.0, value - low)], [factor * max(0.0, high - value)]]
        )
        bars[run] = (factor * value, ends)
    return bars


def _factor(words: TargetWords) -> float:
    return 100.0 if words.metric(words.plotted).unit == "percent" else 1.0


def _frame(axis: Any, words: TargetWords, found: Frame, utility: str) -> None:
    """The line at which nothing leaks, and what the axes show."""
    own = select(found, target=words.name, queries=1, strongest=True)
    floors = select(own, part="reference", metric=words.floor).value.dropna() if words.floor else 0.0 * own.run
    if len(floors):
        axis.axhline(_factor(words) * floors.iloc[0], color=MUTED, linewidth=0.9, linestyle="--")
    axis.margins(0.2)
    metric = words.metric(words.plotted)
    axis.set_title(drawable(f"{words.name}: {metric.label}{', %' if metric.unit == 'percent' else ''}"))
    axis.set_xlabel(utility)


def _flat(event: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in event.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        # To Python a bool is an int, but it is no curve.
        elif isinstance(value, int | float | np.number) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)


def _step(event: Mapping[str, Any], position: int) -> float:
    return float(event.get("step", position))


def grid(panels: int, columns: int) -> tuple[Figure, list[Any]]:
    """A figure with as many panels, ``columns`` in a row."""
    columns = max(1, min(columns, panels))
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(rows, columns, number + 1) for number in range(panels)]


def legend(figure: Figure, axes: Sequence[Any], columns: int = 3) -> None:
    """Names everything that is drawn once, below all panels."""
    handles = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, fontsize=8.5)


def svg(figure: Figure) -> bytes:
    """Serialises without a date, and repaints ink and paper where the reader prefers dark pages."""
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    # matplotlib writes colours into style attributes, over which a page's rule has to be !important.
    rules = "".join(
        f'[style*="fill: {light}"]{{fill:{dark}!important}}[style*="stroke: {light}"]{{stroke:{dark}!important}}'
        for light, dark in DARK.items()
    )
    head, mark, body = out.getvalue().partition(b"<defs>")
    return head + f"<style>@media (prefers-color-scheme:dark){{{rules}}}</style>".encode() + mark + body


def drawable(label: str) -> str:
    """The label with every character that the font lacks shown as "?"."""
    known = get_font(findfont("DejaVu Sans")).get_charmap()
    return "".join(c if c.isprintable() and ord(c) in known else "?" for c in label)


def styled() -> Any:
    """The defaults of matplotlib with our style on top, whatever the reader's matplotlibrc says; undone on leaving."""
    settings: Any = {k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith("backend")} | STYLE
    return matplotlib.rc_context(settings)
