"""Planted labels: functions of z, equally likely, of the strength that they are said to have; what misses them says so."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks.base import LEVELS
from ani_jax.attacks.query import as_release
from ani_jax.evaluation import controls
from ani_jax.evaluation.audit import audit
from ani_jax.evaluation.scene import Scene
from ani_jax.records import Control, Evidence, from_json, to_json
from ani_jax.reporting.findings import noticed
from ani_jax.types import Batch, Data, Knowledge, Release, Source, Task, fixed

BRIEF = dataclasses.replace(
    LEVELS["standard"],
    name="brief",
    base="preview",
    sample=2048,
    queries=(1,),
    settings={
        "Reader": {
            "steps": 800,
            "batch_size": 64,
            "bank": (("linear", "decorrelated"), ("perceptron", "standardised")),
        },
        "Residual": None,
        "Kernel": None,
    },
)


def noise(key, count):
    """Images that say nothing of the attribute: what is found in them is what was planted."""
    image = jax.random.uniform(key, (count, 4, 4, 1))
    return Batch(image, jnp.arange(count) % 2, {"coin": jax.random.bernoulli(key, 0.5, (count,)).astype(jnp.int32)})


@pytest.fixture(scope="module")
def data():
    parts = [noise(jax.random.key(i), count) for i, count in enumerate((64, 64, 512, 512, 1024))]
    tasks = Task("parity", ("even", "odd")), (Task("coin", ("heads", "tails")),)
    return Data(Source(parts[0], fixed), parts[1], Source(parts[2], fixed), *parts[3:], "noise", *tasks)


def grouped(data):
    """The same, four test images of each original."""
    return dataclasses.replace(data, test=data.test._replace(group=np.arange(1024) // 4))


def scene_of(data, client, seed=0):
    return Scene.of(Knowledge(as_release(client)), data, BRIEF, seed)


def lumpy(x):
    """Maps whose features differ in scale and hang together."""
    scale = jnp.logspace(-3, 2, 16).reshape(1, 4, 4, 1)
    return jnp.concatenate([x * scale, (jnp.roll(x, 1, axis=1) + x / 4) * scale], axis=-1)


def test_labels_are_as_strong_as_they_are_said_to_be(data):
    before = scene_of(data, lumpy)
    scene, best = controls.plant(before)
    assert list(best) == [
        f"planted {kind}{rung}"
        for kind in ("linear", "parity", "extreme")
        for rung in ("", ", 25 points", ", 10 points")
    ]
    classes = dict(scene.asked.attributes)
    assert set(best) == set(classes) == set(scene.asked.sample.sensitive)
    for name, known in best.items():
        full = 1 - 1 / classes[name]
        points = {"25 points": 0.25, "10 points": 0.10}.get(name.partition(", ")[2], full)
        # By chance a thousand images are off by a point or two.
        assert known == pytest.approx(points, abs=0.05 if points < full else 1e-6)
        for batch in (scene.asked.sample, scene.asked.validation, scene.data.test):
            shares = np.bincount(batch.sensitive[name], minlength=classes[name]) / len(batch.label)
            np.testing.assert_allclose(shares, 1 / classes[name], rtol=0.35)
    # Real labels are as they were in the scene that was planted into.
    assert set(before.data.test.sensitive) == {"coin"}
    np.testing.assert_array_equal(before.data.test.sensitive["coin"], data.test.sensitive["coin"])


def test_rules_are_functions_of_what_is_sent(data):
    def mixed(x):
        return x.reshape(len(x), -1) @ jax.random.normal(jax.random.key(7), (16, 24)) ** 3

    plain, doubled = (controls.plant(scene_of(data, client))[0] for client in (mixed, lambda x: 2 * mixed(x) + 1))
    for name in ("planted linear", "planted parity", "planted extreme"):
        ours, theirs = (np.asarray(scene.data.test.sensitive[name]) for scene in (plain, doubled))
        # Standardised, both clients send the same; jitter and rounding move those at an edge.
        assert (ours == theirs).mean() > 0.98
    again = controls.plant(scene_of(data, mixed))[0]
    jax.tree.map(np.testing.assert_array_equal, again.data.test.sensitive, plain.data.test.sensitive)


def test_nothing_is_planted_where_nothing_is_sent(data):
    scene, best = controls.plant(scene_of(data, lambda x: jnp.ones((len(x), 5))))
    assert best == {}
    assert set(scene.asked.validation.sensitive) == {"coin"}


def test_one_number_has_no_parity_and_no_blocks(data):
    _, best = controls.plant(scene_of(data, lambda x: x.mean((1, 2, 3))[:, None]))
    assert list(best) == ["planted linear", "planted linear, 25 points", "planted linear, 10 points"]


def test_an_audit_finds_what_was_planted_and_nothing_else(data):
    evidence = audit(lumpy, data, level=BRIEF)
    found = {control.name: control for control in evidence.controls}
    assert found["planted linear"].heard
    assert found["planted linear"].found > 0.6
    # On a thousand images, two standard errors of a score of 90% are two points.
    for name in ("planted linear", "planted linear, 25 points"):
        assert 0.01 < found[name].found - found[name].low < 0.05
    assert found["coin where nothing is sent"].low is None
    assert found["planted linear, 25 points"].found > 0.08
    assert not any(control.withholds for control in evidence.controls)
    # Attackers that read all that is sent read nothing where nothing is.
    whole, none = (f"image where {what} is sent" for what in ("the input itself", "nothing"))
    assert (found[whole].known, found[whole].found) == (pytest.approx(1.0, abs=1e-4), pytest.approx(1.0, abs=1e-3))
    assert (found[none].known, found[none].found) == (0.0, pytest.approx(0.0, abs=0.02))
    assert found["coin where the input itself is sent"].known is None
    assert found["coin where nothing is sent"].heard
    assert evidence.groups == ()
    assert audit(lumpy, grouped(data), level="preview").groups == tuple(place // 4 for place in range(1024))
    # The coin is not in the images.
    assert evidence.attack("attribute", "coin").scores["balanced_accuracy"].value == pytest.approx(0.5, abs=0.06)
    # One near-duplicate in nine was not moved, and of noise no other is alike; a thousand is what it is found among.
    assert [words.name for words in evidence.targets] == ["coin", "image", "original"]
    assert evidence.attack("matching", "original").scores["identified"].value == pytest.approx(1 / 9, abs=0.02)
    assert from_json(Evidence, to_json(evidence)) == evidence
    assert audit(lumpy, data, level="preview").controls == ()


@pytest.mark.slow
def test_labels_of_fresh_noise_are_its_own(data):
    # All that is sent is noise, drawn anew at every step: labels of the recorded rows would say nothing of it.
    evidence = audit(lambda x, key: jax.random.normal(key, (len(x), 16)), data, level=BRIEF)
    found = {(control.name, control.found > 0.6) for control in evidence.controls}
    assert ("planted linear", True) in found
    assert evidence.attack("attribute", "coin").scores["balanced_accuracy"].value == pytest.approx(0.5, abs=0.06)


def test_an_audit_that_is_gone_on_with_finds_the_same(data):
    store = {}
    level = dataclasses.replace(BRIEF, settings={**BRIEF.settings, "Reader": {"steps": 20, "batch_size": 64}})
    evidence = audit(lumpy, data, level=level, store=store)
    # What the attackers said is kept; they themselves are gone.
    [controls_of] = [name for name in store if name.startswith("controls")]
    del store[controls_of]
    assert to_json(audit(lumpy, data, level=level, store=store)) == to_json(evidence)
    # Without networks nobody looks for what is planted, so nothing is.
    assert audit(lumpy, data, level=dataclasses.replace(level, settings={"Reader": None})).controls == ()


@pytest.mark.slow
def test_what_depends_on_the_data_alone_is_attacked_once(data):
    level = dataclasses.replace(BRIEF, settings={**BRIEF.settings, "Reader": {"steps": 20, "batch_size": 64}})
    common, told = {}, []
    first = audit(lumpy, data, level=level, common=common)
    kept = dict(common)
    # Whom more attackers could ask, of noise that it declares and of what the provider answers.
    half = {"mean": lambda variables, x: x[:, ::2], "stddev": lambda variables, x: jnp.ones_like(x[:, ::2])}
    noisy = Release({}, lambda variables, x, key: x[:, ::2] + jax.random.normal(key, x[:, ::2].shape), True, **half)
    answer = jax.tree_util.Partial(lambda z: z.reshape(z.shape[0], -1)[:, :2])
    second = audit(noisy, data, answer, level=level, common=common, on_event=told.append)
    assert common == kept
    # Each target by itself: what was interrupted in the midst of them goes on behind the last.
    assert sorted(name.split(":")[0].rpartition(" ")[0] for name in kept) == [
        f"{client}, {target}" for client in ("nothing", "raw input") for target in ("attribute coin", "decoder image")
    ]
    ends = [tuple(one for one in found.controls if not one.planted) for found in (first, second)]
    assert ends[0] == ends[1]
    assert not any("nothing" in event.get("name", "") for event in told)
    audit(lumpy, data, level=level, seed=1, common=common)
    assert len(common) == 2 * len(kept)


def test_what_is_read_where_nothing_is_sent_withholds_the_verdict():
    def withheld(*control):
        return Control(*control, "probe").withholds

    assert withheld("ink where nothing is sent", 0.0, 0.2)
    assert not withheld("ink where nothing is sent", 0.0, 0.02)
    assert withheld("image where the input itself is sent", 1.0, 0.5)
    assert not withheld("ink where the input itself is sent", None, 0.1)
    assert withheld("ink where the input itself is sent", None, None)


@pytest.mark.slow
def test_planting_changes_nothing_for_real_attributes(data):
    # Networks with heads for both read real attributes worse, and would be what the control is of.
    with_plants, without = (audit(lumpy, data, level=dataclasses.replace(BRIEF, plants=p)) for p in (True, False))
    ours, theirs = (found.attack("attribute", "coin") for found in (with_plants, without))
    assert ours.attackers == theirs.attackers
    assert ours.scores == theirs.scores


def test_what_was_missed_withholds_the_verdict_and_is_said():
    def told(**found):
        all_known = {"linear": 0.75, "parity": 0.5}
        some = [Control(f"planted {kind}", all_known[kind], value, "probe") for kind, value in found.items()]
        weak = Control("planted linear, 10 points", 0.1, found["linear"] / 7.5, "probe")
        return noticed(Evidence("x", "digits", 0, "standard", {}, {}, {}, (), controls=(*some, weak)))

    assert told(linear=0.74) == (
        "the smallest planted leak that was found: planted linear, 10 points, 10.0 points over chance",
    )
    assert told(linear=0.3) == ("no verdict: of planted linear 30.0 of 75.0 points over chance was read",)
    limit = "a limit of this audit: planted parity was missed (2.0 of 50.0 points)"
    assert told(linear=0.74, parity=0.02)[-1] == limit
    assert noticed(Evidence("x", "digits", 0, "preview", {}, {}, {}, ())) == ()
