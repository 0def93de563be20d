"""A frontier in numbers: what leaks at every point, means over seeds with their bands, who is not dominated.

Leakage is 0 where nothing is learnt beyond the floor and 1 where everything is, by the metric that each target names: normalised
leakage (METHODS 5.1) or one of its own. So the worst attack is the one that finds most, whatever it aims at.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas

from ani_jax.frontier.points import front, hypervolume
from ani_jax.records import BURST, Estimate, Evidence
from ani_jax.reporting.findings import Formatter, percent, ratio
from ani_jax.reporting.frame import LEAKAGE, Frame, frame, select
from ani_jax.reporting.seeds import mean
from ani_jax.reporting.table import Cell, estimate
from ani_jax.reporting.text import aligned

REFERENCE = "none"
"""Subject of the undefended reference, and first word of its name."""
FLOORS = ("chance", "label_mediated")
"""References that say what is known without z."""
WORST = "worst attack"
"""The measure that takes the attack which leaks most at each point."""
POINT = ["defense", "multiplier", "seed"]
"""Columns that tell points apart."""
LEAK = {"attack": str, "target": str, "queries": int, "score": float, "leakage": float, "status": str}
"""What is known of an attack at a point, and its type."""


def point(
    defense: str,
    multiplier: float,
    weights: Mapping[str, float],
    seed: int,
    accuracy: float | None = None,
    majority: float | None = None,
    leaks: Sequence[tuple[str, str, int, float | None, float | None, str]] = (),
    status: str = "ok",
    macs: int | None = None,
    report: str = "",
) -> Frame:
    """One member of a frontier, trained and audited: a row an attack, or one without an attack. Frontiers are concatenations.

    Args:
        defense: what it is called among the others.
        multiplier: of its privacy weights; 1 where it has none.
        weights: those weights.
        seed: of split, training and audit.
        accuracy: of the provider's answers on ``test``.
        majority: the accuracy of an answer that ignores what was sent.
        leaks: attack, target, number of releases of an image that it saw, score by the metric that says how strong an attack on
            this target is, leakage (None where it is not defined), and "ok" or "failed: <reason>".
        status: of a point without attacks: "ok", or why there is nothing to show.
        macs: multiply-accumulates that the client costs a device, per image.
        report: where its own page is, beside the frontier's; "" where it has none.

    Example:
        >>> found = point("funnel", 0.1, {"beta": 3.0}, 0, 0.97, 0.1, [("decoder", "image", 64, 0.01, 0.5, "ok")])
        >>> found[["title", "measure", "leakage"]].to_csv(index=False).splitlines()
        ['title,measure,leakage', 'funnel ×0.1,"image: decoder, 64 releases",0.5']
    """
    rows = pandas.DataFrame([*leaks] or [("", "", 0, None, None, status)], columns=[*LEAK]).astype(LEAK)
    often = rows.queries.map(lambda queries: "" if queries == 1 else f", {queries} releases")
    whose = {
        "title": f"{defense} ×{multiplier:g}" if weights else defense,
        "defense": defense,
        "multiplier": multiplier,
        "weights": " ".join(f"{name}={value:g}" for name, value in weights.items()),
        "seed": seed,
        "accuracy": accuracy,
        "majority": majority,
        "macs": macs,
        "report": report,
        "measure": (rows.target + ": " + rows.attack + often).where(rows.queries > 0, ""),
    }
    return rows.assign(**whose).astype({"accuracy": float, "majority": float, "macs": float})


def audited(
    evidence: Evidence, defense: str, multiplier: float, weights: Mapping[str, float], folder: Path | None = None
) -> Frame:
    """The point of an audit.

    Args:
        evidence: of this member.
        defense: its name.
        multiplier: of its privacy weights.
        weights: those weights.
        folder: of its run, in a folder beside the frontier's page; None where it has none there.

    Raises:
        KeyError: the evidence has no words for the target of one of its attacks.

    Example:
        >>> evidence = Evidence("funnel", "digits", 3, "standard", {}, {}, {"accuracy": Estimate(0.97)}, ())
        >>> audited(evidence, "funnel", 0.1, {"beta": 3.0})[["seed", "accuracy"]].to_numpy()
        array([[3.  , 0.97]])
    """
    found, keys = frame([evidence]), ["attack", "target", "queries", "status"]
    utility = select(found, part="utility").set_index("metric").value
    own, references = (select(found, part=part).set_index(keys) for part in ("attack", "reference"))
    strength = own[own.metric == own.strength]
    leaks = pandas.DataFrame(
        {"score": strength.value, "leakage": own[own.metric == own.leaks].value}, own.index.unique()
    )
    if evidence.subject == REFERENCE:
        # Its own audit has nothing to normalise by: it leaks all that there is, where that is clearly something.
        floors = references[references.metric.isin(FLOORS)].value.groupby(keys).max().reindex(strength.index)
        leaks.loc[strength.index[(strength.low > floors) & (strength.leaks == LEAKAGE)], "leakage"] = 1.0
    rows = leaks.reset_index()[[*LEAK]].itertuples(index=False)
    known = (utility.get("accuracy"), utility.get("majority_class"))
    macs = evidence.cost.macs if evidence.cost else None
    report = f"{folder.parent.name}/{folder.name}/report.html" if folder else ""
    return point(defense, multiplier, weights, evidence.seed, *known, [*rows], macs=macs, report=report)


def leakages(points: Frame) -> Frame:
    """What leaks: a row a point, a column a measure, the worst attack first; NaN where that is not known.

    The worst attack is not known where all attacks on some target failed.

    Args:
        points: the frontier.
    """
    rows = points.assign(sound=points.status == "ok", leakage=points.leakage.where(points.status == "ok"))
    found = rows.set_index([*POINT, "measure"]).leakage.unstack(sort=False)
    whose = rows.groupby(POINT, sort=False)
    # Who was asked once only is deterministic and would say the same again, however often a measure asks.
    repeats = rows.queries.where(~rows.attack.str.endswith(BURST), 1)
    once = repeats.groupby([rows[name] for name in POINT], sort=False).max() <= 1
    for row in rows[rows.queries > 1].drop_duplicates("measure").itertuples():
        if (asked := f"{row.target}: {row.attack}") in found:
            found[row.measure] = found[row.measure].fillna(found[asked].where(once))
    # A failed attack is never privacy: with no sound one on some target, the worst is not known.
    known = rows.groupby([*POINT, "target"]).sound.any().groupby(POINT).all()
    found.insert(0, WORST, whose.leakage.max().where(known))
    return found.drop(columns="", errors="ignore")


def members(points: Frame) -> Frame:
    """Accuracy and leakage of every point by every measure that found something somewhere, the worst attack's rows first."""
    found = leakages(points).dropna(axis="columns", how="all")
    whose = points.drop_duplicates(POINT)[["title", *POINT, "accuracy", "majority", "macs", "report"]]
    return found.melt(value_name="leakage", ignore_index=False).reset_index().merge(whose)


