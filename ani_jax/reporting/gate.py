"""Requirements on evidence: which hold, which are violated, which this evidence cannot decide; docs/GATE.md has the rules.

A requirement holds only where the worse end of every interval keeps the limit, an audit with controls says so, a planted linear
label no stronger than the limit was found, and what was still rising keeps it after two more doublings. It is violated where
even the better end of one interval is beyond the limit. Everything else is undecided, and never passes.
"""

import dataclasses
import math
import re
import tomllib
import xml.etree.ElementTree as xml
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ani_jax.records import AttackResult, Estimate, Evidence, Look, TargetWords
from ani_jax.reporting.findings import UNITS, points
from ani_jax.reporting.table import estimate

HOLDS, VIOLATED, UNDECIDED = "holds", "violated", "undecided"
CODES = {VIOLATED: 3, UNDECIDED: 4, HOLDS: 0}
"""Outcome -> exit code, the one that counts most first: 1 is a crash, 2 a mistake in what was asked."""
UTILITY, ACCURACY = "utility", "accuracy"
FORM = re.compile(r"\s*([^<>=]*[^<>=\s])\s*(<=|>=)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*", re.ASCII)
RESAMPLES = 1000
"""Bootstrap resamples behind the interval of a paired difference."""
CLOSE = 1e-9
"""What rounding may add to a difference of two decimals."""
ABSENT = Estimate(None, note="not measured")


