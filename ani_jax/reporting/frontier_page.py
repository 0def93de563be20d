"""A frontier as a picture and as a self-contained page: no script, no external address."""

from collections.abc import Sequence
from typing import Any

from ani_jax.frontier.points import REFERENCE, Frontier, front
from ani_jax.reporting import figures
from ani_jax.reporting.findings import percent, ratio
from ani_jax.reporting.frontier import Mean, Panel, caveats, cells, findings, panels
from ani_jax.reporting.page import Image, data_uri, document
from ani_jax.reporting.seeds import mean
from ani_jax.reporting.table import estimate


def figure(found: Sequence[Panel], columns: int = 3, names: Sequence[str] = ()) -> bytes:
    """Utility against leakage, a panel for every measure; lower and further right is better.

    Small marks are seeds, large ones means, filled where nothing dominates them. Stairs join a defence's own undominated means;
    the band is the 95% interval of its leakage, thin bars that of its accuracy.

    Args:
        found: the panels.
        columns: panels in a row.
        names: every defence's, each once, in the order of colours and markers; by default those in the panels.

    Returns:
        An SVG document.

    Raises:
        ValueError: no panel.
    """
    if not found:
        raise ValueError("panels: no point has both an accuracy and a leakage; nothing to draw")
    # Given from outside for a panel alone: a defence that it lacks must not shift the others' colours.
    names = names or _names(found)
    with figures.styled():
        drawn, axes = figures.grid(len(found), columns)
        for axis, panel in zip(axes, found, strict=True):
            for number, name in enumerate(names):
                _draw(axis, [m for m in panel.means if m.defense == name], number)
            seen = [leaked for m in panel.means for _, leaked in m.seeds]
            # Intervals over two or three seeds are wide: they may leave the picture, the points may not.
            axis.set_ylim(min(0.0, *seen) - 0.06, max(1.0, *seen) + 0.06)
            right = [100 * accuracy for m in panel.means for accuracy, _ in m.seeds]
            margin = 0.06 * (max(right) - min(right)) + 1
            axis.set_xlim(min(right) - margin, max(right) + margin)
            axis.axhline(0, color=figures.MUTED, linewidth=0.9, linestyle="--")
            axis.set_title(figures.drawable(panel.measure))
            axis.set_xlabel("accuracy on the task, %")
            axis.set_ylabel("leakage")
        figures.legend(drawn, axes)
        return figures.svg(drawn)


def _names(found: Sequence[Panel]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(m.defense for panel in found for m in panel.means))


def _draw(axis: Any, means: Sequence[Mean], number: int) -> None:
    if not means:
        return
    colour = figures.COLOURS[number % len(figures.COLOURS)]
    marker = figures.MARKERS[number % len(figures.MARKERS)]
    means = sorted(means, key=lambda m: m.utility.value or 0.0)
    x, y = ([100 * (m.utility.value or 0.0) for m in means], [m.leakage.value or 0.0 for m in means])
    own = front(x, y)
    stairs = [(u, v) for u, v, best in zip(x, y, own, strict=True) if best]
    # Who needs an accuracy between two points has to take the right one, and its leakage: hence stairs.
    axis.plot(*zip(*stairs, strict=True), color=colour, linewidth=1.3, drawstyle="steps-pre")
    if len(means) > 1 and all(m.leakage.low is not None for m in means):
        axis.fill_between(
            x, [m.leakage.low for m in means], [m.leakage.high for m in means], color=colour, alpha=0.13, lw=0
        )
    for m, right, leaked in zip(means, x, y, strict=True):
        seeds = [(100 * accuracy, value) for accuracy, value in m.seeds]
        axis.plot(*zip(*seeds, strict=True), linestyle="", marker=marker, markersize=3, alpha=0.45, color=colour)
        if m.utility.low is not None and m.utility.high is not None:
            axis.plot((100 * m.utility.low, 100 * m.utility.high), (leaked, leaked), color=colour, linewidth=0.7)
        face = colour if m.front else figures.PAPER
        axis.plot(right, leaked, linestyle="", marker=marker, markersize=7, color=colour, markerfacecolor=face)
    # The legend shows a filled mark whichever of the points are filled here.
    axis.plot([], [], linestyle="", marker=marker, markersize=7, color=colour, label=figures.drawable(means[0].defense))


def render(frontier: Frontier, *, command: str) -> str:
    """The report as one HTML document; equal inputs give equal bytes, and every name is escaped.

    Args:
        frontier: all points.
        command: what reproduces it.

    Raises:
        ValueError: nothing to draw.
    """
    found = panels(frontier)
    names = _names(found)
    compared = [point.defense for point in frontier.points if point.defense.split()[0] != REFERENCE]
    images = []
    for panel in found:
        best = ", ".join(m.title for m in panel.means if m.front)
        alt = f"Accuracy against leakage by {panel.measure}; not dominated: {best}. The table has the numbers."
        images.append(Image(data_uri("svg+xml", figure((panel,), 1, names)), alt))
    rows = []
    for (name, multiplier), members in cells(frontier.points).items():
        rights = [point.accuracy for point in members if point.accuracy is not None]
        of = [next((m for m in p.means if (m.defense, m.multiplier) == (name, multiplier)), None) for p in found]
        rows.append(
            {
                "name": members[0].title,
                "weights": ", ".join(f"{weight} {value:g}" for weight, value in members[0].weights.items()),
                "accuracy": estimate(mean(rights) if len(rights) == len(members) else None, percent),
                "cells": [(estimate(m and m.leakage, ratio), bool(m and m.front)) for m in of],
            }
        )
    defenses = dict.fromkeys(point.defense for point in frontier.points)
    return document(
        "frontier.html",
        frontier=frontier,
        title=f"{', '.join(dict.fromkeys(compared))} on {frontier.dataset}",
        seeds=len({point.seed for point in frontier.points}),
        headlines=findings(frontier),
        caveats=caveats(frontier),
        images=images,
        measures=[panel.measure for panel in found],
        rows=rows,
        volumes=[(name, [estimate(panel.volumes.get(name), ratio) for panel in found]) for name in defenses],
        command=command,
    )
