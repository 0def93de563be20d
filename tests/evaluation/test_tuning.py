"""Trials decide what is trained to the end, and every one of them is on record."""

import jax
import jax.numpy as jnp
import pytest

from ani_jax.attacks import attribute, decoder
from ani_jax.attacks.base import Fitted, prepare
from ani_jax.attacks.query import as_release
from ani_jax.evaluation import tuning
from ani_jax.evaluation.budgets import BUDGETS, default_attacks
from ani_jax.modules.adversaries import MirrorDecoder
from ani_jax.types import Knowledge, Task

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def view(toy):
    return prepare(KEY, Knowledge(as_release(lambda x: x.reshape(len(x), -1))), toy.auxiliary, toy.validation, count=64)


def scores(view, sharp):
    """An attacker that is right with this confidence, negative: wrong."""
    return Fitted(lambda key, z: sharp * jax.nn.one_hot(view.validation.sensitive["side"], 2))


def test_the_form_with_the_best_trial_is_trained(view, monkeypatch):
    *trials, final = tuning.tuned("side", [attribute.Net("side", 2, 7, width=8)], 2, 0)
    trained = []
    monkeypatch.setattr(attribute.Net, "fit", lambda self, *rest: trained.append(self) or Fitted(None))
    for best in range(len(trials)):
        earlier = [scores(view, 1.0 if place == best else -1.0) for place in range(len(trials))]
        final.fit(KEY, view, None, tuple(earlier))
        assert trained[-1] == final.cells[best]
    assert len({(net.learning_rate, net.width) for net in trained}) == len(tuning.GRID)
    assert {net.steps for net in trained} == {7}


def test_failed_trials_never_win(view, monkeypatch):
    *trials, final = tuning.tuned("side", [attribute.Net("side", 2, 7)], 2, 1)
    chosen = []
    monkeypatch.setattr(attribute.Net, "fit", lambda self, *rest: chosen.append(self) or Fitted(None))
    perfect = scores(view, 50.0)
    dead = [Fitted(None, "gone"), Fitted(perfect.attacker, "diverged"), scores(view, jnp.nan), Fitted(None, "gone")]
    final.fit(KEY, view, None, (perfect, *dead))
    assert chosen == [final.cells[0]]
    assert len(trials) == len(dead)


def test_a_grid_is_really_tried(view):
    net = decoder.Net(MirrorDecoder((8, 8, 1), 8), "mirror", 6, batch_size=16)
    members = tuning.tuned("image", [net], 2, 0)
    found = []
    for member in members:
        found.append(member.fit(KEY, view, None, tuple(found)))
    assert [member.steps for member in members] == [2, 2, 2, 2, 6]
    assert {fitted.attacker.module.width for fitted in found[:4]} == {4, 8}
    assert all(fitted.failed is None for fitted in found)
    assert members[-1].name == "mirror"


def test_without_steps_nothing_is_tried():
    nets = [attribute.Net("side", 2, 7)]
    assert tuning.tuned("side", nets, 0, 3) == tuple(nets)


def test_standard_tunes_and_names_members_apart():
    attacks = default_attacks(BUDGETS["standard"], (Task("ink", ("a", "b")),), (32, 32, 3))
    for attack in attacks:
        names = [member.name for member in attack.members]
        assert len(set(names)) == len(names)
    for attack in [attack for attack in attacks if attack.name in ("attribute", "decoder")]:
        finals = [member for member in attack.members if isinstance(member, tuning.Tuned)]
        assert finals
        for final in finals:
            tried = attack.members[final.first : final.first + len(final.cells)]
            assert [(t.net.learning_rate, type(t)) for t in tried] == [
                (cell.learning_rate, tuning.Trial) for cell in final.cells
            ]
    assert not any(
        isinstance(m, tuning.Trial) for a in default_attacks(BUDGETS["quick"], (), (32, 32, 3)) for m in a.members
    )
