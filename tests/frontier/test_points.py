import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ani_jax.frontier.points import front, hypervolume

UNIT = st.floats(0, 1, width=32)
PLANE = st.lists(st.tuples(UNIT, st.floats(-0.5, 1.5, width=32)), min_size=1, max_size=8)


def union(points, majority):
    """Area of a union of rectangles, cell by cell between all their edges."""
    points = [(u, max(v, 0.0)) for u, v in points]
    us = sorted({majority, *(u for u, _ in points if u > majority)})
    vs = sorted({1.0, *(v for _, v in points if v < 1)})
    cells = itertools.product(itertools.pairwise(us), itertools.pairwise(vs))
    return sum(
        (right - left) * (above - below)
        for (left, right), (below, above) in cells
        if any(u >= right and v <= below for u, v in points)
    )


@given(PLANE, st.floats(0, 0.9))
def test_hypervolume_is_the_area_of_the_union_of_rectangles(points, majority):
    found = hypervolume(*zip(*points, strict=True), majority)
    assert found == pytest.approx(union(points, majority) / (1 - majority), abs=1e-9)
    assert 0 <= found <= 1 + 1e-12


def test_hypervolume_known_answers():
    assert hypervolume([1.0], [0.0], 0.1) == pytest.approx(1)
    assert hypervolume([0.1], [0.0], 0.1) == 0
    assert hypervolume([1.0], [1.0], 0.1) == 0
    # Half of a disc that touches the ideal corner: pi / 4 of the square, as fine as the grid.
    angles = np.linspace(0, np.pi / 2, 2001)
    assert hypervolume(np.cos(angles), 1 - np.sin(angles), 0.0) == pytest.approx(np.pi / 4, abs=1e-3)
    with pytest.raises(ValueError, match=r"majority=1.0: must be in \[0, 1\)"):
        hypervolume([1.0], [0.0], 1.0)


@given(PLANE)
def test_the_front_alone_covers_what_all_points_cover(points):
    on = front(*zip(*points, strict=True))
    kept = [p for p, best in zip(points, on, strict=True) if best]
    assert kept
    assert hypervolume(*zip(*kept, strict=True), 0.0) == pytest.approx(hypervolume(*zip(*points, strict=True), 0.0))
    for one, best in zip(points, on, strict=True):
        beaten = any(u >= one[0] and v <= one[1] and (u > one[0] or v < one[1]) for u, v in points)
        assert best != beaten


def test_equal_points_do_not_dominate_each_other():
    assert front([0.9, 0.9, 0.9], [0.2, 0.2, 0.3]) == (True, True, False)
