import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks import base, query
from ani_jax.evaluation import references
from ani_jax.evaluation.metrics import Bootstrap
from ani_jax.records import Estimate
from ani_jax.types import Batch, Knowledge, Source, Task, fixed

TASK = Task("side", ("left", "right"))


def batch(key, count, agreement=0.9):
    label_key, flip_key, image_key = jax.random.split(key, 3)
    label = jax.random.randint(label_key, (count,), 0, 2)
    side = jnp.where(jax.random.uniform(flip_key, (count,)) < agreement, label, 1 - label)
    image = 0.4 * label[:, None, None, None] + 0.1 * jax.random.uniform(image_key, (count, 8, 8, 1))
    return Batch(image, label, {"side": side})


@pytest.fixture(scope="module")
def scene():
    test = batch(jax.random.key(1), 1000)
    source = Source(batch(jax.random.key(0), 500), fixed)
    view = base.prepare(jax.random.key(2), Knowledge(query.as_release(lambda x: x)), source, test, count=500)
    return view, test, references.Answers.of(predict, view, test.image[None])


def predict(z):
    bright = z.mean((1, 2, 3)) > 0.25
    return jnp.stack([1 - bright, bright], axis=1).astype(jnp.float32)


def test_what_the_answer_gives_away(scene):
    view, test, answers = scene
    found, floor = references.attribute_floors(view, test, TASK, answers, Bootstrap.of(None, 1000))
    assert found["chance"] == found["majority"] == 0.5
    assert found["label_mediated"] == pytest.approx(0.9, abs=0.03)
    assert floor.value == found["label_mediated"]
    assert floor.low < 0.9 < floor.high


def test_without_answers_the_majority_is_the_floor(scene):
    view, test, _ = scene
    found, floor = references.attribute_floors(view, test, TASK, None, Bootstrap.of(None, 1000))
    assert found["label_mediated"] is None
    assert floor.value == 0.5
    assert set(references.image_floors(view, test, None)) == {"mean"}


def test_class_mean_is_below_the_mean_image(scene):
    view, test, answers = scene
    floors = references.image_floors(view, test, answers)
    images, labels = np.asarray(test.image), np.asarray(test.label)
    by_hand = np.mean([np.square(images[labels == k] - images[labels == k].mean(0)).mean() for k in range(2)])
    assert floors["class_mean"].mean() == pytest.approx(by_hand, rel=0.02)
    assert floors["mean"].mean() == pytest.approx(np.square(images - images.mean(0)).mean(), rel=0.02)


def test_a_class_that_is_never_predicted_falls_back():
    answers = references.Answers(np.array([0, 0, 1]), np.array([2, 0]), 3)
    np.testing.assert_allclose(answers.label_mediated(np.array([0, 1, 1]), 2), [[1 / 3, 2 / 3], [0.5, 0.5]])
    images = np.arange(3.0).reshape(3, 1, 1, 1)
    np.testing.assert_allclose(answers.class_mean(images).ravel(), [1.0, 0.5])


def test_leakage():
    score, floor, undefended = Estimate(0.5, 0.4, 0.6), Estimate(0.25, 0.24, 0.26), Estimate(0.75, 0.74, 0.76)
    assert references.leakage(score, floor, undefended) == Estimate(0.5, pytest.approx(0.3), pytest.approx(0.7))
    # s = f(y): the floor is all there is to know.
    known = references.leakage(Estimate(1.0, 1.0, 1.0), Estimate(0.99, 0.97, 1.0), Estimate(1.0, 1.0, 1.0))
    assert known.value is None
    assert "two standard errors" in known.note
    assert "score - floor = 0.010 (0.010 to 0.010)" in known.note
    assert "no undefended reference" in references.leakage(score, floor, None).note
    assert references.leakage(Estimate(None), floor, undefended).value is None


def test_predictors_must_give_logits(scene):
    view, test, _ = scene
    with pytest.raises(ValueError, match="predict: gave shape"):
        references.Answers.of(lambda z: z.mean((1, 2, 3)), view, test.image[None])


def test_raw_images_lose_nothing():
    x = jnp.arange(128.0).reshape(2, 8, 8, 1)
    folded = references.send_raw(x)
    assert folded.shape == (2, 2, 2, 16)
    np.testing.assert_array_equal(jnp.sort(folded.ravel()), x.ravel())
    assert references.send_raw(jnp.ones((1, 6, 6, 1))).shape == (1, 6, 6, 1)
