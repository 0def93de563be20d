import re
import xml.etree.ElementTree as ET

import pandas
import pytest

from ani_jax.reporting import figures, frontier_page
from ani_jax.reporting.frontier import WORST, means, point

OF = {"dataset": "digits", "level": "standard"}


def test_the_page_is_self_contained_and_says_everything(frontier):
    html = frontier_page.render(frontier, **OF, command="python -m experiments.frontier --defenses=ani")
    assert html == frontier_page.render(frontier, **OF, command="python -m experiments.frontier --defenses=ani")
    assert "http" not in re.sub(r"data:[^\"]+", "", html).replace("http-equiv", "")
    assert "<script" not in html
    for text in ("funnel ×0.1", "ani ×1", "beta 3", "python -m experiments.frontier", "Hypervolume", WORST):
        assert text in html
    # One picture a measure, each described.
    assert html.count('<img src="data:image/svg+xml') == html.count('alt="Accuracy against leakage by') == 4


def test_undominated_points_are_bold(frontier):
    points = frontier_page.render(frontier, **OF, command="").split("Hypervolume</th>")[0]
    rows = re.findall(r'<tr><th scope="row">(.*?)</tr>', points)
    bold = {row.split("<")[0]: row.count("<strong>") for row in rows}
    assert bold["funnel ×10"] == 0
    assert bold["none"] == 4


def test_names_are_escaped():
    found = point("<b>", 1.0, {"w": 1.0}, 0, 0.9, 0.1, [("a", "<i>", 1, 0.5, 0.3, "ok")])
    html = frontier_page.render(found, **OF, command="<script>")
    assert "<b>" not in html
    assert "<i>" not in html
    assert "<script>" not in html


def test_the_figure_is_one_svg_with_a_panel_for_every_measure(frontier):
    drawn = frontier_page.figure(frontier)
    assert drawn == frontier_page.figure(frontier)
    root = ET.fromstring(drawn)
    assert sum(element.get("id", "").startswith("axes_") for element in root.iter()) == 4


def test_a_defence_keeps_its_colour_where_others_are_missing(frontier):
    other = point("other", 1.0, {}, 0, 0.9, 0.1, [("net", "paper", 1, 0.5, 0.3, "ok")])
    colours = [figures.COLOURS[means(frontier).defense.nunique()], figures.COLOURS[0]]
    drawn = frontier_page.figure(pandas.concat([frontier, other]), ["paper: net"]).decode()
    assert colours[0].lower() in drawn.lower()
    assert colours[1].lower() not in drawn.lower()


def test_bands_need_seeds(frontier):
    """The shaded band is there for a defence with several points and seeds, and only then."""

    def bands(found):
        root = ET.fromstring(frontier_page.figure(found, [WORST]))
        return sum("PolyCollection" in element.get("id", "") for element in root.iter())

    assert (bands(frontier), bands(frontier[frontier.seed == 0])) == (1, 0)


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="nothing to draw"):
        frontier_page.figure(point("ani", 1.0, {}, 0, status="not trained: x"))
