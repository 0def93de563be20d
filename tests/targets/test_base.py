"""What holds of every target: its words name what it measures, and they survive the record."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax import records
from ani_jax.records import Estimate, Evidence, TargetWords
from ani_jax.targets import base
from ani_jax.targets.attribute import Attribute
from ani_jax.targets.base import KINDS, Answers, Known, Target
from ani_jax.targets.image import Image
from ani_jax.targets.metrics import Bootstrap
from ani_jax.targets.vector import Vector
from ani_jax.types import Batch, Data, Source, Task, fixed

SIDE = 16
EVERY = (Attribute("ink", 3), Image(), Vector())
UNITS = {"percent", "points", "ratio", "decibel", "small"}


def batch(seed, count=60):
    generator = np.random.default_rng(seed)
    label, ink = generator.integers(0, 2, count), generator.integers(0, 3, count)
    image = (0.3 * label[:, None, None, None] + 0.5 * generator.random((count, SIDE, SIDE, 1))).astype(np.float32)
    return Batch(jnp.asarray(image), jnp.asarray(label), {"ink": jnp.asarray(ink)})


def known(target, answers=True):
    sample, test = batch(0), batch(1)
    if target == Vector():
        sample, test = (part._replace(image=part.image.reshape(len(part.label), -1)) for part in (sample, test))
    said = Answers(np.asarray(sample.label), np.asarray(test.label), 2) if answers else None
    return Known(sample, test, said, Bootstrap.of(None, len(test.label)))


def right(target, test):
    """Guesses without a mistake."""
    return np.asarray(test.image) if target.words.is_input else np.eye(3)[np.asarray(test.sensitive["ink"])]


def wrong(target, test):
    return np.zeros_like(right(target, test))


def test_all_kinds_are_in_these_tests():
    assert [type(target) for target in EVERY] == KINDS


@pytest.mark.parametrize("target", EVERY, ids=lambda target: target.name)
def test_words_name_what_is_measured(target):
    found = target.judge(right(target, known(target).test), known(target))
    words, names = target.words, [metric.name for metric in target.words.metrics]
    # These images show nobody twice.
    assert set(names) - {"of_a_set"} <= set(found.scores)
    assert len(set(names)) == len(names)
    assert all(metric.unit in UNITS and metric.change in ("points", "relative", "") for metric in words.metrics)
    assert {words.strength, words.plotted} <= set(names)
    assert words.leakage in (*names, "")
    assert set(words.summary) <= {*names, "leakage"}
    assert words.clauses
    assert {clause.metric for clause in words.clauses} <= set(names)
    assert words.floor in (*found.references, "")
    assert words.beyond in (*found.scores, "")
    assert set(words.floors) <= set(found.references)
    assert words.name == target.name
    assert words.alone.format("80%") != words.alone
    # What a metric's line lists below it is there to be listed.
    assert found.references or not any(metric.references for metric in words.metrics)
    assert words.metric(words.strength).name == words.strength


@pytest.mark.parametrize("target", EVERY, ids=lambda target: target.name)
def test_words_travel_with_the_record(target):
    text = records.to_json(target.words)
    assert records.from_json(TargetWords, text) == target.words


@pytest.mark.parametrize("target", EVERY, ids=lambda target: target.name)
def test_a_better_guess_is_stronger_and_none_is_stronger_than_perfect(target):
    test = known(target).test
    best, worst = (target.strength(guess(target, test), test) for guess in (right, wrong))
    assert best > worst
    assert target.perfect in (None, best)
    score = target.judge(right(target, test), known(target)).scores[target.words.strength].value
    # Strengths are compared; the score that stands for them moves the way the words say.
    poor = target.judge(wrong(target, test), known(target)).scores[target.words.strength].value
    assert (score > poor) == target.words.higher


@pytest.mark.parametrize("target", EVERY, ids=lambda target: target.name)
@pytest.mark.parametrize("answers", [True, False])
def test_judgements_are_plain_numbers(target, answers):
    found = target.judge(right(target, known(target).test), known(target, answers))
    assert found.per_example.shape == known(target).test.label.shape
    assert all(isinstance(estimate, Estimate) for estimate in found.scores.values())
    assert all(value is None or isinstance(value, float) for value in found.references.values())
    assert found.leakage.value is None
    assert found.leakage.note
    # The same scores whether or not the answers are known, or a note why they are missing.
    assert set(found.scores) == set(target.judge(right(target, known(target).test), known(target)).scores)
    records.to_json(Evidence("x", "y", 0, "standard", {}, {}, found.scores, ()))


def data(**tasks):
    part = batch(0)
    source = Source(part, fixed)
    sensitive = tuple(Task(name, classes) for name, classes in tasks.items())
    return Data(source, part, source, part, part, "toy", Task("label", ("a", "b")), sensitive)


def test_the_targets_of_data_are_its_attributes_then_the_image():
    found = base.of(data(paper=("p", "q"), ink=("a", "b", "c")))
    assert found == (Attribute("paper", 2), Attribute("ink", 3), Image())
    assert base.of(data()) == (Image(),)


def test_of_data_without_images_the_vector_is_a_target_and_of_neither_nothing():
    own = data(ink=("a", "b", "c"))
    vectors = own.test._replace(image=own.test.image.reshape(60, -1))
    assert base.of(dataclasses.replace(own, test=vectors)) == (Attribute("ink", 3), Vector())
    assert base.of(dataclasses.replace(own, test=vectors._replace(image=vectors.image[:, :0]))) == (
        Attribute("ink", 3),
    )


def test_a_kind_of_your_own_comes_after_those_that_were_known(monkeypatch):
    monkeypatch.setattr(base, "KINDS", list(KINDS))

    @base.register
    @dataclasses.dataclass(frozen=True)
    class Palette(Target):
        @classmethod
        def of(cls, data):
            return (cls("palette"),)

    assert base.of(data(ink=("a", "b", "c")))[-1] == Palette("palette")
    assert Palette("palette").picture(np.ones((1, 2, 2, 3))) is None
    assert Palette("palette").aim(batch(0)) is None
