"""A frontier as a picture and as a self-contained page: no script, no external address."""

from collections.abc import Sequence
from typing import Any

import pandas

from ani_jax.frontier.points import front
from ani_jax.reporting import figures
from ani_jax.reporting.findings import percent, ratio
from ani_jax.reporting.frame import Frame
from ani_jax.reporting.frontier import POINT, REFERENCE, caveats, cell, findings, means, members, volumes
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
    rows = [
        {
            "name": title,
            "weights": ", ".join(part.replace("=", " ") for part in weights.split()),
            "accuracy": cell(right, "accuracy", percent),
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
        images=images,
        measures=measures,
        rows=rows,
        volumes=[
            (name, [cell(m, "volume", ratio) for _, m in covers.xs(name, level=1).iterrows()]) for name in defenses
        ],
        command=command,
    )
