"""What an audit promises whatever the client: who sees what, that it resumes, that it repeats itself."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks import attribute, decoder, query
from ani_jax.attacks.base import LEVELS, Attack, Family
from ani_jax.evaluation import audit as module
from ani_jax.evaluation.audit import audit
from ani_jax.information.critics import Critics
from ani_jax.records import to_json
from ani_jax.targets.attribute import Attribute
from ani_jax.targets.image import Image
from ani_jax.types import Batch, Data, Source, Task, fixed

PREVIEW = LEVELS["preview"]
SIDE = Attribute("side", 2)
NETWORK = attribute.Reader(SIDE, steps=6, batch_size=16)
ATTACKS = (
    Family("attribute", SIDE, (attribute.Probe(SIDE), NETWORK)),
    Family("decoder", Image(), (decoder.Ridge(Image()), decoder.Kernel(Image()))),
)


def client(x):
    return jnp.tanh(3 * x.reshape(len(x), -1) @ jax.random.normal(jax.random.key(5), (64, 12)))


@dataclasses.dataclass(frozen=True)
class Spy(Attack):
    """Keeps what another attack learnt."""

    spied: Attack | None = None
    learnt: list = dataclasses.field(default_factory=list, compare=False)

    family = "attribute"

    @property
    def name(self):
        return self.spied.name

    def fit(self, context):
        fitted = self.spied.fit(context)
        self.learnt.append([np.asarray(leaf) for leaf in jax.tree.leaves(fitted.attacker)])
        return fitted


def spied(data):
    learnt = []
    watched = [
        dataclasses.replace(f, attacks=tuple(Spy(f.target, a.steps, spied=a, learnt=learnt) for a in f.attacks))
        for f in ATTACKS
    ]
    return audit(client, data, attacks=watched, level="preview"), learnt


def test_attackers_learn_nothing_from_defend_holdout_and_test(toy):
    spoilt = jax.tree.map(lambda leaf: leaf * jnp.nan if leaf.dtype == jnp.float32 else 0 * leaf, toy.defend.stored)
    sensitive = {"side": 1 - toy.test.sensitive["side"]}
    flipped = toy.test._replace(image=toy.test.image**2, label=1 - toy.test.label, sensitive=sensitive)
    holdout = jax.tree.map(lambda leaf: leaf * jnp.nan if leaf.dtype == jnp.float32 else 0 * leaf, toy.holdout)
    before, learnt = spied(toy)
    after, again = spied(dataclasses.replace(toy, defend=Source(spoilt, fixed), holdout=holdout, test=flipped))
    # Four attackers, and the probe once more on raw images.
    assert [len(leaves) > 0 for leaves in learnt] == [True] * 5
    jax.tree.map(np.testing.assert_array_equal, learnt, again)
    for old, new in zip(before.attacks, after.attacks, strict=True):
        assert [one.validation for one in old.attackers] == [one.validation for one in new.attackers]
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
    on_event = (
        None
        if events is None
        else (lambda event: events.append(event["name"]) if event["kind"] == "attack_start" else None)
    )
    return audit(function, toy, attacks=ATTACKS, level="preview", seed=seed, store=store, on_event=on_event)


def test_an_interrupted_audit_goes_on_behind_what_is_finished(toy):
    whole = run(toy, None)
    # Behind what is found where the image itself is sent, and behind the first family.
    store, events = Fragile(2), []
    with pytest.raises(Killed):
        run(toy, store)
    store.most = 9
    assert to_json(run(toy, store, events)) == to_json(whole)
    assert [name for name in events if name.startswith("attribute")] == []
    assert "decoder image: ridge" in events
    again = []
    assert to_json(run(toy, store, again)) == to_json(whole)
    assert again == []


@pytest.mark.parametrize("text", ['{"all": []}', "7", "[7]", '["name"]', "half of it"])
def test_parts_that_cannot_be_read_are_made_anew(toy, text):
    """What another version kept, or what a disk lost."""
    store, whole = {}, run(toy, None)
    run(toy, store)
    spoilt = dict.fromkeys(store, text)
    assert to_json(run(toy, spoilt)) == to_json(whole)
    assert spoilt == store


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


def test_steps_and_level_are_on_record(toy):
    evidence = audit(client, toy, attacks=ATTACKS, level="preview")
    assert evidence.level == "preview"
    assert evidence.sizes["auxiliary_sample"] == PREVIEW.sample
    assert evidence.steps["attribute side: perceptron, standardised"] == 6
    own = dataclasses.replace(PREVIEW, name="mine", sample=100)
    evidence = audit(client, toy, attacks=ATTACKS, level=own)
    assert (evidence.level, evidence.sizes["auxiliary_sample"]) == ("mine", 100)


def test_the_criterion_stands_beside_the_attacks_where_the_level_has_critics(toy, monkeypatch):
    monkeypatch.setattr(module, "CRITICS", {"critical": Critics("nwj", 1, 20, 16, 32)})
    events = []
    level = dataclasses.replace(PREVIEW, name="critical")
    store = {}
    options = {"attacks": ATTACKS[1:], "level": level, "on_event": events.append, "store": store}
    found = audit(client, toy, **options)
    assert found.criterion.information.examples[2] == len(toy.test.label)
    assert [test.truth for test in found.criterion.information.self_tests] == [0.0, 2.0]
    assert {"kind": "attack_end", "name": "criterion"} in events
    assert any(name.startswith("criterion ") for name in store)
    # What an estimator reads of Gaussians is no client's: another that sends as much reads it there.
    common = {name: text for name, text in store.items() if name.startswith("self-tests ")}
    other = audit(lambda x: 1 - client(x), toy, **{**options, "store": {}}, common=common)
    assert other.criterion.information.self_tests == found.criterion.information.self_tests
    assert sum(name.startswith("self-tests ") for name in common) == 1
    assert audit(client, toy, **options).criterion == found.criterion
    assert audit(client, toy, attacks=ATTACKS[1:], level="preview").criterion is None
    # A level of one's own takes its base's critics.
    own = dataclasses.replace(level, name="mine", base="critical")
    assert audit(client, toy, attacks=ATTACKS[1:], level=own).criterion == found.criterion


def test_a_criterion_that_fails_is_a_note(toy, monkeypatch):
    def fails(*arguments, **options):
        raise FloatingPointError("no")

    monkeypatch.setattr(module, "criterion", fails)
    monkeypatch.setattr(module, "CRITICS", {"preview": Critics(steps=1)})
    found = audit(client, toy, attacks=ATTACKS[1:], level="preview")
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
    attacks = [Family("decoder", Image(), (decoder.Ridge(Image()),), queries=k) for k in queries]
    evidence = audit(noisy, data, attacks=attacks, level=dataclasses.replace(PREVIEW, sample=4000))
    for k in queries:
        wiener = (power * (variance / k) / (power + variance / k)).mean()
        assert evidence.attack("decoder", "image", k).scores["mse"].value == pytest.approx(wiener, rel=0.05), k


def memoised(x):
    """Noise that is a function of the pixels: the same image is always sent alike."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32).reshape(len(x), -1)
    seeds = (bits * jnp.arange(1, 2 * bits.shape[1], 2, dtype=jnp.uint32)[None]).sum(1, dtype=jnp.uint32)
    noise = jax.vmap(lambda seed: jax.random.normal(jax.random.fold_in(jax.random.key(7), seed), x.shape[1:]))(seeds)
    return x + 0.3 * noise