def means(points: Frame) -> Frame:
    """Mean accuracy and leakage over seeds, with their intervals, by every measure; ``front`` where no other mean dominates it.

    A point that a seed did not measure is left out as a whole: a mean over the seeds that went well would flatter it. A measure
    may be left out that way; see :func:`caveats`.
    """
    groups = members(points).groupby(["measure", "defense", "multiplier", "title"], sort=False)
    found = mean(groups["accuracy"]).join(mean(groups["leakage"])).dropna(subset=["accuracy", "leakage"]).reset_index()
    panels = found.groupby("measure", sort=False)
    return found.assign(front=[best for _, own in panels for best in front(own.accuracy, own.leakage)])


def volumes(points: Frame) -> Frame:
    """Mean over seeds of every defence's hypervolume by every measure, with its interval.

    A point that was not measured covers nothing, a seed needs at least one.
    """

    def covered(own: Frame) -> float:
        known = own.dropna()
        return hypervolume(known.accuracy, known.leakage, known.majority.max()) if len(known) else float("nan")

    seeds = members(points).groupby(["measure", "defense", "seed"], sort=False)[["accuracy", "leakage", "majority"]]
    covers = seeds.apply(covered).rename("volume")
    return mean(covers.groupby(level=["measure", "defense"], sort=False)).dropna(subset="volume")


