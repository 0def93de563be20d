"""A frontier as pictures and as a self-contained page: no script, no external address."""

import math
from collections.abc import Sequence
from typing import Any

import pandas
from matplotlib.ticker import MaxNLocator

from ani_jax.frontier.points import front
from ani_jax.reporting import figures
from ani_jax.reporting.findings import percent, ratio
from ani_jax.reporting.frame import Frame, select
from ani_jax.reporting.frontier import POINT, REFERENCE, WORST, caveats, cell, findings, means, members, volumes
from ani_jax.reporting.page import Image, data_uri, document
from ani_jax.reporting.seeds import mean


def figure(points: Frame, measures: Sequence[str] = (), columns: int = 3) -> bytes:
    """Utility against leakage, a panel for every measure; lower and further right is better.

    Small marks are seeds, large ones means, filled where nothing dominates them. Stairs join a defence's own undominated means;
    the band is the 95% interval of its leakage, thin bars that of its accuracy.

    Args:
        points: the frontier.
        measures: the panels, by default one for every measure.
        columns: panels in a row.

    Returns:
        An SVG document.

    Raises:
        ValueError: nothing to draw.
    """
    found = means(points)
    if found.empty:
        raise ValueError("points: none has both an accuracy and a leakage; nothing to draw")
    seeds = members(points).merge(found[["measure", "defense", "multiplier"]])
    measures = measures or [*found.measure.unique()]
    with figures.styled():
        drawn, axes = figures.grid(len(measures), columns)
        for axis, measure in zip(axes, measures, strict=True):
            own, seen = found[found.measure == measure], seeds[seeds.measure == measure]
            # Counted over all panels: a defence that one lacks must not shift the others' colours.
            for number, name in enumerate(found.defense.unique()):
                _draw(axis, own[own.defense == name], seen[seen.defense == name], number)
            # Intervals over two or three seeds are wide: they may leave the picture, the points may not.
            axis.set_ylim(min(0.0, seen.leakage.min()) - 0.06, max(1.0, seen.leakage.max()) + 0.06)
            right = 100 * seen.accuracy
            margin = 0.06 * (right.max() - right.min()) + 1
            axis.set_xlim(right.min() - margin, right.max() + margin)
            axis.axhline(0, color=figures.MUTED, linewidth=0.9, linestyle="--")
            axis.set_title(figures.drawable(measure))
            axis.set_xlabel("accuracy on the task, %")
            axis.set_ylabel("leakage")
        figures.legend(drawn, axes)
        return figures.svg(drawn)


def _draw(axis: Any, own: Frame, seeds: Frame, number: int) -> None:
    if own.empty:
        return
    colour = figures.COLOURS[number % len(figures.COLOURS)]
    marker = figures.MARKERS[number % len(figures.MARKERS)]
    own = own.sort_values("accuracy", kind="stable")
    stairs = own[[*front(own.accuracy, own.leakage)]]
    # Who needs an accuracy between two points has to take the right one, and its leakage: hence stairs.
    axis.plot(100 * stairs.accuracy, stairs.leakage, color=colour, linewidth=1.3, drawstyle="steps-pre")
    if len(own) > 1 and own.leakage_low.notna().all():
        axis.fill_between(100 * own.accuracy, own.leakage_low, own.leakage_high, color=colour, alpha=0.13, lw=0)
    for m in own.itertuples():
        one = seeds[seeds.multiplier == m.multiplier]
        axis.plot(100 * one.accuracy, one.leakage, linestyle="", marker=marker, markersize=3, alpha=0.45, color=colour)
        if pandas.notna(m.accuracy_low):
            ends = (100 * m.accuracy_low, 100 * m.accuracy_high)
            axis.plot(ends, (m.leakage, m.leakage), color=colour, linewidth=0.7)
        face = colour if m.front else figures.PAPER
        place = (100 * m.accuracy, m.leakage)
        axis.plot(*place, linestyle="", marker=marker, markersize=7, color=colour, markerfacecolor=face)
    # The legend shows a filled mark whichever of the points are filled here.
    axis.plot(
        [], [], linestyle="", marker=marker, markersize=7, color=colour, label=figures.drawable(own.defense.iloc[0])
    )


SIZE, EDGE = (720, 400), 48
"""Of the picture of all points, in its own units: width and height, and what its axes take."""
SHAPES = (
    "M-1,0a1,1 0 1,0 2,0a1,1 0 1,0 -2,0z",
    "M-.9,-.9h1.8v1.8h-1.8z",
    "M0,-1.25L1.25,0L0,1.25L-1.25,0z",
    "M0,-1.15L1.1,.85H-1.1z",
)
"""Marks of radius 1. With as many colours each, two dozen defences look like nobody else."""


