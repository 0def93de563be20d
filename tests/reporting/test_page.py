"""The page is one well-formed, self-contained file: numbers, failures, and no markup that a name smuggles in."""

import base64
import dataclasses
import html.parser
import io
import re
import subprocess
import sys

import pytest
from PIL import Image

from ani_jax.records import Attacker, Estimate, Slice
from ani_jax.reporting import page

VOID = {"meta", "img", "br", "hr", "link", "input"}
COMMAND = "python -m experiments.main --defense=funnel"


class Reader(html.parser.HTMLParser):
    """Fails on unbalanced tags; collects tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def render(evidences, metrics=None, **changes):
    given = {"command": COMMAND, "config": {"defense": "funnel", "widths": (8, 16)}, "provenance": "[published] 2018"}
    return page.render(evidences, metrics or {}, **(given | changes))


@pytest.fixture(scope="module")
def report(none, funnel, log):
    return render((none, funnel), {"none": log, "funnel": log})


def test_page_is_well_formed_and_complete(report):
    words = Reader(report).words
    for part in (
        "loses 3.2 points",
        "30.0%",
        "[29.0, 31.0]",
        "denominator under two standard errors",
        "one defence seed",
    ):
        assert part in words
    for part in (
        "honest but curious",
        "membership inference",
        "0 or less",
        "[published] 2018",
        COMMAND,
        '"widths": [ 8, 16 ]',
    ):
        assert part in words


def test_every_attacker_is_listed_with_failures_visible(report):
    reader = Reader(report)
    assert reader.words.count("failed: loss not finite") == 2
    assert "failed: masked" in reader.words
    assert "conv (chosen)" in reader.words
    assert "envelope on test 0.990" in reader.words
    assert sum(tag == "td" and attrs.get("class") == "bad" for tag, attrs in reader.tags) >= 3


def test_page_is_self_contained(report):
    reader = Reader(report)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in reader.tags}
    for _, attrs in reader.tags:
        assert "href" not in attrs
        assert attrs.get("src", "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attrs)
    assert not re.search(r"url\(|@import", report)


def test_images_decode_and_have_alternatives(report):
    images = [attrs for tag, attrs in Reader(report).tags if tag == "img"]
    assert len(images) == 2 + 1 + 4
    assert all(len(attrs["alt"]) > 10 for attrs in images)
    (gallery,) = (attrs["src"] for attrs in images if attrs["src"].startswith("data:image/png"))
    assert "From top to bottom: original; none: decoder attack (MSE on test 0.0100); funnel" in Reader(report).words
    assert Image.open(io.BytesIO(base64.b64decode(gallery.partition(",")[2]))).format == "PNG"


def test_headings_and_tables_are_semantic(report):
    tags = [tag for tag, _ in Reader(report).tags]
    assert tags.count("h1") == 1
    assert tags.count("caption") == tags.count("table") > 0
    assert {"main", "header", "section", "figure", "thead"} <= set(tags)
    assert all(attrs.get("scope") for tag, attrs in Reader(report).tags if tag == "th")


def test_names_cannot_smuggle_markup_in(none, funnel, log, report):
    evil = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    attacker = Attacker(evil, 0.5, 0.5, 1, evil)
    attacks = tuple(dataclasses.replace(a, attackers=(attacker,)) for a in funnel.attacks)
    hostile = dataclasses.replace(funnel, subject=evil, dataset=evil, attacks=attacks, notes=(evil,))
    text = render((none, hostile), {evil: log}, command=evil, config={evil: evil}, provenance=evil)
    assert Reader(text).words.count("alert(1)") > 10
    assert {tag for tag, _ in Reader(text).tags} == {tag for tag, _ in Reader(report).tags}
    assert not any("onerror" in attrs for _, attrs in Reader(text).tags)


def test_whom_the_strongest_attack_reads_is_folded_away(none, funnel):
    def divided(evidence, value):
        parts = (
            Slice("ink", "red", 41, Estimate(value, 0.1, 0.6)),
            Slice("answer", "wrong", 9, Estimate(None, note="too few")),
        )
        return dataclasses.replace(
            evidence, attacks=(dataclasses.replace(evidence.attacks[0], slices=parts), *evidence.attacks[1:])
        )

    reader = Reader(render((divided(none, 0.5), funnel)))
    assert "Whom it reads: Attribute ink: balanced accuracy" in reader.words
    assert "ink: red 50.0% [10.0, 60.0] n = 41 – " in reader.words
    assert re.search(r"answer: wrong – \d+ n = 9 – ", reader.words)
    details = [attrs for tag, attrs in reader.tags if tag == "details"]
    # The configuration stands open, what is told beside the point does not.
    assert [("open" in attrs) for attrs in details] == [False, True]
    assert "too few" in reader.words
    assert "Whom it reads" not in Reader(render((none, funnel))).words


def test_equal_inputs_give_equal_bytes(none, funnel, log, report):
    assert render((none, funnel), {"none": log, "funnel": log}) == report


def test_a_bare_audit_has_no_empty_sections(none):
    bare = dataclasses.replace(none, attacks=(), utility={}, cost=None, gallery=None)
    reader = Reader(render((bare,), {"none": []}, provenance=""))
    assert "Training" not in reader.text
    assert "img" not in [tag for tag, _ in reader.tags]
    assert "nothing was measured" in reader.words


def test_no_evidence_is_an_error():
    with pytest.raises(ValueError, match="evidences is empty"):
        render(())


def test_reporting_never_loads_jax():
    heavy = "{'jax', 'flax', 'matplotlib.pyplot'}"
    code = f"import sys, ani_jax.reporting.page; sys.exit(bool({heavy} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