def findings(points: Frame) -> tuple[str, ...]:
    """One sentence on who is not dominated under the worst attack, one on each defence's hypervolume."""
    found = select(means(points), measure=WORST)
    if found.empty:
        return ("No point has both an accuracy and a leakage.",)
    best = found[found.front].sort_values("accuracy", ascending=False, kind="stable")
    named = "; ".join(
        f"{m.title} ({percent(m.accuracy)}, leakage {_text(m, 'leakage', ratio)})" for _, m in best.iterrows()
    )
    covers = "; ".join(f"{name} {_text(m, 'volume', ratio)}" for name, m in volumes(points).loc[WORST].iterrows())
    return (
        f"Not dominated under the worst attack, {len(best)} of {len(found)}: {named}.",
        f"Hypervolume under the worst attack: {covers}.",
    )


def caveats(points: Frame) -> tuple[str, ...]:
    """Members that could not be trained, attacks that failed, and what the number of seeds allows to say."""
    found, sound = [], points[points.status == "ok"]
    for row in points[points.status != "ok"].itertuples():
        said = f"{row.measure} {row.status}; it says nothing about privacy"
        whole = f"{row.status}; it is no point of the frontier"
        found.append(f"{row.title}, seed {row.seed}: {said if row.measure else whole}")
    undefined = sound[sound.leakage.isna() & (sound.measure != "")].groupby(["measure", "seed"], sort=False).size()
    found += [
        f"{measure}, seed {seed}: its leakage is not defined at {count} points, for which neither it nor its mean over seeds is "
        "shown, and which the worst attack does not count"
        for (measure, seed), count in undefined.items()
    ]
    return (*found, "one seed: no band can be given") if points.seed.nunique() == 1 else tuple(found)


def table(points: Frame) -> str:
    """Aligned text: every point's means under the worst attack, "*" where it is not dominated, and the hypervolumes."""
    rows = [("", "client", "accuracy", "worst leakage")]
    rows += [
        ("*" if m.front else "", m.title, _text(m, "accuracy", percent), _text(m, "leakage", ratio))
        for _, m in select(means(points), measure=WORST).iterrows()
    ]
    # Of two findings the first says in words what the rows say.
    return "\n".join([aligned(rows), "", findings(points)[-1], *(f"! {caveat}" for caveat in caveats(points))])


def as_csv(points: Frame) -> str:
    """All points: a row for every member and attack, and one for its worst attack; ``front`` is said of means over seeds."""
    worst = points.drop_duplicates(POINT).assign(measure=WORST, score=None, leakage=leakages(points)[WORST].to_numpy())
    worst["status"] = worst.status.where(worst.queries == 0, "ok")
    rows = pandas.concat([worst, points[points.queries > 0]])
    rows = rows.iloc[rows.groupby(POINT, sort=False).ngroup().argsort(kind="stable")]
    rows = rows.merge(means(points)[["measure", "defense", "multiplier", "front"]], how="left")
    rows["front"] = rows.front.eq(True).astype(int)
    head = ["defense", "multiplier", "weights", "seed", "accuracy", "majority", "macs"]
    head += ["measure", "score", "leakage", "front"]
    return rows[[*head, "status"]].to_csv(index=False)


def cell(row: Frame, name: str, form: Formatter) -> Cell:
    """A mean and its interval, of one row."""
    value, low, high = (None if pandas.isna(row[one]) else row[one] for one in (name, f"{name}_low", f"{name}_high"))
    return estimate(Estimate(value, low, high), form)


def _text(row: Frame, name: str, form: Formatter) -> str:
    found = cell(row, name, form)
    return f"{found.text} {found.interval}".rstrip()
