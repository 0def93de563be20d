"""What an audit promises whatever the client: who sees what, that it resumes, that it repeats itself, that it tells seconds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks import attribute, decoder
from ani_jax.attacks.base import Attack
from ani_jax.evaluation import audit as module
from ani_jax.evaluation.audit import audit
from ani_jax.evaluation.budgets import BUDGETS
from ani_jax.evaluation.seconds import within
from ani_jax.records import to_json
from ani_jax.types import Batch, Data, Source, Task, fixed

SMOKE = BUDGETS["smoke"]
ATTACKS = (
    Attack("attribute", "side", (attribute.Probe("side", 2), attribute.Net("side", 2, 6, width=8, batch_size=16))),
    Attack("decoder", "image", (decoder.Ridge(), decoder.Kernel())),
)


def client(x):
    return jnp.tanh(3 * x.reshape(len(x), -1) @ jax.random.normal(jax.random.key(5), (64, 12)))


@dataclasses.dataclass(frozen=True)
class Spy:
    """A member that keeps what it learnt."""

    member: object
    learnt: list = dataclasses.field(compare=False)

    @property
    def name(self):
        return self.member.name

    @property
    def steps(self):
        return self.member.steps

    def fit(self, key, view, on_event=None, earlier=()):
        fitted = self.member.fit(key, view, on_event, earlier)
        self.learnt.append([np.asarray(leaf) for leaf in jax.tree.leaves(fitted.attacker)])
        return fitted


def spied(data):
    learnt = []
    attacks = [dataclasses.replace(a, members=tuple(Spy(m, learnt) for m in a.members)) for a in ATTACKS]
    return audit(client, data, attacks=attacks, budget=SMOKE), learnt


def test_attackers_learn_nothing_from_defend_budget_and_test(toy):
    spoilt = jax.tree.map(lambda leaf: leaf * jnp.nan if leaf.dtype == jnp.float32 else 0 * leaf, toy.defend.stored)
    sensitive = {"side": 1 - toy.test.sensitive["side"]}
    flipped = toy.test._replace(image=toy.test.image**2, label=1 - toy.test.label, sensitive=sensitive)
    budget = jax.tree.map(lambda leaf: leaf * jnp.nan if leaf.dtype == jnp.float32 else 0 * leaf, toy.budget)
    before, learnt = spied(toy)
    after, again = spied(dataclasses.replace(toy, defend=Source(spoilt, fixed), budget=budget, test=flipped))
    # Four members, and the probe once more on raw images.
    assert [len(leaves) > 0 for leaves in learnt] == [True] * 5
    jax.tree.map(np.testing.assert_array_equal, learnt, again)
    for old, new in zip(before.attacks, after.attacks, strict=True):
        assert [member.validation for member in old.members] == [member.validation for member in new.members]
        assert old.chosen == new.chosen
        assert old.scores != new.scores


class Killed(RuntimeError):
    """The process ends here."""


class Fragile(dict):
    """Keeps so many parts, then the process is killed."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def __setitem__(self, name, text):
        if len(self) == self.most:
            raise Killed
        super().__setitem__(name, text)


def run(toy, store, events=None, seed=0, function=client):
    on_event = None if events is None else (lambda event: events.append(event["name"]) if "total" in event else None)
    return audit(function, toy, attacks=ATTACKS, budget=SMOKE, seed=seed, store=store, on_event=on_event)


def test_an_interrupted_audit_goes_on_behind_what_is_finished(toy):
    whole = run(toy, None)
    store, events = Fragile(1), []
    with pytest.raises(Killed):
        run(toy, store)
    store.most = 9
    assert to_json(run(toy, store, events)) == to_json(whole)
    assert [name for name in events if name.startswith("attribute")] == []
    assert "decoder image: ridge" in events
    again = []
    assert to_json(run(toy, store, again)) == to_json(whole)
    assert again == []


def test_parts_of_another_audit_are_not_taken(toy):
    store = {}
    run(toy, store)
    for options in ({"seed": 1}, {"function": lambda x: client(x) + 1}):
        events = []
        found = run(toy, store, events, **options)
        assert "attribute side: probe" in events
        assert to_json(found) == to_json(run(toy, None, **options))


