import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ani_jax.frontier.points import WORST, Frontier, Leak, Point, front, hypervolume, measures
from ani_jax.records import AttackResult, Estimate, Evidence, from_json, to_json
from ani_jax.targets.attribute import Attribute
from ani_jax.targets.image import Image

UNIT = st.floats(0, 1, width=32)
WORDS = (Attribute("ink", 4).words, Image().words)
PLANE = st.lists(st.tuples(UNIT, st.floats(-0.5, 1.5, width=32)), min_size=1, max_size=8)


def result(attack, target, leakage, *, score=0.5, queries=1, status="ok"):
    scores = {"balanced_accuracy": Estimate(score)}
    if target == "image":
        scores = {"mse": Estimate(score), "r2_class_mean": Estimate(leakage)}
        leakage = None
    return AttackResult(attack, target, queries, "", scores, {}, (), Estimate(leakage), status=status)


def point(*leaks):
    return Point("ani", 1.0, {"entropy": 0.5}, 0, 0.9, 0.1, tuple(leaks))


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


def test_a_point_keeps_what_an_audit_found():
    utility = {"accuracy": Estimate(0.97), "majority_class": Estimate(0.11)}
    attacks = (result("attribute", "ink", 0.3, score=0.45), result("decoder", "image", 0.6, score=0.01))
    evidence = Evidence("ani", "digits", 3, "quick", {}, {}, utility, attacks, targets=WORDS)
    found = Point.of(evidence, "ani", 0.1, {"entropy": 0.05})
    assert (found.seed, found.accuracy, found.majority) == (3, 0.97, 0.11)
    assert found.leaks == (Leak("attribute", "ink", 1, 0.45, 0.3), Leak("decoder", "image", 1, 0.01, 0.6))
    assert found.leakage(WORST) == 0.6
    assert found.leakage("ink: attribute") == 0.3
    whole = Frontier("digits", "quick", (found,))
    assert from_json(Frontier, to_json(whole)) == whole


def test_the_worst_attack_may_ask_often_and_aim_at_anything():
    found = point(
        Leak("probe", "ink", 1, 0.3, 0.1), Leak("probe", "ink", 64, 0.8, 0.7), Leak("net", "image", 1, 0.1, 0.4)
    )
    assert found.leakage(WORST) == 0.7
    assert found.leakage("ink: probe, 64 releases") == 0.7
    assert found.leakage("image: net, 64 releases") is None


def test_a_deterministic_client_says_the_same_however_often_it_is_asked():
    assert point(Leak("probe", "ink", 1, 0.3, 0.1)).leakage("ink: probe, 64 releases") == 0.1


def test_a_failed_attack_is_never_privacy():
    failed = Leak("probe", "ink", 1, 0.25, 0.0, "failed: gradient masked")
    assert point(failed).leakage("ink: probe") is None
    assert point(failed, Leak("net", "image", 1, 0.1, 0.4)).leakage(WORST) is None
    # Another attacker of the same target did its work.
    assert point(failed, Leak("net", "ink", 1, 0.5, 0.3)).leakage(WORST) == 0.3


def test_the_undefended_reference_leaks_all_that_there_is_to_leak():
    def result(score, low, floor, attack="attribute", target="ink"):
        scores = {"balanced_accuracy": Estimate(score, low, 1.0)}
        references = {"chance": 0.25, "label_mediated": floor}
        return AttackResult(attack, target, 1, "probe", scores, references, (), Estimate(None))

    sure, unsure = result(0.9, 0.88, 0.3), result(0.32, 0.28, 0.3)
    for subject, expected in (("none", [1.0, None]), ("funnel", [None, None])):
        evidence = Evidence(subject, "digits", 0, "quick", {}, {}, {}, (sure, unsure), targets=WORDS)
        assert [leak.leakage for leak in Point.of(evidence, subject, 1.0, {}).leaks] == expected


def test_an_undefined_leakage_does_not_hide_the_others():
    undefined = Leak("probe", "group", 1, 0.5, None)
    assert point(undefined, Leak("net", "ink", 1, 0.5, 0.3)).leakage(WORST) == 0.3
    assert point(undefined).leakage(WORST) is None
    assert measures([point(undefined)]) == ()
