"""A bar where somebody waits, nothing where nobody does."""

import io
import sys

import pytest

from ani_jax.attacks.attribute import Probe
from ani_jax.attacks.base import Family
from ani_jax.evaluation.audit import audit
from ani_jax.evaluation.progress import Progress, interactive
from ani_jax.targets.attribute import Attribute

SIDE = Attribute("side", 2)
ATTACKS = (Family("attribute", SIDE, (Probe(SIDE),)),)


@pytest.fixture
def screen(monkeypatch):
    """Where bars are drawn."""
    found = io.StringIO()
    monkeypatch.setattr(sys, "stderr", found)
    return found


def test_one_bar_follows_an_audit(screen):
    progress = Progress()
    progress.bar.mininterval = 0
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
    text = screen.getvalue()
    assert "audit:   0%" in text
    assert "attribute ink: mlp, 1,200 of 4,000" in text
    assert "3/3" in text.splitlines()[-1]
    assert progress.bar.disable is True or progress.bar.n == 3


def test_an_audit_is_silent_unless_somebody_waits(toy, screen, capsys, monkeypatch):
    def told(**options):
        screen.truncate(screen.seek(0))
        audit(lambda x: x[:, ::2], toy, level="preview", attacks=ATTACKS, **options)
        return screen.getvalue()

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
    assert capsys.readouterr().out == ""


def test_a_client_that_is_refused_leaves_no_bar(toy, screen):
    with pytest.raises(ValueError, match="release"):
        audit(lambda x: None, toy, level="preview", progress=True)
    assert screen.getvalue() == ""