def scatter(points: Frame) -> dict[str, Any]:
    """Every point under the worst attack, as an SVG that a template draws: hover tells all of it, and its report is a link.

    Args:
        points: the frontier.

    Returns:
        "marks" with place, size (by the client's cost, on a logarithmic scale), number of the defence, what a reader is told and
        where its report is; "names" of the defences with colour and shape; ticks "across" and "down"; "size" and "edge".
    """
    found = select(members(points), measure=WORST).dropna(subset=["accuracy", "leakage"])
    (width, height), names = SIZE, [*points.defense.unique()]
    # A twentieth of the range beyond the outermost points.
    low, high = found.accuracy.min(), found.accuracy.max()
    left, right = low - 0.05 * (high - low) - 0.005, min(1.0, high + 0.05 * (high - low) + 0.005)
    bottom, top = min(0.0, found.leakage.min()) - 0.03, max(1.0, found.leakage.max()) + 0.03

    def across(accuracy: float) -> float:
        return round(EDGE + (accuracy - left) / (right - left) * (width - EDGE - 12), 1)

    def down(leakage: float) -> float:
        return round(12 + (top - leakage) / (top - bottom) * (height - EDGE - 12), 1)

    least = found.macs[found.macs > 0].min()
    marks = []
    for m in found.itertuples():
        number, costs = names.index(m.defense), not pandas.isna(m.macs)
        more = math.log10(m.macs / least) if costs and m.macs > least else 0.0
        told = f"{m.title}, seed {m.seed}: accuracy {percent(m.accuracy)}, leakage {ratio(m.leakage)}"
        marks.append(
            {
                "x": across(m.accuracy),
                "y": down(m.leakage),
                "size": round(4.5 + 2.5 * min(more, 4.0), 1),
                "number": number,
                "told": told + (f", {m.macs:,.0f} MACs" if costs else ""),
                "report": m.report,
            }
        )
    return {
        "marks": sorted(marks, key=lambda mark: -mark["size"]),
        "names": [
            (name, figures.COLOURS[n % len(figures.COLOURS)], SHAPES[n // len(figures.COLOURS) % len(SHAPES)])
            for n, name in enumerate(names)
        ],
        "across": [(across(x), percent(x)) for x in MaxNLocator(6).tick_values(left, right) if left <= x <= right],
        "down": [(down(y), ratio(y)) for y in MaxNLocator(5).tick_values(bottom, top) if bottom <= y <= top],
        "size": SIZE,
        "edge": EDGE,
    }


def render(points: Frame, *, dataset: str, level: str, command: str) -> str:
    """The report as one HTML document; equal inputs give equal bytes, and every name is escaped.

    Args:
        points: the frontier.
        dataset: catalogue name.
        level: of the audits.
        command: what reproduces it.

    Raises:
        ValueError: nothing to draw.
    """
    found, defenses = means(points), points.defense.unique()
    measures, images = [*found.measure.unique()], []
    for measure, own in found.groupby("measure", sort=False):
        best = ", ".join(own.title[own.front])
        alt = f"Accuracy against leakage by {measure}; not dominated: {best}. The table has the numbers."
        images.append(Image(data_uri("svg+xml", figure(points, [measure], 1)), alt))
    clients = points.drop_duplicates(["title", "seed"]).groupby(["title", "weights"], sort=False)
    rights = mean(clients["accuracy"])
    titles = rights.index.get_level_values("title")
    leaked = found.set_index(["title", "measure"]).reindex(pandas.MultiIndex.from_product([titles, measures]))
    costs = points.groupby("title").macs.mean()
    rows = [
        {
            "name": title,
            "weights": ", ".join(part.replace("=", " ") for part in weights.split()),
            "accuracy": cell(right, "accuracy", percent),
            "macs": "" if pandas.isna(cost := costs[title]) else f"{cost:,.0f}",
            "cells": [(cell(m, "leakage", ratio), m.front == 1) for _, m in leaked.loc[title].iterrows()],
        }
        for (title, weights), right in rights.iterrows()
    ]
    covers = volumes(points).reindex(pandas.MultiIndex.from_product([measures, defenses]))
    return document(
        "frontier.html",
        points=len(points.drop_duplicates(POINT)),
        level=level,
        title=f"{', '.join(name for name in defenses if name.split()[0] != REFERENCE)} on {dataset}",
        seeds=points.seed.nunique(),
        headlines=findings(points),
        caveats=caveats(points),
        plot=scatter(points) if WORST in measures else None,
        images=images,
        measures=measures,
        rows=rows,
        volumes=[
            (name, [cell(m, "volume", ratio) for _, m in covers.xs(name, level=1).iterrows()]) for name in defenses
        ],
        command=command,
    )