def test_memoised_noise_outlasts_repeats_and_no_burst():
    parts = [
        Batch(jax.random.uniform(jax.random.key(i), (count, 1, 1, 1)), jnp.zeros(count, jnp.int32), {})
        for i, count in enumerate((2, 2, 4000, 1000, 2000))
    ]
    sources = [Source(part, fixed) for part in parts]
    data = Data(sources[0], parts[1], sources[2], parts[3], parts[4], "levels", Task("none", ("a",)), ())
    ridge = (decoder.Ridge(Image()),)
    attacks = [Family("decoder", Image(), ridge, *how) for how in ((), (16,), (16, True))]
    level = dataclasses.replace(PREVIEW, sample=4000, test=2000, repeated=2000)
    evidence = audit(memoised, data, attacks=attacks, level=level)
    once, often, burst = (
        evidence.attack(name, "image", queries).scores["mse"].value
        for name, queries in (("decoder", 1), ("decoder", 16), ("decoder burst", 16))
    )
    power, variance, light = 1 / 12, 0.3**2, query.BRIGHTER**2 / 3
    assert once == pytest.approx(power * variance / (power + variance), rel=0.1)
    assert often == pytest.approx(once, rel=0.02)
    # 16 near-duplicates are 16 draws of the noise, and of how much brighter they are.
    left = (variance + light) / 16
    assert burst == pytest.approx(power * left / (power + left), rel=0.1)


def test_refuses(toy):
    with pytest.raises(ValueError) as error:
        audit(client, toy, level="huge")
    assert str(error.value) == "level=huge: must be one of preview, standard, thorough"
    with pytest.raises(ValueError, match="seed=-1"):
        audit(client, toy, seed=-1)
    with pytest.raises(ValueError, match="release"):
        audit(3, toy)
    with pytest.raises(TypeError, match="positional"):
        audit(client, toy, None, "preview")


@pytest.mark.parametrize(
    ("sends", "message"),
    [
        (lambda x: None, "release: gave None; must be floats, a row an image"),
        (lambda x: jnp.nan * x, "release: gave not one finite number; nothing can be learnt from that"),
        (lambda x: x.sum(), "release: gave () of float32 for 256 images; must be floats, a row an image"),
    ],
)
def test_a_client_that_sends_nothing_is_refused_in_one_line(toy, sends, message):
    with pytest.raises(ValueError) as error:
        audit(sends, toy, level="preview")
    assert str(error.value) == message
