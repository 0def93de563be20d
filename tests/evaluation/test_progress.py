"""A bar where somebody waits, nothing where nobody does."""

import sys

import pytest

from ani_jax.attacks.attribute import Probe
from ani_jax.attacks.base import Family
from ani_jax.evaluation.audit import audit
from ani_jax.evaluation.progress import Progress, interactive
from ani_jax.targets.attribute import Attribute

SIDE = Attribute("side", 2)
ATTACKS = (Family("attribute", SIDE, (Probe(SIDE),)),)


def test_one_bar_follows_an_audit(capsys):
    progress = Progress()
    for event in (
        {"kind": "audit_start", "total": 3},
        {"kind": "attack_start", "name": "attribute ink: mlp", "total": 4000},
        {"kind": "attack_step", "name": "attribute ink: mlp", "step": 1200, "loss": 0.5},
        {"kind": "attack_end", "name": "attribute ink: mlp"},
        {"kind": "audit_step", "step": 1},
        {"kind": "somebody else's"},
        {"kind": "audit_step", "step": 3},
        {"kind": "audit_end"},
    ):
        progress(event)
    text = capsys.readouterr().err
    assert "audit:   0%" in text
    assert "attribute ink: mlp, 1,200 of 4,000" in text
    assert "3/3" in text.splitlines()[-1]
    assert progress.bar.n == 3


def test_an_audit_is_silent_unless_somebody_waits(toy, capsys, monkeypatch):
    def told(**options):
        audit(lambda x: x[:, ::2], toy, level="preview", attacks=ATTACKS, **options)
        shown = capsys.readouterr()
        assert shown.out == ""
        return shown.err

    monkeypatch.delattr(sys, "ps1", raising=False)
    assert not interactive()
    assert told() == ""
    assert "1/1" in told(progress=True)
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert interactive()
    assert "1/1" in told()
    assert told(progress=False) == ""
    # Whoever listens shows it in their own way, unless they ask for both.
    events = []
    assert told(on_event=events.append) == ""
    assert [event["kind"] for event in events][:2] == ["audit_start", "attack_start"]
    assert [event for event in events if event["kind"].startswith("audit")] == [
        {"kind": "audit_start", "total": 1},
        {"kind": "audit_step", "step": 1},
        {"kind": "audit_end"},
    ]
    assert "1/1" in told(on_event=events.append, progress=True)


def test_a_client_that_is_refused_leaves_no_bar(toy, capsys):
    with pytest.raises(ValueError, match="release"):
        audit(lambda x: None, toy, level="preview", progress=True)
    assert capsys.readouterr().err == ""
