"""A frontier's points, and its geometry in utility and leakage: which are dominated, and how much they cover. No jax.

Leakage is 0 where nothing is learnt beyond the floor and 1 where everything is, by the metric that each target names: normalised
leakage (METHODS 5.1) or one of its own. So the worst attack is the one that finds most, whatever it aims at.
"""

import dataclasses
from collections.abc import Sequence

from ani_jax.records import Estimate, Evidence

REFERENCE = "none"
"""Subject of the undefended reference, and first word of its name."""
FLOORS = ("chance", "label_mediated")
"""References that say what is known without z."""
WORST = "worst attack"
"""The measure that takes the attack which leaks most at each point."""


@dataclasses.dataclass(frozen=True)
class Leak:
    """What one attack found at one point.

    Attributes:
        attack: family.
        target: what was sought.
        queries: k, how many releases of the same image the attacker saw.
        score: the metric that says how strong an attack on this target is.
        leakage: 0 at the floor, 1 for everything; None where it is not defined.
        status: "ok", or "failed: <reason>"; a failed attack is never counted as privacy.
    """

    attack: str
    target: str
    queries: int
    score: float | None
    leakage: float | None
    status: str = "ok"

    @property
    def measure(self) -> str:
        """What the attack is called among others.

        Example:
            >>> Leak("decoder", "image", 64, 0.01, 0.5).measure
            'image: decoder, 64 releases'
        """
        return f"{self.target}: {self.attack}" + ("" if self.queries == 1 else f", {self.queries} releases")


@dataclasses.dataclass(frozen=True)
class Point:
    """One member of a frontier, trained and audited.

    Attributes:
        defense: what it is called among the others.
        multiplier: of its privacy weights; 1 where it has none.
        weights: those weights.
        seed: of split, training and audit.
        accuracy: of the provider's answers on ``test``.
        majority: the accuracy of an answer that ignores what was sent.
        leaks: one entry an attack.
        status: "ok", or why there is nothing to show.
    """

    defense: str
    multiplier: float
    weights: dict[str, float]
    seed: int
    accuracy: float | None = None
    majority: float | None = None
    leaks: tuple[Leak, ...] = ()
    status: str = "ok"

    @classmethod
    def of(cls, evidence: Evidence, defense: str, multiplier: float, weights: dict[str, float]) -> "Point":
        """What a frontier keeps of an audit.

        Args:
            evidence: of this member.
            defense: its name.
            multiplier: of its privacy weights.
            weights: those weights.

        Raises:
            KeyError: the evidence has no words for the target of one of its attacks.

        Example:
            >>> from ani_jax.records import Estimate
            >>> evidence = Evidence("funnel", "digits", 3, "quick", {}, {}, {"accuracy": Estimate(0.97)}, ())
            >>> point = Point.of(evidence, "funnel", 0.1, {"beta": 3.0})
            >>> point.seed, point.accuracy
            (3, 0.97)
        """
        utility = {name: estimate.value for name, estimate in evidence.utility.items()}
        leaks = []
        for result in evidence.attacks:
            words, none = evidence.words(result.target), Estimate(None)
            strength = result.scores.get(words.strength, none)
            leakage = result.scores.get(words.leakage, none).value if words.leakage else result.leakage.value
            if evidence.subject == REFERENCE and not words.leakage:
                # Its own audit has nothing to normalise by: it leaks all that there is, where that is clearly something.
                floors = [floor for name in FLOORS if (floor := result.references.get(name)) is not None]
                if strength.low is not None and floors and strength.low > max(floors):
                    leakage = 1.0
            leaks.append(Leak(result.attack, result.target, result.queries, strength.value, leakage, result.status))
        accuracy, majority = utility.get("accuracy"), utility.get("majority_class")
        return cls(defense, multiplier, weights, evidence.seed, accuracy, majority, tuple(leaks))

    @property
    def title(self) -> str:
        """What it is called among the points of one seed.

        Example:
            >>> Point("funnel", 0.1, {"beta": 3.0}, 0).title, Point("none", 1.0, {}, 0).title
            ('funnel ×0.1', 'none')
        """
        return f"{self.defense} ×{self.multiplier:g}" if self.weights else self.defense

    def leakage(self, measure: str) -> float | None:
        """What leaks by one measure; None where that is not known.

        The worst attack is not known where all attacks on some target failed.
        """
        if measure == WORST:
            sound = {leak.target for leak in self.leaks if leak.status == "ok"}
            # A failed attack is never privacy: with no sound one on some target, the worst is not known.
            if any(leak.target not in sound for leak in self.leaks):
                return None
            return max((value for leak in self.leaks if (value := _sound(leak)) is not None), default=None)
        known = {leak.measure: _sound(leak) for leak in self.leaks}
        # Who was asked once only is deterministic and would say the same again, however often a measure asks.
        once = measure.rsplit(", ", 1)[0]
        asked_more = any(leak.queries > 1 for leak in self.leaks)
        return known.get(measure, None if asked_more else known.get(once))


