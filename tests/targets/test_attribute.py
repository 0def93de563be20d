"""Floors that need no attack, and leakage counted from the highest of them (METHODS 5.1)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.metrics

from ani_jax.targets.attribute import SET, Attribute, cross_entropy, label_mediated, normalised, of_a_set
from ani_jax.targets.base import Answers, Known, Undefended
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
    advantage = 1 - found.references["label_mediated"]
    assert f"score - floor = {advantage:.3f} (" in found.leakage.note


def test_what_the_answer_gives_away_of_a_rare_class_is_no_leakage():
    """One in ten is rare, and the answer makes it four in ten: nobody would guess it outright, a balanced decision does."""
    generator = np.random.default_rng(0)

    def skewed(count):
        rare = generator.random(count) < 0.1
        label = (generator.random(count) < np.where(rare, 0.9, 0.15)).astype(int)
        return Batch(jnp.zeros((count, 1, 1, 1)), jnp.asarray(label), {"side": jnp.asarray(rare.astype(int))})

    sample, test = skewed(4000), skewed(4000)
    said = Answers(np.asarray(sample.label), np.asarray(test.label), 2)
    # An attacker that knows the answer and nothing else.
    scores = label_mediated(said, np.asarray(sample.sensitive["side"]), 2)
    beside = Known(sample, test, said, Bootstrap.of(None, 4000))
    found = SIDE.judge(SIDE.balanced(np.log(scores), sample), beside)
    assert scores[:, 1].max() < 0.5
    assert found.references["label_mediated"] == pytest.approx(0.875, abs=0.03)
    assert found.scores["balanced_accuracy"].value == found.references["label_mediated"]
    assert "score - floor = 0.000 (0.000 to 0.000)" in found.leakage.note


def test_without_answers_the_majority_is_the_floor():
    found = judged(answers=False)
    assert found.references["label_mediated"] is None
    assert "score - floor = 0.500 (0.500 to 0.500)" in found.leakage.note


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


def undefended(mistakes, per_example=True):
    """An attack on the reference that is wrong about every so-manyeth image."""
    beside = known()
    labels = np.asarray(beside.test.sensitive["side"])
    right = (np.arange(len(labels)) % mistakes > 0).astype(float)
    score = beside.bootstrap.estimate(lambda weights: np.stack([weights @ right / weights.sum(1)])[0])
    return beside._replace(undefended=Undefended(score, right if per_example else None))


def noisy(beside, mistakes):
    labels = np.asarray(beside.test.sensitive["side"])
    return np.eye(2)[np.where(np.arange(len(labels)) % mistakes > 0, labels, 1 - labels)]


def test_leakage_takes_score_floor_and_reference_from_one_resample():
    beside = undefended(20)
    found = SIDE.judge(noisy(beside, 10), beside)
    labels, answers = np.asarray(beside.test.sensitive["side"]), beside.answers.test
    score, above = (np.where(np.arange(len(labels)) % m > 0, labels, 1 - labels) for m in (10, 20))
    # The provider's answer is the side, mostly; of the majority's two classes one is always right.
    guesses = (score, answers, np.zeros_like(labels), above)

    def by_hand(weights):
        index = np.repeat(np.arange(len(labels)), weights.astype(int))
        score, told, majority, above = (
            sklearn.metrics.balanced_accuracy_score(labels[index], guess[index]) for guess in guesses
        )
        return (score - max(told, majority)) / (above - max(told, majority))

    values = [by_hand(weights) for weights in beside.bootstrap.weights]
    assert found.leakage.value == pytest.approx(values[0])
    assert (found.leakage.low, found.leakage.high) == pytest.approx(tuple(np.quantile(values[1:], [0.025, 0.975])))


def test_what_is_found_on_the_same_images_as_undefended_leaks_everything_without_doubt():
    paired, apart = undefended(20), undefended(20, per_example=False)
    same = SIDE.judge(noisy(paired, 20), paired).leakage
    assert (same.value, same.low, same.high) == pytest.approx((1, 1, 1))
    assert same.note == ""
    wide = SIDE.judge(noisy(apart, 20), apart).leakage
    assert wide.value == pytest.approx(1, abs=0.02)
    assert wide.low < 0.9 < 1.1 < wide.high
    assert wide.note == "the undefended reference was audited on other images: its score is taken as independent"


def test_the_floor_is_the_highest_of_every_resample():
    """Two floors that are equally high on average: whichever is ahead in a resample is what leakage is counted from."""
    first, second = np.array([0.5, 0.6, 0.4]), np.array([0.5, 0.4, 0.6])
    score, above = np.full(3, 0.8), np.full(3, 1.0)
    found = normalised(score, np.maximum(first, second), above)
    assert (found.value, found.low, found.high) == pytest.approx((0.6, 0.5, 0.5))


def test_leakage():
    score, floor, above = np.array([0.5, 0.4, 0.6]), np.full(3, 0.25), np.full(3, 0.75)
    found = normalised(score, floor, above)
    assert (found.value, found.low, found.high) == (0.5, pytest.approx(0.31), pytest.approx(0.69))
    # s = f(y): the floor is all there is to know.
    unnormalised = normalised(np.ones(3), np.array([0.99, 0.97, 1.0]), np.ones(3))
    assert unnormalised.value is None
    assert "the undefended score is within two standard errors (0.030) of the floor 0.990" in unnormalised.note
    assert "score - floor = 0.010 (0.001 to 0.029)" in unnormalised.note
    # Without a single resample nothing is in doubt, and a width of 0 divides nothing.
    assert normalised(score[:1], floor[:1], above[:1]).value == 0.5
    assert normalised(score[:1], floor[:1], floor[:1]).value is None
    assert "no undefended reference" in normalised(score, floor, None).note
    assert normalised(np.full(3, np.nan), floor, above).note == "not defined on this sample"


def test_a_resample_in_which_the_reference_is_at_the_floor_says_nothing():
    width = np.array([0.2, 0.2, 0.2, 0.2, 0.2, 0.2, -0.01])
    found = normalised(np.full(7, 0.6), np.full(7, 0.5), 0.5 + width)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_strength_is_told_for_every_class_and_where_the_provider_errs():
    beside = known()._replace(classes={"side": ("left", "right"), "other": ("a", "b")})
    labels, answers = np.asarray(beside.test.sensitive["side"]), np.asarray(beside.answers.test)
    wrong = answers.copy()
    wrong[::4] = 1 - wrong[::4]
    beside = beside._replace(answers=Answers(beside.answers.sample, wrong, 2))
    guess = noisy(beside, 10)
    found = {(part.by, part.name): part for part in SIDE.judge(guess, beside).slices}
    assert list(found) == [
        ("side", "left"),
        ("side", "right"),
        ("answer", "right"),
        ("answer", "wrong"),
        ("originals", "the tenth that is read best"),
    ]
    recalls = sklearn.metrics.recall_score(labels, guess.argmax(1), average=None)
    assert [found["side", name].score.value for name in ("left", "right")] == pytest.approx(recalls)
    off = wrong != np.asarray(beside.test.label)
    assert found["answer", "wrong"].size == off.sum()
    for name, rows in (("wrong", off), ("right", ~off)):
        expected = sklearn.metrics.balanced_accuracy_score(labels[rows], guess.argmax(1)[rows])
        assert found["answer", name].score.value == pytest.approx(expected)
        assert found["answer", name].score.low < expected < found["answer", name].score.high
    # Every image is its own original: whom it reads best is luck.
    assert found["originals", "the tenth that is read best"].score.value is None


def test_classes_without_names_have_no_parts():
    assert [part.by for part in SIDE.judge(np.eye(2)[np.zeros(1000, int)], known()).slices] == [
        "answer",
        "originals",
    ]


def test_no_example_weighs_more_for_the_rarity_of_its_class(key):
    """Decisions are balanced afterwards; a weighted loss would give posteriors of no frequencies at all."""
    labels = jnp.array([0] * 9 + [1])
    logits = jax.random.normal(key, (10, 2))
    together = cross_entropy(logits, Batch(jnp.zeros((10, 1, 1, 1)), labels, {"side": labels}), jnp.int32(0))
    for i in range(10):
        alone = Batch(jnp.zeros((1, 1, 1, 1)), labels[i : i + 1], {"side": labels[i : i + 1]})
        np.testing.assert_allclose(
            cross_entropy(logits[i : i + 1], alone, jnp.int32(0)), together[i : i + 1], rtol=1e-6
        )


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


def test_what_several_images_of_one_identity_tell_together():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 60, 900)
    labels = (group * 7 % 3).astype(int)
    guess = rng.normal(size=(900, 3)) + 0.8 * np.eye(3)[labels]
    weights = Bootstrap.of(group, 900)
    found = of_a_set(guess, labels, group, weights)
    # One identity after the other, in the order of the split.
    right = {one: (guess[group == one][:SET].sum(0).argmax() == one * 7 % 3) for one in set(group)}
    expected = np.mean([np.mean([right[one] for one in right if one * 7 % 3 == label]) for label in range(3)])
    assert found.value == pytest.approx(expected)
    assert found.low < expected < found.high
    assert found.value > 0.85 > 0.7 > sklearn.metrics.balanced_accuracy_score(labels, guess.argmax(1))


@pytest.mark.parametrize("group", [None, np.arange(40), np.arange(40) // 4], ids=["none", "each its own", "mixed"])
def test_an_attribute_that_is_no_identitys_is_not_asked_of_several_images(group):
    labels = np.arange(40) % 2
    assert of_a_set(np.eye(2)[labels], labels, group, Bootstrap.of(group, 40)) is None
