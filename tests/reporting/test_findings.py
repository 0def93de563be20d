"""The headline is computed from the strongest successful attacks, and caveats say what limits it."""

import ast
import dataclasses
import pathlib

import pytest

from ani_jax.frontier import points
from ani_jax.records import AttackResult, Clause, Estimate, Metric, TargetWords
from ani_jax.reporting import figures, findings, frontier, page, seeds, splits, table
from ani_jax.targets.attribute import Attribute
from ani_jax.targets.image import Image


def test_notes_failures_and_incomparable_audits_are_caveats(none, funnel):
    other = dataclasses.replace(funnel, level="full", steps={"conv": 1})
    found = findings.caveats((none, other))
    assert "funnel: one defence seed" in found
    assert sum("compare them with care" in caveat for caveat in found) == 2
    assert any("failed: masked" in caveat and "nothing about privacy" in caveat for caveat in found)
    assert not findings.caveats((none,))


def test_headline_is_computed_from_the_strongest_attacks(none, funnel):
    (sentence,) = findings.headline((none, funnel))
    assert "funnel loses 3.2 points of accuracy (97.6% → 94.4%)" in sentence
    assert "error rises 210% (0.0100 → 0.0310), 0.0200 when asked 16 times" in sentence
    assert "R² over class mean falls 75% (0.80 → 0.20), 0.40 when asked 16 times" in sentence
    assert "ink 99.0% → 30.0% (chance 25.0%)" in sentence


def test_headline_says_where_intervals_overlap(none, audit):
    (sentence,) = findings.headline((none, audit("weak", 0.97, none.attacks)))
    assert "loses 0.6 points of accuracy (97.6% → 97.0%, intervals overlap)" in sentence


def test_a_failed_attack_is_no_privacy(none, audit, decoder):
    broken = audit("broken", 0.97, (decoder(1.0, -1.0, status="failed: nan"),))
    (sentence,) = findings.headline((none, broken))
    assert "no successful attack on the image can be compared" in sentence
    assert "rises" not in sentence


def test_reference_is_none_else_the_first(none, funnel):
    assert findings.reference((funnel, none)) == 1
    assert findings.reference((funnel, funnel)) == 0
    with pytest.raises(ValueError, match="evidences is empty"):
        findings.reference(())


def test_a_lone_audit_is_summed_up(funnel):
    (sentence,) = findings.headline((funnel,))
    assert sentence.startswith("funnel: accuracy 94.4%; ink inferred with 30.0% balanced accuracy; ")
    assert sentence.endswith("the strongest reconstruction's MSE is 0.0310 (R² over class mean 0.20).")


def test_a_lone_reconstruction_is_told_with_everything_it_is_judged_by(none):
    scores = {"mse": 0.0156, "ssim": 0.74, "r2_mean": 0.55, "r2_class_mean": 0.46, "retrieval": 0.398}
    notes = {"retrieval": "among 32"}
    told = {name: Estimate(value, note=notes.get(name, "")) for name, value in scores.items()}
    image = dataclasses.replace(none.attacks[1], scores=told)
    (sentence,) = findings.headline((dataclasses.replace(none, attacks=(image,)),))
    beside = "SSIM 0.74, R² over mean 0.55, R² over class mean 0.46, top-1 retrieval 39.8% among 32"
    assert sentence.endswith(f"MSE is 0.0156 ({beside}).")


GAZE = TargetWords(
    name="gaze",
    title="Gaze",
    metrics=(
        Metric("angle", "angle off", "decibel", "relative"),
        Metric("hits", "hit rate", "percent", "points", references=True),
    ),
    strength="angle",
    higher=False,
    leakage="hits",
    plotted="hits",
    floor="luck",
    summary=("hits",),
    clauses=(Clause("hits", "hit rate in following the gaze"), Clause("angle", "the error", relative=True)),
    alone="the gaze is followed within {}",
)


def follower(angle, hits, queries=1, attack="eye"):
    scores = {"angle": Estimate(angle), "hits": Estimate(hits)}
    return AttackResult(attack, "gaze", queries, "net", scores, {"luck": 0.1}, (), Estimate(None))


@pytest.fixture
def gazes(none, funnel):
    """Two audits of a target that this house has never heard of, beside those that it knows."""
    before = dataclasses.replace(none, attacks=(*none.attacks, follower(4.0, 0.9)), targets=(GAZE, *none.targets))
    after = (follower(9.0, 0.2), follower(6.0, 0.4, attack="ear"), follower(5.0, 0.5, 64))
    return before, dataclasses.replace(funnel, attacks=(*funnel.attacks, *after), targets=(GAZE, *funnel.targets))


def test_an_unknown_target_is_reported_by_its_own_words(gazes):
    (sentence,) = findings.headline(gazes)
    # Less is stronger: 6 degrees is the one that counts. The targets stand in the order of the evidence.
    assert (
        "; hit rate in following the gaze 90.0% → 40.0% (luck 10.0%), 50.0% when asked 64 times; the error" in sentence
    )
    assert (
        "the error rises 50% (4.0 dB → 6.0 dB), 5.0 dB when asked 64 times; balanced accuracy in inferring ink"
        in sentence
    )
    alone = "; the gaze is followed within 6.0 dB (hit rate in following the gaze 40.0%); "
    assert alone in findings.headline(gazes[1:])[0]
    titles = [section.title for section in table.sections(gazes)]
    assert titles[1:4] == ["Gaze: eye attack", "Gaze: ear attack", "Gaze: eye attack, 64 releases"]
    labels = [row.label for row in table.sections(gazes)[1].rows]
    assert labels == ["angle off", "change", "hit rate", "change in points", "luck"]
    assert figures.measured(gazes) == ("gaze", "ink", "image")
    assert "gaze: hit rate, %" in figures.scatter(gazes).decode()
    assert "gaze: hits, 64 releases" in [*seeds.lines({"funnel": [gazes]}).quantity]
    assert splits.table({"a": gazes[0]}).splitlines()[1].split()[1:4] == ["97.6%", "90.0%", "99.0%"]
    kept = frontier.audited(gazes[1], "funnel", 1.0, {}).set_index("measure").loc["gaze: eye, 64 releases"]
    assert (kept.score, kept.leakage) == (5.0, 0.5)
    assert "Gaze: eye attack" in page.render(gazes, {}, command="", config={})


def test_an_attack_without_words_is_an_error(none):
    with pytest.raises(KeyError, match="no words for the target 'ink' in the evidence of 'none'"):
        findings.headline((dataclasses.replace(none, targets=none.targets[1:]),))


def test_no_report_asks_which_target_it_is():
    """Names of targets and of their metrics are in no string of the code; what a text explains to readers is no question."""
    names = {metric.name for words in (Attribute("ink", 4).words, Image().words) for metric in words.metrics}
    for folder in (pathlib.Path(findings.__file__).parent, pathlib.Path(points.__file__).parent):
        for file in folder.glob("*.py"):
            strings = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}
            assert strings & {"image", "ink", "paper", "attribute", *names} == set(), file
