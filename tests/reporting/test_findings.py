"""The headline is computed from the strongest successful attacks, and caveats say what limits it."""

import dataclasses

import pytest

from ani_jax.reporting import findings


def test_notes_failures_and_incomparable_audits_are_caveats(none, funnel):
    other = dataclasses.replace(funnel, budget="full", steps={"conv": 1})
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


def test_strongest_ignores_failures(funnel):
    best = findings.strongest(funnel, "image")
    assert best is not None
    assert best.queries == 1
    often = findings.strongest(funnel, "image", 16)
    assert often is not None
    assert often.queries == 16
    assert findings.strongest(funnel, "paper") is None


def test_a_lone_audit_is_summed_up(funnel):
    (sentence,) = findings.headline((funnel,))
    assert sentence.startswith("funnel: accuracy 94.4%; ink inferred with 30.0% balanced accuracy; ")
    assert sentence.endswith("the strongest reconstruction's MSE is 0.0310.")
