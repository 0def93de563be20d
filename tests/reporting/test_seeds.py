import csv
import io

import numpy as np
import pandas
import pytest
import scipy.stats

from ani_jax.records import Estimate, Evidence
from ani_jax.reporting import figures, seeds


@pytest.fixture(scope="module")
def variants(none, funnel):
    return {"funnel": [(none, funnel), (none, funnel)]}


def plain(accuracy):
    return Evidence("none", "digits", 0, "standard", {}, {}, {"accuracy": Estimate(accuracy)}, ())


def test_the_interval_is_student_t_of_the_mean():
    values = [0.2, 0.5, 0.9, 0.4]
    found = seeds.mean(pandas.Series(values, name="x").groupby([0] * 4)).loc[0]
    low, high = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.x, found.x_low, found.x_high) == pytest.approx((np.mean(values), low, high))


def test_changes_are_paired_by_seed():
    pairs = [(plain(before), plain(before - 0.01)) for before in (0.91, 0.95, 0.99)]
    (line,) = seeds.lines({"x": pairs}).itertuples()
    # The seeds differ widely, the differences do not.
    assert line.high - line.low > 0.1
    assert (line.change, line.change_low, line.change_high) == pytest.approx((-0.01, -0.01, -0.01))
    assert line.seeds == "0.9 0.94 0.98"


def test_every_measured_quantity_has_a_line(variants):
    found = seeds.lines(variants).set_index("quantity")
    assert found["mean"]["ink: balanced accuracy"] == pytest.approx(0.3)
    assert found["mean"]["image: mse"] == pytest.approx(0.031)
    assert found["mean"]["image: mse, 16 releases"] == pytest.approx(0.02)
    # The reference was asked once; a deterministic client says the same every time.
    assert found.change["image: mse, 16 releases"] == pytest.approx(0.02 - 0.01)


def test_a_quantity_that_a_seed_lacks_is_left_out():
    silent = Evidence("none", "digits", 1, "standard", {}, {}, {}, ())
    assert seeds.lines({"x": [(plain(0.9), plain(0.9)), (plain(0.9), silent)]}).empty


def test_one_seed_has_no_interval():
    found = seeds.lines({"x": [(plain(0.9), plain(0.8))]})
    assert found[["low", "high", "change_low", "change_high"]].isna().all(axis=None)
    assert seeds.table(found).splitlines()[1].split() == ["x", "accuracy", "0.800", "-0.100", "1"]


def test_the_csv_holds_every_seed(variants):
    rows = list(csv.DictReader(io.StringIO(seeds.lines(variants).to_csv(index=False))))
    ink = next(row for row in rows if row["quantity"] == "ink: balanced accuracy")
    assert ink["seeds"] == "0.3 0.3"
    assert float(ink["change"]) == pytest.approx(0.3 - 0.99)


def test_the_picture_has_a_panel_a_target_and_names_the_variants(variants):
    drawn = figures.variants(variants).decode()
    assert drawn.startswith("<?xml")
    assert "points of accuracy lost" in drawn
    for text in ("funnel", "ink: balanced accuracy", "over class mean"):
        assert text in drawn
    with pytest.raises(ValueError, match="nothing to draw"):
        figures.variants({})
