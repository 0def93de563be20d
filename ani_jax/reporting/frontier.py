"""A frontier in numbers: means over seeds with their bands, who is not dominated, table and spreadsheet."""

import collections
import csv
import dataclasses
import io
from collections.abc import Sequence

from ani_jax.frontier.points import WORST, Frontier, Point, front, hypervolume, measures
from ani_jax.records import Estimate
from ani_jax.reporting.findings import Formatter, percent, ratio
from ani_jax.reporting.seeds import mean
from ani_jax.reporting.table import estimate
from ani_jax.reporting.text import aligned


@dataclasses.dataclass(frozen=True)
class Mean:
    """One defence at one multiplier over all seeds.

    Attributes:
        title: what the point is called.
        defense: its defence.
        multiplier: of its privacy weights.
        utility: mean accuracy with its 95% interval (Student's t over seeds; none of a single seed).
        leakage: mean leakage, likewise.
        seeds: (accuracy, leakage) of each seed.
        front: no other mean, of any defence, dominates this one.
    """

    title: str
    defense: str
    multiplier: float
    utility: Estimate
    leakage: Estimate
    seeds: tuple[tuple[float, float], ...]
    front: bool = False


@dataclasses.dataclass(frozen=True)
class Panel:
    """Utility against leakage by one measure.

    Attributes:
        measure: an attack, or the worst.
        means: every defence and multiplier that all seeds measured.
        volumes: defence -> mean over seeds of the hypervolume of its points.
    """

    measure: str
    means: tuple[Mean, ...]
    volumes: dict[str, Estimate]


def panels(frontier: Frontier) -> tuple[Panel, ...]:
    """The worst attack's panel, then every attack's own.

    A point that a seed did not measure is left out as a whole. A measure that leaves none is no panel; see :func:`caveats`.

    Args:
        frontier: all points.
    """
    found = []
    for measure in measures(frontier.points):
        means = []
        for members in cells(frontier.points).values():
            pairs = [(point.accuracy, point.leakage(measure)) for point in members]
            known = [(right, leaked) for right, leaked in pairs if right is not None and leaked is not None]
            # A mean over the seeds that went well would flatter the point.
            if len(known) == len(pairs):
                utility, leakage = (mean(values) for values in zip(*known, strict=True))
                first = members[0]
                means.append(Mean(first.title, first.defense, first.multiplier, utility, leakage, tuple(known)))
        if not means:
            continue
        on = front([m.utility.value or 0.0 for m in means], [m.leakage.value or 0.0 for m in means])
        means = [dataclasses.replace(m, front=best) for m, best in zip(means, on, strict=True)]
        names = dict.fromkeys(point.defense for point in frontier.points)
        volumes = {
            name: volume
            for name in names
            if (volume := _volume([p for p in frontier.points if p.defense == name], measure)) is not None
        }
        found.append(Panel(measure, tuple(means), volumes))
    return tuple(found)


def cells(points: Sequence[Point]) -> dict[tuple[str, float], list[Point]]:
    """The seeds of every defence and multiplier."""
    found: dict[tuple[str, float], list[Point]] = {}
    for point in points:
        found.setdefault((point.defense, point.multiplier), []).append(point)
    return found


def _volume(points: Sequence[Point], measure: str) -> Estimate | None:
    """Mean over seeds of one defence's hypervolume; a point that was not measured covers nothing, a seed needs at least one."""
    found = []
    for seed in dict.fromkeys(point.seed for point in points):
        own = [point for point in points if point.seed == seed]
        rows = [(p.accuracy, leaked, p.majority) for p in own if (leaked := p.leakage(measure)) is not None]
        known = [(right, leaked, least) for right, leaked, least in rows if right is not None and least is not None]
        if not known:
            return None
        utility, leakage, majority = zip(*known, strict=True)
        found.append(hypervolume(utility, leakage, max(majority)))
    return mean(found) if found else None


def findings(frontier: Frontier) -> tuple[str, ...]:
    """One sentence on who is not dominated under the worst attack, one on each defence's hypervolume."""
    found = [panel for panel in panels(frontier) if panel.measure == WORST]
    if not found:
        return ("No point has both an accuracy and a leakage.",)
    best = sorted((m for m in found[0].means if m.front), key=lambda m: -(m.utility.value or 0.0))
    named = "; ".join(f"{m.title} ({percent(m.utility.value or 0)}, leakage {_text(m.leakage, ratio)})" for m in best)
    volumes = "; ".join(f"{name} {_text(volume, ratio)}" for name, volume in found[0].volumes.items())
    return (
        f"Not dominated under the worst attack, {len(best)} of {len(found[0].means)}: {named}.",
        f"Hypervolume under the worst attack: {volumes}.",
    )


def caveats(frontier: Frontier) -> tuple[str, ...]:
    """Members that could not be trained, attacks that failed, and what the number of seeds allows to say."""
    found = []
    for point in frontier.points:
        title = f"{point.title}, seed {point.seed}"
        if point.status != "ok":
            found.append(f"{title}: {point.status}; it is no point of the frontier")
        found += [
            f"{title}: {leak.measure} {leak.status}; it says nothing about privacy"
            for leak in point.leaks
            if leak.status != "ok"
        ]
    undefined = collections.Counter(
        (leak.measure, point.seed)
        for point in frontier.points
        for leak in point.leaks
        if leak.status == "ok" and leak.leakage is None
    )
    found += [
        f"{measure}, seed {seed}: its leakage is not defined at {count} points, for which neither it nor its mean over seeds is "
        "shown, and which the worst attack does not count"
        for (measure, seed), count in undefined.items()
    ]
    if len({point.seed for point in frontier.points}) == 1:
        found.append("one seed: no band can be given")
    return tuple(found)


def table(frontier: Frontier) -> str:
    """Aligned text: every point's means under the worst attack, "*" where it is not dominated, and the hypervolumes."""
    rows = [("", "client", "accuracy", "worst leakage")]
    for panel in panels(frontier):
        if panel.measure == WORST:
            rows += [
                ("*" if m.front else "", m.title, _text(m.utility, percent), _text(m.leakage, ratio))
                for m in panel.means
            ]
    # Of two findings the first says in words what the rows say.
    return "\n".join([aligned(rows), "", findings(frontier)[-1], *(f"! {caveat}" for caveat in caveats(frontier))])


def as_csv(frontier: Frontier) -> str:
    """All points: a row for every member and attack, and one for its worst attack; ``front`` is said of means over seeds."""
    on = {(p.measure, m.defense, m.multiplier) for p in panels(frontier) for m in p.means if m.front}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ("defense", "multiplier", "weights", "seed", "accuracy", "majority", "measure", "score", "leakage", "front")
    writer.writerow((*head, "status"))
    for point in frontier.points:
        weights = " ".join(f"{name}={value:g}" for name, value in point.weights.items())
        member = (point.defense, point.multiplier, weights, point.seed, point.accuracy, point.majority)
        rows = [(WORST, None, point.leakage(WORST), point.status)]
        rows += [(leak.measure, leak.score, leak.leakage, leak.status) for leak in point.leaks]
        for measure, score, leaked, status in rows:
            best = (measure, point.defense, point.multiplier) in on
            writer.writerow((*member, measure, score, leaked, int(best), status))
    return out.getvalue()


def _text(value: Estimate, form: Formatter) -> str:
    cell = estimate(value, form)
    return f"{cell.text} {cell.interval}".rstrip()
