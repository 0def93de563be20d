import re
import xml.etree.ElementTree as ET

import pandas
import pytest

from ani_jax.reporting import figures, frontier_page
from ani_jax.reporting.frontier import WORST, means, point
from tests.deploy import browser

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


@pytest.fixture
def costly():
    """Three clients of different cost, each with a report, and one that has none."""
    leaks = [("net", "ink", 1, 0.5, 0.4, "ok")]
    found = [point("none", 1.0, {}, 0, 0.99, 0.1, [("net", "ink", 1, 1.0, 1.0, "ok")], macs=1000)]
    for place, macs in enumerate((1000, 100_000, None)):
        report = f"points/client-{place}/report.html"
        found.append(point(f"<client {place}>", 1.0, {}, 0, 0.9 + place / 50, 0.1, leaks, macs=macs, report=report))
    return pandas.concat(found)


def test_every_client_is_a_mark_that_tells_of_it_and_leads_to_its_report(costly):
    plot = frontier_page.scatter(costly)
    marks = {mark["number"]: mark for mark in plot["marks"]}
    assert marks[2]["told"] == "<client 1>, seed 0: accuracy 92.0%, leakage 0.40, 100,000 MACs"
    assert marks[3]["told"] == "<client 2>, seed 0: accuracy 94.0%, leakage 0.40"
    # A hundredfold cost is two steps more of radius; what is not known is small.
    assert marks[2]["size"] - marks[1]["size"] == 5.0
    assert marks[3]["size"] == marks[1]["size"]
    assert marks[1]["x"] < marks[2]["x"] < marks[3]["x"]
    assert marks[1]["y"] == marks[2]["y"] > marks[0]["y"]
    assert marks[0]["report"] == ""
    assert len({name[1:] for name in plot["names"]}) == 4
    html = frontier_page.render(costly, **OF, command="")
    assert html.count('href="points/client-') == 3
    assert "<client" not in html
    assert "<td>100,000</td>" in html


def test_in_a_browser_a_defence_can_be_left_out(costly, tmp_path):
    (tmp_path / "frontier.html").write_text(frontier_page.render(costly, **OF, command=""))
    driver = browser.chromium(runtime=False)
    try:
        driver.get(f"file://{tmp_path / 'frontier.html'}")
        marks = driver.find_elements("css selector", ".plot a")
        assert [mark.is_displayed() for mark in marks] == [True] * 4
        driver.find_element("id", "show-2").click()
        assert sorted(mark.is_displayed() for mark in marks) == [False, True, True, True]
        assert driver.get_log("browser") == []
    finally:
        driver.quit()
