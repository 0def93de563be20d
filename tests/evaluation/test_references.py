import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks import base, query
from ani_jax.evaluation import references
from ani_jax.types import Batch, Knowledge, Source, fixed


def batch(key, count):
    label_key, image_key = jax.random.split(key)
    label = jax.random.randint(label_key, (count,), 0, 2)
    image = 0.4 * label[:, None, None, None] + 0.1 * jax.random.uniform(image_key, (count, 8, 8, 1))
    return Batch(image, label, {})


@pytest.fixture(scope="module")
def asked():
    source = Source(batch(jax.random.key(0), 500), fixed)
    test = batch(jax.random.key(1), 1000)
    return base.prepare(jax.random.key(2), Knowledge(query.as_release(lambda x: x)), source, test, count=500)


def predict(z):
    bright = z.mean((1, 2, 3)) > 0.25
    return jnp.stack([1 - bright, bright, 0 * bright], axis=1).astype(jnp.float32)


def test_the_provider_answers_for_the_sample_and_the_first_release_of_test(asked):
    z = jnp.stack([asked.validation.image, 1 - asked.validation.image])
    found = references.answered(predict, asked, z)
    np.testing.assert_array_equal(found.sample, asked.sample.label)
    np.testing.assert_array_equal(found.test, asked.validation.label)
    assert found.classes == 3


@pytest.mark.parametrize("wrong", [lambda z: z.mean((1, 2, 3)), lambda z: z.reshape(len(z), -1)[:5]])
def test_predictors_must_give_logits(asked, wrong):
    with pytest.raises(ValueError, match="predict: gave shape"):
        references.answered(wrong, asked, asked.held)


def test_raw_images_lose_nothing():
    x = jnp.arange(128.0).reshape(2, 8, 8, 1)
    folded = references.send_raw(x)
    assert folded.shape == (2, 2, 2, 16)
    np.testing.assert_array_equal(jnp.sort(folded.ravel()), x.ravel())
    assert references.send_raw(jnp.ones((1, 6, 6, 1))).shape == (1, 6, 6, 1)