@dataclasses.dataclass(frozen=True)
class Requirement:
    """A limit on something that an audit measures.

    Attributes:
        name: of a target (its ``TargetWords.strength``), "TARGET.METRIC", or "utility" (accuracy).
        sign: "<=" or ">=".
        limit: in the metric's own scale, fractions for percentages.

    Example:
        >>> str(Requirement("ink", "<=", 0.35))
        'ink<=0.35'
    """

    name: str
    sign: str
    limit: float

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{self.limit:.12g}"

    def ends(self, measured: Estimate) -> tuple[float, float]:
        """How far the better and the worse end of an interval are beyond the limit; infinitely far where an end is missing.

        Example:
            >>> Requirement("utility", ">=", 0.5).ends(Estimate(0.75, 0.25, 1.0))
            (-0.5, 0.25)
        """
        low, high = (-math.inf, math.inf) if measured.value is None else (measured.low, measured.high)
        low, high = -math.inf if low is None else low, math.inf if high is None else high
        return (low - self.limit, high - self.limit) if self.sign == "<=" else (self.limit - high, self.limit - low)

    def worse(self, measured: Estimate) -> float | None:
        """The end of an interval that has to keep the limit."""
        return measured.high if self.sign == "<=" else measured.low


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of one requirement, or of one comparison with an earlier audit.

    Attributes:
        subject: whose evidence it was.
        asked: the requirement as it is written, or what was compared.
        outcome: "holds", "violated" or "undecided".
        measured: the number that decided, of several attacks the worst.
        reasons: why, each a clause.
    """

    subject: str
    asked: str
    outcome: str
    measured: Estimate
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return printable(f"{self.outcome:9}  {self.subject}: {self.asked}: {'; '.join(self.reasons)}")


@dataclasses.dataclass(frozen=True)
class Gate:
    """All verdicts together, as gate.json has them.

    Attributes:
        outcome: "violated" where one is, else "undecided" where one is or there is none, else "holds".
        code: exit code.
        verdicts: in the order in which they were asked for.
    """

    outcome: str
    code: int
    verdicts: tuple[Verdict, ...]

    @classmethod
    def of(cls, verdicts: Sequence[Verdict]) -> "Gate":
        """The gate that these verdicts make.

        Example:
            >>> Gate.of(()).code
            4
        """
        found = {verdict.outcome for verdict in verdicts} or {UNDECIDED}
        outcome = next(name for name in CODES if name in found)
        return cls(outcome, CODES[outcome], tuple(verdicts))


def parse(text: str) -> tuple[Requirement, ...]:
    """Requirements from what is written, separated by commas.

    Raises:
        ValueError: a piece is none; the message names it.

    Example:
        >>> [str(one) for one in parse("ink<=0.35, utility >= .95")]
        ['ink<=0.35', 'utility>=0.95']
    """
    found = []
    for piece in text.split(","):
        match = FORM.fullmatch(piece)
        if match is None or not math.isfinite(float(match[3])):
            raise ValueError(f"{piece.strip()!r} must be NAME<=NUMBER or NAME>=NUMBER, as in ink<=0.35")
        found.append(Requirement(match[1], match[2], float(match[3])))
    return tuple(found)


def read(text: str) -> dict[str, str]:
    """What a privacy.toml asks for: ``require``, a string or a list of them, and ``against``, the path of an evidence.json.

    Raises:
        ValueError: it is no TOML, or holds anything else.

    Example:
        >>> read('require = ["ink<=0.35", "utility>=0.95"]')
        {'require': 'ink<=0.35, utility>=0.95'}
    """
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"not TOML ({error})") from None
    if isinstance(values.get("require"), list) and all(isinstance(one, str) for one in values["require"]):
        values["require"] = ", ".join(values["require"])
    wrong = [name for name, value in values.items() if name not in ("require", "against") or not isinstance(value, str)]
    if wrong or not values:
        told = f"{wrong[0]!r} in it" if wrong else "it is empty"
        raise ValueError(f'{told}; must hold require = ["ink<=0.35", ...], or against = "evidence.json", or both')
    return values


class Reading(NamedTuple):
    """One number that has to keep a limit.

    Attributes:
        by: what it was measured with.
        measured: with its interval.
        result: of the attack that it is of, None for utility.
    """

    by: str
    measured: Estimate
    result: AttackResult | None = None


def names(targets: Sequence[TargetWords]) -> dict[str, tuple[TargetWords | None, str]]:
    """What a requirement may name -> the words of the target, None for utility, and the metric that is meant."""
    found: dict[str, tuple[TargetWords | None, str]] = {}
    for words in targets:
        found[words.name] = (words, words.strength)
        found |= {f"{words.name}.{metric.name}": (words, metric.name) for metric in words.metrics}
    return {**found, UTILITY: (None, ACCURACY)}


def check(
    requirements: Sequence[Requirement], targets: Sequence[TargetWords], *, utility: bool = True, absent: bool = False
) -> None:
    """Refuses requirements that nobody can mean.

    Args:
        requirements: what is asked.
        targets: the words of all that is, or will be, attacked.
        utility: whether it is, or will be, measured.
        absent: let a target pass that is not among them: it leaves the gate undecided.

    Raises:
        ValueError: an unknown name, more leakage or less utility asked for, a percentage beyond 0 to 1; the message names the
            requirement and what is allowed.
    """
    known = names(targets)
    owners = {UTILITY, *(words.name for words in targets)}
    for asked in requirements:
        unmeasured = asked.name == UTILITY and not utility
        if asked.name not in known or unmeasured:
            if absent and not unmeasured and asked.name.rpartition(".")[0] not in owners:
                continue
            allowed = ", ".join(name for name in known if utility or name != UTILITY)
            raise ValueError(f"{str(asked)!r} names what is not measured; must be one of {allowed}")
        words, metric = known[asked.name]
        unit = "percent" if words is None else words.metric(metric).unit
        less = words is None or (not words.higher if metric == words.strength else unit == "small")
        if asked.sign != (meant := ">=" if less else "<="):
            raise ValueError(f"{str(asked)!r} asks for less privacy or less utility; must be {asked.name}{meant}NUMBER")
        if unit == "percent" and not 0 <= asked.limit <= 1:
            raise ValueError(f"{str(asked)!r}: the limit is a fraction; must be from 0 to 1")


def decide(evidence: Evidence, requirements: Sequence[Requirement]) -> tuple[Verdict, ...]:
    """What becomes of each requirement.

    Of a target every attack must keep the limit, whichever its family and however often it asked, so its name alone means the
    strongest. Neither a tighter limit nor a wider interval ever turns a verdict into "holds".

    Args:
        evidence: of one client.
        requirements: see :func:`check` for what should be refused before.

    Example:
        >>> nothing = Evidence("mine", "digits", 0, "standard", {}, {}, {}, ())
        >>> print(*decide(nothing, parse("ink<=0.35")))
        undecided  mine: ink<=0.35: not in this evidence, which has utility
    """
    known, found = names(evidence.targets), []
    for asked in requirements:
        if asked.name not in known:
            reason = f"not in this evidence, which has {', '.join(known)}"
            found.append(Verdict(evidence.subject, str(asked), UNDECIDED, ABSENT, (reason,)))
            continue
        words, metric = known[asked.name]
        write = UNITS["percent" if words is None else words.metric(metric).unit]
        if words is None:
            readings = [Reading(metric, evidence.utility.get(metric, ABSENT))]
            doubts, told = unsound(evidence, leaks=False), []
        else:
            results = [result for result in evidence.attacks if result.target == words.name]
            readings = [
                Reading(title(one), one.scores.get(metric, Estimate(None, note=one.status)), one) for one in results
            ]
            doubts, told = support(evidence, asked, words, metric, results)
        beyond = [(asked.ends(one.measured), one) for one in readings or [Reading("no attack", ABSENT)]]
        (better, _), leaking = max(beyond, key=lambda pair: pair[0][0])
        (_, worse), worst = max(beyond, key=lambda pair: pair[0][1])
        decisive = leaking if better > 0 else worst
        cell = estimate(decisive.measured, write)
        shown = f"{decisive.by} {cell.text} {cell.interval}".strip()
        if better > 0:
            outcome, reasons = VIOLATED, [f"{shown}: even the better end is beyond the limit"]
        elif worse <= 0:
            for one in readings:
                end = later(one, asked, words, metric)
                if end is None:
                    doubts.append(f"{one.by} was still rising, and how far {metric} would go nobody knows")
                elif end != asked.worse(one.measured):
                    kept = asked.ends(Estimate(end, end, end))[1] <= 0
                    said = f"{one.by} was still rising, and may reach {write(end)} in two more doublings"
                    (told if kept else doubts).append(said)
            outcome = UNDECIDED if doubts else HOLDS
            reasons = [f"{shown}: the worse end keeps the limit", *(doubts or told)]
        elif math.isinf(worse):
            outcome, reasons = UNDECIDED, [f"{decisive.by}: {decisive.measured.note or 'no interval'}", *doubts]
        else:
            outcome, reasons = UNDECIDED, [f"{shown}: the limit lies within the interval", *doubts]
        found.append(Verdict(evidence.subject, str(asked), outcome, decisive.measured, tuple(reasons)))
    return tuple(found)


def title(result: AttackResult) -> str:
    """What an attack is called in a reason.

    Example:
        >>> title(AttackResult("decoder", "image", 64, "residual", {}, {}, (), Estimate(None)))
        'decoder on 64 releases (residual)'
    """
    often = "" if result.queries == 1 else f" on {result.queries} releases"
    return f"{result.attack}{often}" + (f" ({result.chosen})" if result.chosen else "")


def unsound(evidence: Evidence, *, leaks: bool = True) -> list[str]:
    """Why nothing that this audit did not find proves anything; nothing where it does.

    Args:
        evidence: of one client.
        leaks: whether it is attackers that found nothing; what they missed says nothing of utility.
    """
    if not evidence.controls:
        return [f"an audit without controls (level {evidence.level}) is no evidence"]
    return [f"a control failed: {one.name}" for one in evidence.controls if leaks and one.withholds]


def support(
    evidence: Evidence, asked: Requirement, words: TargetWords, metric: str, results: Sequence[AttackResult]
) -> tuple[list[str], list[str]]:
    """What speaks against believing that a limit on leakage is kept, and what for it.

    A planted linear label has to be found, the lower end of its interval above chance, that is no stronger than the limit:
    both in points over chance, of a reconstruction in hundredths of its R² over its floor. Where a metric has no floor in the
    record (MSE, SSIM), that is the weakest of all that were planted.
    """
    doubts = [f"{title(one)} {one.status}" for one in results if one.status != "ok" and metric in one.scores]
    doubts += unsound(evidence)
    planted = [one for one in evidence.controls if one.name.startswith("planted linear")]
    linear = sorted(((one.points, one) for one in planted if one.points is not None), key=lambda pair: pair[0])
    floor: float | None = 0.0 if metric in (words.leakage, words.beyond, words.plotted) else None
    if metric == words.plotted and words.floor:
        floors = [value for one in results if (value := one.references.get(words.floor)) is not None]
        if not floors:
            return [*doubts, f"no {words.floor} in this evidence, which the limit's strength counts from"], []
        floor = max(floors)
    if not linear:
        return [*doubts, *(["no linear label was planted"] if evidence.controls else [])], []
    strength = linear[0][0] if floor is None else asked.limit - floor
    able = [one for own, one in linear if own <= strength + CLOSE]
    if not able:
        limit = f"the limit, {points(strength)} points over the floor"
        return [*doubts, f"no linear label as weak as {limit}, was planted ({points(linear[0][0])} is the weakest)"], []
    heard = [one for one in able if one.low is not None and one.low > 0]
    if not heard:
        one = able[-1]
        why = "an audit of before, which kept no interval" if one.low is None else f"{points(one.low)} at least"
        return [*doubts, f"{one.name} was not found ({points(one.found or 0.0)} over chance, {why})"], []
    one = heard[0]
    return doubts, [f"{one.name} was found ({points(one.found or 0.0)} over chance, {points(one.low or 0.0)} at least)"]


def later(one: Reading, asked: Requirement, words: TargetWords | None, metric: str) -> float | None:
    """The worse end after two more doublings of what was still rising; the end itself where nothing was.

    What the strongest of these would then be ahead of the chosen attacker on ``validation`` is added to the end: of the target's
    strength, and of what is counted from the floor in its scale. Where the strength is an error, a metric that is 1 where
    everything leaks comes nearer to 1 by as large a part as the error does to 0.

    Args:
        one: of one attack.
        asked: the requirement, which says which end is the worse.
        words: of the target.
        metric: which of its numbers this is.

    Returns:
        The end; None where nobody knows.
    """
    end, result = asked.worse(one.measured), one.result
    rising = [] if result is None else [attacker for attacker in result.attackers if attacker.rising]
    if not rising or end is None or result is None or words is None:
        return end
    chosen = next((own.validation for own in result.attackers if own.name == result.chosen), None)
    reached = [extrapolated(attacker.curve) for attacker in rising]
    error = result.scores.get(words.strength, ABSENT).value
    if chosen is None or error is None or None in reached:
        return None
    gain = max(0.0, max(value for value in reached if value is not None) - chosen)
    if not gain:
        return end
    if words.higher:
        return end + gain if metric in (words.strength, words.beyond) else None
    if metric == words.strength:
        return end - gain
    return 1 - (1 - end) * max(0.0, 1 - gain / error) if metric == words.leakage and error > 0 else None


def extrapolated(curve: Sequence[Look]) -> float | None:
    """Strength on ``validation`` after two more doublings of the steps; None of fewer than two looks.

    A straight line in the logarithm of the steps, through the last look and the one two before it (the first of two), and never
    falling: where each doubling gains no more than the one before, no less than what two more gain.

    Args:
        curve: of one attacker.

    Example:
        >>> extrapolated([Look(100, 1.0, 0.25), Look(200, 0.9, 0.5), Look(400, 0.8, 0.625)])
        1.0
    """
    if len(curve) < 2 or curve[-1].steps <= curve[-3:][0].steps:
        return None
    first, last = curve[-3:][0], curve[-1]
    gain = (last.strength - first.strength) / math.log2(last.steps / first.steps)
    return last.strength + 2 * max(0.0, gain)


def compare(evidence: Evidence, earlier: Evidence) -> tuple[Verdict, ...]:
    """Whether anything that an earlier audit measured is significantly worse now: utility, and each target's strongest attack.

    Significant is a difference whose 95% interval lies on the worse side of 0: of the two scores, taken as independent, or of
    the test images row by row, where both attacks were scored on the same (:func:`paired`).

    Args:
        evidence: of one client.
        earlier: of the same client before a change, or of another one.
    """
    for name in ("dataset", "level"):
        now, before = getattr(evidence, name), getattr(earlier, name)
        if now != before:
            reason = f"{name} {now} cannot be compared with {name} {before}"
            return (Verdict(evidence.subject, "no worse than before", UNDECIDED, ABSENT, (reason,)),)
    found = []
    for words in (None, *earlier.targets):
        if words is None:
            name, higher, unit, doubts = UTILITY, False, "percent", unsound(evidence, leaks=False)
            before, now = (Reading("accuracy", one.utility.get(ACCURACY, ABSENT)) for one in (earlier, evidence))
            if before.measured.value is None:
                continue
        else:
            name, higher, unit = words.name, words.higher, words.metric(words.strength).unit
            before, now = (strongest(one, words) for one in (earlier, evidence))
            broken = [one for one in evidence.attacks if one.target == words.name and one.status != "ok"]
            doubts = [*(f"{title(one)} {one.status}" for one in broken), *unsound(evidence)]
        write = points if unit == "percent" else UNITS[unit]
        reasons = []
        for when, one in (("before", before), ("now", now)):
            cell = estimate(one.measured, UNITS[unit])
            reasons.append(f"{when} {cell.text} {cell.interval} by {one.by}")
        changes = {"worse by": apart(before.measured, now.measured, higher)}
        if before.result is not None and now.result is not None:
            changes["row by row, worse by"] = paired(evidence, now.result, earlier, before.result, higher)
        ends = {
            said: (one.low, one.high) for said, one in changes.items() if one.low is not None and one.high is not None
        }
        reasons += [f"{said} {write(low)} to {write(high)}" for said, (low, high) in ends.items()]
        worse = any(low > 0 for low, _ in ends.values())
        doubts += [] if ends else [f"nothing to compare: {now.measured.note or before.measured.note or 'no interval'}"]
        outcome = VIOLATED if worse else UNDECIDED if doubts else HOLDS
        reasons += [] if worse else doubts
        found.append(Verdict(evidence.subject, f"{name} no worse than before", outcome, now.measured, tuple(reasons)))
    return tuple(found)


def strongest(evidence: Evidence, words: TargetWords) -> Reading:
    """What the strongest attack on a target read, see :meth:`ani_jax.records.Evidence.strongest`."""
    one = evidence.strongest(words)
    return Reading("no attack", ABSENT) if one is None else Reading(title(one), one.scores[words.strength], one)


def apart(before: Estimate, now: Estimate, higher: bool) -> Estimate:
    """How much worse one number is than another that is independent of it.

    Args:
        before: with its interval.
        now: likewise.
        higher: whether more is worse.

    Example:
        >>> apart(Estimate(0.5, 0.25, 0.75), Estimate(0.5, 0.5, 0.5), True)
        Estimate(value=0.0, low=-0.25, high=0.25, note='')
    """
    numbers = [number for one in (before, now) for number in (one.value, one.low, one.high)]
    if None in numbers:
        return ABSENT
    old, old_low, old_high, new, new_low, new_high = (float(number or 0.0) for number in numbers)
    down, up = math.hypot(new - new_low, old_high - old), math.hypot(new_high - new, old - old_low)
    low, value, high = new - old - down, new - old, new - old + up
    return Estimate(value, low, high) if higher else Estimate(-value, -high, -low)


def paired(evidence: Evidence, now: AttackResult, earlier: Evidence, before: AttackResult, higher: bool) -> Estimate:
    """How much worse an attack's mean over the test images is than another's, its interval bootstrapped over originals.

    The mean is of what is kept of every image: whether its attribute was read, or its error.

    Args:
        evidence: where ``now`` is from.
        now: a result.
        earlier: where ``before`` is from.
        before: a result on the same target.
        higher: whether more is worse.

    Returns:
        The difference; no value where the two were not scored on the same images, or where it is not on record which of these
        show the same original.
    """
    same = all(
        getattr(evidence, name) == getattr(earlier, name)
        for name in ("dataset", "seed", "level", "sizes", "groups", "gallery")
    )
    count = len(now.per_example)
    grouped = evidence.groups or evidence.sizes.get("test") == evidence.sizes.get("test_originals")
    scored = len(now.rows or evidence.groups) or evidence.sizes.get("test")
    if (
        not same
        or not grouped
        or not count
        or now.rows != before.rows
        or not count == len(before.per_example) == scored
    ):
        return ABSENT
    change = np.asarray(now.per_example) - np.asarray(before.per_example)
    rows = np.asarray(now.rows or range(count), int)
    _, owner = np.unique(np.asarray(evidence.groups)[rows] if evidence.groups else rows, return_inverse=True)
    sums, sizes = np.bincount(owner, change if higher else -change), np.bincount(owner)
    drawn = np.random.default_rng(0).multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), RESAMPLES)
    low, high = np.quantile((drawn @ sums) / (drawn @ sizes), [0.025, 0.975])
    return Estimate(float(sums.sum() / count), float(low), float(high))


def junit(gate: Gate) -> str:
    """The verdicts as JUnit XML: what is violated is a failure, what is undecided an error, which no CI system passes.

    Example:
        >>> junit(Gate.of((Verdict("mine", "ink<=0.35", "holds", Estimate(0.3), ("kept",)),))).splitlines()[1]
        '<testsuites tests="1" failures="0" errors="0">'
    """
    counts = [sum(one.outcome == outcome for one in gate.verdicts) for outcome in (VIOLATED, UNDECIDED)]
    told = {"tests": str(len(gate.verdicts)), "failures": str(counts[0]), "errors": str(counts[1])}
    root = xml.Element("testsuites", told)
    suite = xml.SubElement(root, "testsuite", {"name": "ani_jax gate", **told})
    for verdict in gate.verdicts:
        case = xml.SubElement(
            suite, "testcase", {"classname": printable(verdict.subject), "name": printable(verdict.asked)}
        )
        tags = {HOLDS: "system-out", VIOLATED: "failure", UNDECIDED: "error"}
        said = {} if verdict.outcome == HOLDS else {"type": verdict.outcome, "message": str(verdict)}
        xml.SubElement(case, tags[verdict.outcome], said).text = str(verdict)
    xml.indent(root)
    return f"<?xml version='1.0' encoding='utf-8'?>\n{xml.tostring(root, 'unicode')}\n"


def printable(text: str) -> str:
    """The text without characters that are no part of a line, or of XML; what failed says so in words of its own."""
    return "".join(c if c.isprintable() else "?" for c in text)
