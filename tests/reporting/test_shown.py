"""Evidence says in a few lines what leaks and why to believe it; a notebook and a file get the whole report."""

import dataclasses
import html.parser

import pytest

import ani_jax
from ani_jax.records import Attacker, AttackResult, Control, Estimate, Evidence, Look, from_json, to_json
from ani_jax.reporting import shown
from ani_jax.targets.attribute import Attribute

LOOKS = (Look(100, 1.0, 0.3), Look(200, 0.9, 0.3))
HEARD = (Control("planted linear", 0.75, 0.75, "mlp"), Control("planted parity", 0.5, 0.5, "mlp"))
DEAF = (Control("planted linear", 0.75, 0.3, "mlp"), Control("planted parity", 0.5, 0.02, "mlp"))


def lines(evidence):
    return dict(line.partition(": ")[::2] for line in repr(evidence).splitlines() if ": " in line)


@pytest.fixture
def quiet(none):
    """An audit of a client of which an attack found nothing, and of its images nothing beyond the answer."""

    def attack(over, ended="plateau reached", name="mlp", queries=1):
        scores = {
            "balanced_accuracy": Estimate(0.25 + over, 0.23 + over, 0.27 + over),
            "over_floor": Estimate(over, over - 0.02, over + 0.02),
        }
        beside = {"chance": 0.25, "majority": 0.25, "label_mediated": 0.262, "raw_input": 1.0}
        tried = (Attacker(name, 0.2, 0.2, curve=LOOKS, ended=ended),)
        return AttackResult("attribute", "ink", queries, name, scores, beside, tried, Estimate(0.01, -0.02, 0.03))

    def of(*attacks, controls=HEARD, **changes):
        image = dataclasses.replace(
            none.attacks[1], scores={"mse": Estimate(0.04), "r2_class_mean": Estimate(0, -0.1, 0.1)}
        )
        return dataclasses.replace(none, subject="mine", attacks=(*attacks, image), controls=controls, **changes)

    of.attack = attack
    return of


def test_a_verdict_names_level_strongest_results_plateau_and_controls(none):
    text, told = repr(none), lines(none)
    assert len(text) < 2000
    assert text.startswith("none on digits, seed 0, level standard\n")
    assert told["verdict"] == "ink, image leak"
    assert told["ink"] == (
        "balanced accuracy 99.0% [98.0, 100.0] (chance 25.0%, majority class 26.2%); leakage 1.00 [0.99, 1.01]; conv; "
        "no plateau was looked for"
    )
    assert told["image"].startswith("MSE 0.0100 [0.00900, 0.0110] (MSE of the mean image 0.0710, ")
    assert "R² over class mean 0.80 [0.79, 0.81]; residual; " in told["image"]
    assert told["controls"] == "none, nothing was planted that the audit should have noticed"


def test_nothing_found_counts_where_planted_labels_were_found(quiet):
    told = lines(quiet(quiet.attack(0.01)))
    assert told["verdict"] == "no more than the floor was found of ink, image"
    assert told["ink"].endswith("; mlp; plateau reached")
    assert told["controls"] == "2 of 2 planted labels were found"
    deaf = lines(quiet(quiet.attack(0.01), controls=DEAF))
    assert deaf["verdict"] == "none on ink, image: a control failed"
    assert deaf["controls"] == (
        "0 of 2 planted labels were found; failed: planted linear (30.0 of 75.0 points), planted parity (2.0 of 50.0 points)"
    )
    assert lines(quiet(quiet.attack(0.01), controls=()))["verdict"] == "none on ink, image: nothing was planted"
    # A leak that was found needs no control.
    assert lines(quiet(quiet.attack(0.3), controls=DEAF))["verdict"].startswith("ink leaks; none on image")
    part = (*HEARD, Control("planted parity, 10 points", 0.1, 0.02, "mlp"))
    assert (
        lines(quiet(quiet.attack(0.01), controls=part))["verdict"] == "no more than the floor was found of ink, image"
    )
    assert (
        "failed: planted parity, 10 points (2.0 of 10.0" in lines(quiet(quiet.attack(0.01), controls=part))["controls"]
    )


