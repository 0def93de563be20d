"""Floors that need no attack, and leakage counted from the highest of them (METHODS 5.1)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ani_jax.records import Estimate
from ani_jax.targets.attribute import Attribute, cross_entropy, label_mediated, normalised
from ani_jax.targets.base import Answers, Known
from ani_jax.targets.metrics import Bootstrap
from ani_jax.types import Batch

SIDE = Attribute("side", 2)


def batch(key, count, agreement=0.9):
    label_key, flip_key, image_key = jax.random.split(key, 3)
    label = jax.random.randint(label_key, (count,), 0, 2)
    side = jnp.where(jax.random.uniform(flip_key, (count,)) < agreement, label, 1 - label)
    image = 0.4 * label[:, None, None, None] + 0.1 * jax.random.uniform(image_key, (count, 8, 8, 1))
    return Batch(image, label, {"side": side})


def known(answers=True):
    """A provider whose answer is always right."""
    sample, test = batch(jax.random.key(0), 500), batch(jax.random.key(1), 1000)
    said = Answers(np.asarray(sample.label), np.asarray(test.label), 2) if answers else None
    return Known(sample, test, said, Bootstrap.of(None, 1000))


def judged(answers=True):
    beside = known(answers)
    return SIDE.judge(np.eye(2)[np.asarray(beside.test.sensitive["side"])], beside)


def test_what_the_answer_gives_away():
    found = judged()
    assert found.references["chance"] == found.references["majority"] == 0.5
    assert found.references["label_mediated"] == pytest.approx(0.9, abs=0.03)
    assert found.floor.value == found.references["label_mediated"]
    assert found.floor.low < 0.9 < found.floor.high


def test_without_answers_the_majority_is_the_floor():
    found = judged(answers=False)
    assert found.references["label_mediated"] is None
    assert found.floor.value == 0.5


def test_the_majority_is_that_of_the_attackers_own_images():
    beside = known(answers=False)
    counts = np.bincount(np.asarray(beside.sample.sensitive["side"]))
    share = float((np.asarray(beside.test.sensitive["side"]) == counts.argmax()).mean())
    assert judged(answers=False).references["majority_accuracy"] == pytest.approx(share)


def test_each_example_is_right_or_wrong():
    beside = known()
    truth = np.asarray(beside.test.sensitive["side"])
    guess = np.eye(2)[np.where(np.arange(len(truth)) % 4 == 0, 1 - truth, truth)]
    found = SIDE.judge(guess, beside)
    np.testing.assert_array_equal(found.per_example, np.arange(len(truth)) % 4 != 0)
    assert found.scores["accuracy"].value == pytest.approx(0.75)
    assert SIDE.strength(guess, beside.test) == pytest.approx(found.scores["balanced_accuracy"].value)


def test_a_class_that_is_never_predicted_falls_back():
    answers = Answers(np.array([0, 0, 1]), np.array([2, 0]), 3)
    np.testing.assert_allclose(label_mediated(answers, np.array([0, 1, 1]), 2), [[1 / 3, 2 / 3], [0.5, 0.5]])


def test_leakage():
    score, floor, undefended = Estimate(0.5, 0.4, 0.6), Estimate(0.25, 0.24, 0.26), Estimate(0.75, 0.74, 0.76)
    assert normalised(score, floor, undefended) == Estimate(0.5, pytest.approx(0.3), pytest.approx(0.7))
    # s = f(y): the floor is all there is to know.
    unnormalised = normalised(Estimate(1.0, 1.0, 1.0), Estimate(0.99, 0.97, 1.0), Estimate(1.0, 1.0, 1.0))
    assert unnormalised.value is None
    assert "two standard errors" in unnormalised.note
    assert "score - floor = 0.010 (0.010 to 0.010)" in unnormalised.note
    assert "no undefended reference" in normalised(score, floor, None).note
    assert normalised(Estimate(None), floor, undefended).value is None


def test_leakage_is_counted_from_the_floor_of_the_judgement():
    found, undefended = judged(), Estimate(1.0, 1.0, 1.0)
    assert SIDE.leakage(found, undefended) == normalised(found.scores["balanced_accuracy"], found.floor, undefended)
    assert SIDE.leakage(found, undefended).value == pytest.approx(1.0)
    assert SIDE.leakage(found._replace(floor=None), undefended).note == "the attack has no score"


def test_attributes_are_told_apart_by_a_traced_place(key):
    labels = {"paper": jnp.array([0, 1, 1]), "ink": jnp.array([1, 0, 1])}
    one, logits = Batch(jnp.zeros((3, 1, 1, 1)), jnp.zeros(3, int), labels), jax.random.normal(key, (3, 2))
    traces = []

    @jax.jit
    def loss(aim):
        traces.append(1)
        return cross_entropy(logits, one, aim)

    for name in labels:
        expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels[name])
        np.testing.assert_allclose(loss(Attribute(name, 2).aim(one)), expected, rtol=1e-6)
    assert len(traces) == 1
    assert Attribute("ink", 2).loss is Attribute("paper", 2).loss is Attribute("ink", 2).selection
