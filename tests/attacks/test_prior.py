import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks import base, query
from ani_jax.attacks.optimization import WhiteBox
from ani_jax.attacks.prior import Prior
from ani_jax.losses.reconstruction import mse
from ani_jax.types import Batch, Knowledge, Source, fixed

SIDE = 8
SMALL = Prior(100, 2, 300, 4, 8, (0.03, 0.1), (0.0,), (1e-3,), tuned_on=16, starters=())


def blobs(key, count):
    """Images that three numbers decide: where a bright blob is, and how bright."""
    row, column, light = jax.random.uniform(key, (3, count, 1, 1, 1), minval=0.25, maxval=0.75)
    axis = jnp.arange(SIDE) / SIDE
    distance = (axis[None, :, None, None] - row) ** 2 + (axis[None, None, :, None] - column) ** 2
    return Batch(light * jnp.exp(-20 * distance), jnp.zeros(count, int), {})


MATRIX = np.random.default_rng(9).normal(size=(SIDE * SIDE, 8)).astype(np.float32)


def narrow(x):
    """Eight random sums of 64 pixels: many images have the same."""
    return x.reshape(len(x), -1) @ MATRIX


@pytest.fixture(scope="module")
def view():
    batches = [blobs(jax.random.key(i), 512) for i in (0, 1)]
    held = jax.tree.map(lambda leaf: leaf[:32], batches[1])
    knowledge = Knowledge(query.as_release(narrow))
    return base.prepare(jax.random.key(2), knowledge, Source(batches[0], fixed), held, count=512)


@pytest.fixture(scope="module")
def fitted(view):
    return SMALL.fit(jax.random.key(0), view)


def error(attacker, view):
    return float(mse(attacker(jax.random.key(1), view.held), view.validation.image).mean())


@pytest.mark.slow
def test_a_prior_finds_what_pixels_alone_cannot(key, view, fitted):
    assert fitted.failed is None
    pixels = WhiteBox(100, 1, (0.01, 0.03), (0.0, 1e-2), (0.0,), tuned_on=16, starters=()).fit(key, view)
    assert error(fitted.attacker, view) < 0.5 * error(pixels.attacker, view)


@pytest.mark.slow
def test_the_layer_refines_the_code(view, fitted):
    still = dataclasses.replace(fitted.attacker, steps=0)
    assert error(fitted.attacker, view) < error(still, view)
    guess = fitted.attacker(jax.random.key(1), view.held)
    assert guess.shape == view.validation.image.shape
    assert float(guess.min()) >= 0
    assert float(guess.max()) <= 1


@pytest.mark.slow
def test_an_image_is_found_alone_as_among_others(view, fitted):
    # A few steps: over many, rounding that depends on the batch's size decides between two valleys.
    attacker = dataclasses.replace(fitted.attacker, steps=5)
    together = attacker(jax.random.key(1), view.held)
    alone = attacker(jax.random.key(1), view.held[:, 5:6])
    np.testing.assert_allclose(alone, together[5:6], atol=1e-3)
