"""Reconstructions are read against the mean image and the class-mean image (METHODS 6)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.targets.base import Answers, Known
from ani_jax.targets.image import Image, class_mean
from ani_jax.targets.metrics import Bootstrap
from ani_jax.types import Batch


def batch(key, count):
    label_key, image_key = jax.random.split(key)
    label = jax.random.randint(label_key, (count,), 0, 2)
    image = 0.4 * label[:, None, None, None] + 0.1 * jax.random.uniform(image_key, (count, 8, 8, 1))
    return Batch(image, label, {})


def known(answers=True):
    """A provider whose answer is always right."""
    sample, test = batch(jax.random.key(0), 500), batch(jax.random.key(1), 1000)
    said = Answers(np.asarray(sample.label), np.asarray(test.label), 2) if answers else None
    return Known(sample, test, said, Bootstrap.of(None, 1000))


def test_class_mean_is_below_the_mean_image():
    beside = known()
    images, labels = np.asarray(beside.test.image), np.asarray(beside.test.label)
    found = Image().judge(images, beside).references
    by_hand = np.mean([np.square(images[labels == k] - images[labels == k].mean(0)).mean() for k in range(2)])
    assert found["mse_class_mean"] == pytest.approx(by_hand, rel=0.02)
    assert found["mse_mean_image"] == pytest.approx(np.square(images - images.mean(0)).mean(), rel=0.02)
    assert found["mse_class_mean"] < found["mse_mean_image"]


def test_without_answers_the_mean_image_is_all_there_is():
    beside = known(answers=False)
    found = Image().judge(np.asarray(beside.test.image), beside)
    assert found.references["mse_class_mean"] is None
    assert found.scores["r2_class_mean"].value is None
    assert found.scores["r2_class_mean"].note == "needs predict"
    assert found.scores["r2_mean"].value == 1.0


def test_guessing_the_floors_recovers_nothing_beyond_them():
    beside = known()
    sample = np.asarray(beside.sample.image)
    mean = Image().judge(np.broadcast_to(sample.mean(0), beside.test.image.shape), beside)
    assert mean.scores["r2_mean"].value == pytest.approx(0, abs=1e-6)
    best = Image().judge(class_mean(beside.answers, sample), beside)
    assert best.scores["r2_class_mean"].value == pytest.approx(0, abs=1e-6)
    assert best.scores["r2_mean"].value > 0.5
    assert best.scores["mse"].value == pytest.approx(best.references["mse_class_mean"])
    assert best.per_example.mean() == pytest.approx(best.scores["mse"].value)


def test_a_class_that_is_never_predicted_falls_back():
    answers, images = Answers(np.array([0, 0, 1]), np.array([2, 0]), 3), np.arange(3.0).reshape(3, 1, 1, 1)
    np.testing.assert_allclose(class_mean(answers, images).ravel(), [1.0, 0.5])


def test_networks_learn_what_makes_an_attack_strong():
    assert Image.loss is Image.selection
    test = known().test
    guess = np.asarray(test.image)[::-1]
    assert Image().strength(guess, test) == pytest.approx(
        -float(Image.selection(jnp.asarray(guess), test).mean()), rel=1e-5
    )


def test_leakage_is_read_from_r_squared_and_needs_no_reference():
    beside = known()
    found = Image().judge(np.asarray(beside.test.image), beside)
    assert found.leakage.note == "defined for attributes; for images read r2_class_mean"


def test_errors_are_told_for_every_class_and_where_the_provider_errs():
    beside = known()
    ink = np.arange(1000) % 3
    test = beside.test._replace(sensitive={"ink": jnp.asarray(ink), "planted": jnp.asarray(ink)})
    beside = beside._replace(test=test, classes={"ink": ("red", "green", "blue")})
    guess = np.asarray(test.image) + 0.1 * ink[:, None, None, None].astype(np.float32)
    found = Image().judge(guess, beside).slices
    # The provider is always right, so there is nothing where it is wrong.
    assert [(part.by, part.name) for part in found] == [
        *(("ink", name) for name in ("red", "green", "blue")),
        ("answer", "right"),
    ]
    assert [part.score.value for part in found[:3]] == pytest.approx([0, 0.01, 0.04], abs=1e-6)
    assert [part.size for part in found] == [334, 333, 333, 1000]


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_pictures_have_one_channel_or_three(channels):
    found = Image().picture(jnp.ones((2, 4, 4, channels)))
    assert (found is None) == (channels == 2)