def test_the_same_audit_twice_is_the_same_evidence(toy):
    assert to_json(run(toy, None)) == to_json(run(toy, None))


def test_seconds_become_steps_before_the_start(toy):
    evidence = audit(client, toy, attacks=ATTACKS, budget=30)
    assert evidence.budget == "30 s"
    assert evidence.sizes["auxiliary_sample"] == within(30).sample
    assert evidence.steps["attribute side: network-0"] == 6


def test_the_criterion_stands_beside_the_attacks_where_the_budget_has_steps(toy, monkeypatch):
    monkeypatch.setattr(
        module, "Critics", lambda steps: module.criterion.__globals__["Critics"]("nwj", 1, steps, 16, 32)
    )
    events = []
    table = dataclasses.replace(SMOKE, critic_steps=20)
    store = {}
    options = {"attacks": ATTACKS[1:], "budget": table, "on_event": events.append, "store": store}
    found = audit(client, toy, **options)
    assert found.criterion.information.examples[2] == len(toy.test.label)
    assert [test.truth for test in found.criterion.information.self_tests] == [0.0, 2.0]
    assert {"kind": "attack_end", "name": "criterion"} in events
    assert any(name.startswith("criterion ") for name in store)
    assert audit(client, toy, **options).criterion == found.criterion
    assert audit(client, toy, attacks=ATTACKS[1:], budget=SMOKE).criterion is None


def test_a_criterion_that_fails_is_a_note(toy, monkeypatch):
    def fails(*arguments):
        raise FloatingPointError("no")

    monkeypatch.setattr(module, "criterion", fails)
    found = audit(client, toy, attacks=ATTACKS[1:], budget=dataclasses.replace(SMOKE, critic_steps=1))
    assert found.criterion is None
    assert "no inversion-difficulty criterion: FloatingPointError: no" in found.notes


def gaussian(key, count, side=4):
    """Images around 0.5 whose variance falls off from pixel to pixel; hardly ever outside [0, 1]."""
    scales = 0.12 * 0.8 ** jnp.arange(side * side)
    image = 0.5 + (jax.random.normal(key, (count, side * side)) * scales[None]).reshape(count, side, side, 1)
    return Batch(image, jnp.zeros(count, jnp.int32), {})


def test_ridge_follows_wiener_at_every_number_of_queries():
    parts = [gaussian(jax.random.key(i), count) for i, count in enumerate((2, 2, 4000, 500, 2000))]
    sources = [Source(part, fixed) for part in parts]
    data = Data(sources[0], parts[1], sources[2], parts[3], parts[4], "gaussian", Task("none", ("a",)), ())
    turn = jnp.linalg.qr(jax.random.normal(jax.random.key(9), (16, 16)))[0]
    variance, power = 0.05**2, (0.12 * 0.8 ** np.arange(16)) ** 2

    def noisy(x, key):
        z = x.reshape(len(x), -1) @ turn
        return z + 0.05 * jax.random.normal(key, z.shape)

    queries = (1, 4, 16, 64)
    attacks = [Attack("decoder", "image", (decoder.Ridge(),), queries=k) for k in queries]
    evidence = audit(noisy, data, attacks=attacks, budget=dataclasses.replace(SMOKE, sample=4000))
    for k in queries:
        wiener = (power * (variance / k) / (power + variance / k)).mean()
        assert evidence.attack("decoder", "image", k).scores["mse"].value == pytest.approx(wiener, rel=0.05), k


def test_refuses(toy):
    with pytest.raises(ValueError, match=r"budget=.huge.: must be one of .*quick, standard.*seconds"):
        audit(client, toy, budget="huge")
    with pytest.raises(ValueError, match="budget=-3: seconds must be above 0"):
        audit(client, toy, budget=-3)
    with pytest.raises(ValueError, match="seed=-1"):
        audit(client, toy, seed=-1)
    with pytest.raises(ValueError, match="release"):
        audit(3, toy)
