import dataclasses

import jax
import jax.numpy as jnp
import pytest

from ani_jax.attacks import base, query
from ani_jax.attacks.shadow import Shadow
from ani_jax.losses.reconstruction import mse
from ani_jax.targets.image import Image
from ani_jax.types import Batch, Knowledge, Source, fixed

SIDE, CLASSES = 4, 4
QUICK = Shadow(Image(), steps=100, inversion_steps=100, restarts=1, width=8)


def pictures(key, count):
    """One quarter of each image is bright, and that is its class."""
    keys = jax.random.split(key)
    label = jax.random.randint(keys[0], (count,), 0, CLASSES)
    rows, columns = jnp.arange(SIDE)[None, :, None] // 2, jnp.arange(SIDE)[None, None] // 2
    bright = (2 * rows + columns == label[:, None, None]).astype(jnp.float32)
    return Batch(0.1 + 0.6 * bright[..., None] + 0.1 * jax.random.uniform(keys[1], (count, SIDE, SIDE, 1)), label, {})


def client(x):
    return x.reshape(len(x), 2, 2, 2, 2, 1).mean((2, 4))


def predict(z):
    return 10 * z.reshape(len(z), -1)


def forbidden(x):
    raise AssertionError("the client was asked")


@pytest.fixture(scope="module")
def asked():
    batches = [pictures(jax.random.key(i), 256) for i in (0, 1)]
    knowledge = Knowledge(query.as_release(client), query.as_predictor(predict))
    held = jax.tree.map(lambda leaf: leaf[:32], batches[1])
    found = base.prepare(jax.random.key(2), knowledge, Source(batches[0], fixed), held, count=256)
    return dataclasses.replace(found, knowledge=knowledge._replace(release=query.as_release(forbidden)))


@pytest.mark.slow
def test_the_shadow_convinces_the_provider_and_its_inversion_beats_the_mean_image(key, asked, fit):
    shadow, failed = QUICK.train(key, asked, asked.knowledge.predict)
    fresh = pictures(jax.random.key(3), 200)
    assert failed is None
    assert float((predict(shadow(fresh.image, key)).argmax(1) == fresh.label).mean()) > 0.95
    fitted = fit(QUICK, key, asked)
    assert fitted.failed is None
    truth = asked.validation.image
    found = mse(fitted.attacker(key, asked.held), truth).mean()
    mean = mse(jnp.broadcast_to(asked.sample.image.mean(0), truth.shape), truth).mean()
    assert float(found) < 0.9 * float(mean)


def test_without_predict_it_fails_and_says_so(key, asked, fit):
    bare = dataclasses.replace(asked, knowledge=Knowledge(asked.knowledge.release))
    assert fit(QUICK, key, bare) == base.Fitted(None, "the threat model does not grant predict")
    assert not Shadow.able(bare.knowledge)
    assert Shadow.able(asked.knowledge)


def test_nothing_that_learns_from_answers_starts_the_inversion():
    assert QUICK.white_box.starters == ()
    assert (QUICK.white_box.steps, QUICK.white_box.restarts) == (100, 1)
