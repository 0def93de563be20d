"""A frontier's geometry in utility and leakage: which points are dominated, and how much they cover. No jax."""

from collections.abc import Sequence


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