def test_the_strongest_attack_is_told_however_often_it_asked(quiet):
    often = quiet.attack(0.2, "still rising: a lower bound", "conv", 64)
    told = lines(quiet(quiet.attack(0.01), often))
    assert told["ink"].startswith("balanced accuracy 45.0%")
    assert told["ink"].endswith("; conv on 64 releases; still rising: a lower bound")


def test_what_failed_or_cannot_be_read_is_no_privacy(quiet):
    broken = dataclasses.replace(quiet.attack(0.01), status="failed: nan", scores={})
    told = lines(quiet(broken))
    assert told["ink"] == "no attack ran through, which says nothing about privacy"
    assert "no more than the floor was found of image; none on ink: nothing was measured" in told["verdict"]
    blind = quiet(quiet.attack(0.01))
    image = dataclasses.replace(
        blind.attacks[1], scores={"mse": Estimate(0.04), "r2_class_mean": Estimate(None, note="x")}
    )
    assert "none on image: " in lines(dataclasses.replace(blind, attacks=(blind.attacks[0], image)))["verdict"]


def test_a_verdict_stays_short_and_steers_no_terminal(quiet):
    ink = quiet.attack(0.5)
    names = [f"attribute {i}" for i in range(40)]
    many = quiet(
        *(dataclasses.replace(ink, target=name) for name in names),
        targets=tuple(Attribute(name, 4).words for name in names),
        notes=("\x1b[2J",) * 3,
    )
    text = repr(dataclasses.replace(many, subject="no\x1b[2Jne\n" * 100))
    assert len(text) < 2000
    assert text.replace("\n", "").isprintable()
    assert " more\ncontrols: " in text
    assert "3 notes" in text


def test_equality_and_json_are_those_of_plain_data(none):
    again = from_json(Evidence, to_json(none))
    assert again == none
    assert repr(again) == repr(none)
    assert ani_jax.verdict(none) == str(none)


class Reader(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def test_a_notebook_gets_the_report_and_keeps_its_own_style(funnel):
    text = funnel._repr_html_()
    reader = Reader(text)
    assert not {"html", "head", "body", "iframe", "script", "title", "meta"} & set(reader.tags)
    assert reader.tags[:2] == ["div", "style"]
    assert text.rstrip().endswith("</div>")
    style = reader.text[1]
    # Nothing of it is outside a scope, which is the element that it stands in.
    assert style.strip().startswith("@scope {")
    assert style.count("{") == style.count("}")
    assert "30.0%" in text
    assert "one defence seed" in text
    assert "level=&#39;standard&#39;, seed=0" in text


def test_a_saved_page_is_a_whole_one(funnel, tmp_path):
    funnel.save(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert "<title>funnel on digits: inference privacy audit</title>" in text
    assert "@scope" not in text
    funnel.save(str(tmp_path / "again.html"))
    assert (tmp_path / "again.html").read_text() == text


@pytest.mark.parametrize("name", ["report.json", "report", "absent/report.html"])
def test_a_page_that_cannot_be_written_is_refused_in_a_line(funnel, tmp_path, name):
    with pytest.raises(ValueError, match=r"path=.*report.*: (must end in \.html|cannot be written)") as error:
        shown.save(funnel, tmp_path / name)
    assert "\n" not in str(error.value)


def test_of_whom_a_plateau_is_told_is_said_where_another_was_chosen(quiet):
    attack = quiet.attack(0.01)
    line = Attacker("line", 0.3, 0.3)
    closed = dataclasses.replace(attack, chosen="line", attackers=(*attack.attackers, line))
    assert lines(quiet(attack))["ink"].endswith("; mlp; plateau reached")
    assert lines(quiet(closed))["ink"].endswith("; line; networks: plateau reached")
    assert dataclasses.replace(closed, attackers=(line,)).ended == ""
