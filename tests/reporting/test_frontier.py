import csv
import io

import pytest

from ani_jax.frontier.points import WORST, Frontier, Leak, Point
from ani_jax.reporting import frontier as numbers
from ani_jax.reporting import frontier_page


def by_measure(found, measure):
    return next(panel for panel in numbers.panels(found) if panel.measure == measure)


def test_means_and_bands_are_over_seeds(frontier):
    panel = by_measure(frontier, "ink: attribute")
    low = next(m for m in panel.means if m.title == "funnel ×0.1")
    # Accuracies 0.97 and 0.98: half a point either way times t(0.975, 1 degree) = 12.706.
    assert low.utility.value == pytest.approx(0.975)
    assert low.utility.high - low.utility.value == pytest.approx(12.7062 * 0.005, rel=1e-4)
    assert low.seeds == ((0.97, 0.9), (0.98, 0.8))


def test_fronts_are_those_of_all_defences_together(frontier):
    on = {m.title: m.front for m in by_measure(frontier, WORST).means}
    assert on == {"none": True, "funnel ×0.1": True, "funnel ×10": False, "ani ×1": True}


def test_hypervolume_is_the_mean_of_the_seeds(frontier):
    found = by_measure(frontier, "ink: attribute").volumes["ani"]
    # (0.96 - 0.1) / 0.9 of the accuracy times 0.6 of the leakage, and 0.94 with 0.7.
    one, other = (0.86 / 0.9) * 0.6, (0.84 / 0.9) * 0.7
    assert found.value == pytest.approx((one + other) / 2)
    assert found.low < one < found.high


def test_a_point_that_a_seed_lacks_is_left_out_and_said(frontier):
    broken = Point("funnel", 1.0, {"beta": 30.0}, 1, status="not trained: step 40: loss not finite")
    whole = Point("funnel", 1.0, {"beta": 30.0}, 0, 0.99, 0.1, (Leak("attribute", "ink", 1, 0.3, 0.0),))
    found = Frontier("digits", "quick", (*frontier.points, whole, broken))
    assert "funnel ×1" not in {m.title for panel in numbers.panels(found) for m in panel.means}
    assert any("funnel ×1, seed 1: not trained: step 40" in caveat for caveat in numbers.caveats(found))
    # It covers nothing at its seed, so the hypervolume can only be that of the others there.
    before, after = (by_measure(f, "ink: attribute").volumes["funnel"].value for f in (frontier, found))
    assert after > before


def test_a_measure_that_every_mean_lacks_is_no_panel_and_said(frontier):
    """Leakage is undefined where the undefended client leaks no more than chance, which may happen at one seed of two."""
    points = [
        Point("ani", 1.0, {"entropy": 0.5}, seed, 0.9, 0.1, (Leak("decoder", "image", 1, 0.1, 0.5), attribute))
        for seed, attribute in enumerate((Leak("probe", "ink", 1, 0.3, 0.2), Leak("probe", "ink", 1, 0.3, None)))
    ]
    found = Frontier("digits", "quick", tuple(points))
    assert [panel.measure for panel in numbers.panels(found)] == [WORST, "image: decoder"]
    assert any("ink: probe, seed 1: its leakage is not defined at 1 points" in line for line in numbers.caveats(found))
    assert "image: decoder" in frontier_page.render(found, command="")
    nothing = Frontier("digits", "quick", (Point("ani", 1.0, {}, 0, status="not trained: step 1: loss not finite"),))
    assert numbers.panels(nothing) == ()
    assert "No point has both" in numbers.table(nothing)


def test_failed_attacks_are_said():
    leaks = (Leak("probe", "ink", 1, None, None, "failed: loss not finite"), Leak("net", "ink", 1, 0.4, 0.2))
    found = Frontier("digits", "quick", (Point("ani", 1.0, {"entropy": 0.5}, 0, 0.9, 0.1, leaks),))
    assert any("ink: probe failed: loss not finite" in caveat for caveat in numbers.caveats(found))
    assert any("one seed" in caveat for caveat in numbers.caveats(found))


def test_the_spreadsheet_holds_every_point_and_attack(frontier):
    rows = list(csv.DictReader(io.StringIO(numbers.as_csv(frontier))))
    assert len(rows) == sum(1 + len(point.leaks) for point in frontier.points)
    (row,) = [r for r in rows if (r["defense"], r["seed"], r["measure"]) == ("ani", "1", "image: decoder, 64 releases")]
    assert (float(row["accuracy"]), float(row["leakage"]), row["weights"]) == (0.94, 0.5, "entropy=0.5")
    fronts = {(r["defense"], r["multiplier"]): r["front"] for r in rows if r["measure"] == WORST}
    assert fronts == {("none", "1.0"): "1", ("funnel", "0.1"): "1", ("funnel", "10.0"): "0", ("ani", "1.0"): "1"}


def test_the_table_marks_the_undominated(frontier):
    lines = numbers.table(frontier).splitlines()
    assert any(line.startswith("*") and "ani ×1" in line and "95.0% [" in line for line in lines)
    assert any(not line.startswith("*") and "funnel ×10" in line for line in lines)
    assert any(line.startswith("Hypervolume under the worst attack: none") for line in lines)


def test_nothing_measured_is_said_not_drawn():
    found = Frontier("digits", "quick", (Point("ani", 1.0, {}, 0, status="not trained: x"),))
    assert numbers.panels(found) == ()
    assert "No point" in numbers.findings(found)[0]