@dataclasses.dataclass(frozen=True)
class Frontier:
    """All points of a frontier.

    Attributes:
        dataset: catalogue name.
        level: of the audits.
        points: the undefended reference's first.
    """

    dataset: str
    level: str
    points: tuple[Point, ...]


def measures(points: Sequence[Point]) -> tuple[str, ...]:
    """The worst attack, and every attack that found something somewhere.

    Example:
        >>> measures([Point("ani", 1.0, {}, 0, 0.9, 0.1, (Leak("attribute", "ink", 1, 0.5, 0.3),))])
        ('worst attack', 'ink: attribute')
    """
    names = dict.fromkeys(leak.measure for point in points for leak in point.leaks)
    return tuple(name for name in (WORST, *names) if any(point.leakage(name) is not None for point in points))


def front(utility: Sequence[float], leakage: Sequence[float]) -> tuple[bool, ...]:
    """Which points are not dominated: nobody is at least as good in both and better in one.

    Args:
        utility: higher is better.
        leakage: of the same points, lower is better.

    Example:
        >>> front([0.9, 0.8, 0.7], [0.5, 0.2, 0.3])
        (True, True, False)
    """
    points = list(zip(utility, leakage, strict=True))
    # Equal points do not dominate each other, or none of them would be left.
    return tuple(not any(u >= mine and v <= own and (u, v) != (mine, own) for u, v in points) for mine, own in points)


def hypervolume(utility: Sequence[float], leakage: Sequence[float], majority: float) -> float:
    """Share of the possible that is attained: the area that the points dominate, of the area that a perfect client would.

    The reference point is (``majority``, 1): a client that sends everything to a provider who answers the commonest class. A
    perfect client, accuracy 1 at leakage 0, attains 1; leakage below 0 counts as 0.

    Args:
        utility: accuracies.
        leakage: of the same points.
        majority: accuracy of an answer that ignores what was sent, in [0, 1).

    Returns:
        In [0, 1].

    Raises:
        ValueError: ``majority`` is out of range.

    Example:
        >>> hypervolume([0.9, 0.6], [0.5, 0.25], majority=0.1)
        0.5833333333333334
    """
    if not 0 <= majority < 1:
        raise ValueError(f"majority={majority}: must be in [0, 1)")
    area, reached = 0.0, 1.0
    # By falling utility, so that each point adds only what no more accurate one covers already.
    for mine, own in sorted(zip(utility, leakage, strict=True), key=lambda point: (-point[0], point[1])):
        if mine > majority and own < reached:
            area += (mine - majority) * (reached - max(own, 0.0))
            reached = max(own, 0.0)
    return area / (1 - majority)


def _sound(leak: Leak) -> float | None:
    return leak.leakage if leak.status == "ok" else None
