import dataclasses
import re
import xml.etree.ElementTree as ET

import pytest

from ani_jax.frontier.points import WORST, Frontier, Leak, Point
from ani_jax.reporting import figures, frontier_page
from ani_jax.reporting.frontier import panels


def test_the_page_is_self_contained_and_says_everything(frontier):
    html = frontier_page.render(frontier, command="python -m experiments.frontier --defenses=ani")
    assert html == frontier_page.render(frontier, command="python -m experiments.frontier --defenses=ani")
    assert "http" not in re.sub(r"data:[^\"]+", "", html).replace("http-equiv", "")
    assert "<script" not in html
    for text in ("funnel ×0.1", "ani ×1", "beta 3", "python -m experiments.frontier", "Hypervolume", WORST):
        assert text in html
    # One picture a measure, each described.
    assert html.count('<img src="data:image/svg+xml') == html.count('alt="Accuracy against leakage by') == 4


def test_undominated_points_are_bold(frontier):
    points = frontier_page.render(frontier, command="").split("Hypervolume</th>")[0]
    rows = re.findall(r'<tr><th scope="row">(.*?)</tr>', points)
    bold = {row.split("<")[0]: row.count("<strong>") for row in rows}
    assert bold["funnel ×10"] == 0
    assert bold["none"] == 4


def test_names_are_escaped():
    point = Point("<b>", 1.0, {"w": 1.0}, 0, 0.9, 0.1, (Leak("a", "<i>", 1, 0.5, 0.3),))
    html = frontier_page.render(Frontier("digits", "quick", (point,)), command="<script>")
    assert "<b>" not in html
    assert "<i>" not in html
    assert "<script>" not in html


def test_the_figure_is_one_svg_with_a_panel_for_every_measure(frontier):
    found = panels(frontier)
    drawn = frontier_page.figure(found)
    assert drawn == frontier_page.figure(found)
    root = ET.fromstring(drawn)
    assert sum(element.get("id", "").startswith("axes_") for element in root.iter()) == len(found) == 4


def test_a_defence_keeps_its_colour_where_others_are_missing(frontier):
    found = panels(frontier)[0]
    alone = dataclasses.replace(found, means=tuple(m for m in found.means if m.defense == found.means[-1].defense))
    names = list(dict.fromkeys(m.defense for m in found.means))
    colours = [figures.COLOURS[names.index(found.means[-1].defense)], figures.COLOURS[0]]
    assert colours[0] != colours[1]
    drawn = frontier_page.figure((alone,), 1, names).decode()
    assert colours[0].lower() in drawn.lower()
    assert colours[1].lower() not in drawn.lower()


def test_bands_need_seeds(frontier):
    """The shaded band is there for a defence with several points and seeds, and only then."""

    def bands(found):
        root = ET.fromstring(frontier_page.figure(panels(found)[:1]))
        return sum("PolyCollection" in element.get("id", "") for element in root.iter())

    single = dataclasses.replace(frontier, points=tuple(p for p in frontier.points if p.seed == 0))
    assert (bands(frontier), bands(single)) == (1, 0)


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="nothing to draw"):
        frontier_page.figure(())
