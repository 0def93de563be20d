import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks import base, query
from ani_jax.attacks.prior import Autoencoder, Prior
from ani_jax.attacks.whitebox import WhiteBox
from ani_jax.losses.reconstruction import mse
from ani_jax.modules.initialise import initialise
from ani_jax.targets.image import Image
from ani_jax.types import Batch, Knowledge, Source, fixed

SIDE = 8
SMALL = Prior(
    Image(),
    steps=100,
    restarts=2,
    prior_steps=300,
    size=4,
    width=8,
    rates=(0.03, 0.1),
    variations=(0.0,),
    energies=(1e-3,),
    tuned_on=16,
    starters=(),
)


@pytest.mark.parametrize("shape", [(8, 8, 3), pytest.param((28, 28, 1), marks=pytest.mark.slow)])
def test_the_halves_make_the_whole(key, shape):
    module, x = Autoencoder(shape, 5, 4), jax.random.uniform(key, (2, *shape))
    variables = initialise(module, key, x, key)
    coded = module.apply(variables, x, key, train=False)
    assert coded.mean.shape == coded.log_stddev.shape == (2, 5)
    code = coded.mean + jnp.exp(coded.log_stddev) * jax.random.normal(key, coded.mean.shape)
    layer = module.apply(variables, code, method="layer")
    np.testing.assert_allclose(module.apply(variables, layer, method="paint"), coded.image, atol=1e-5)
    np.testing.assert_allclose(module.apply(variables, x, method="code"), coded.mean, atol=1e-6)
    assert coded.image.shape == x.shape


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


def seen(function):
    batches = [blobs(jax.random.key(i), 512) for i in (0, 1)]
    held = jax.tree.map(lambda leaf: leaf[:32], batches[1])
    knowledge = Knowledge(query.as_release(function))
    return base.prepare(jax.random.key(2), knowledge, Source(batches[0], fixed), held, count=512)


@pytest.fixture(scope="module")
def asked():
    return seen(narrow)


@pytest.fixture(scope="module")
def fitted(asked, fit):
    return fit(SMALL, jax.random.key(0), asked)


def error(attacker, asked):
    return float(mse(attacker(jax.random.key(1), asked.held), asked.validation.image).mean())


@pytest.mark.slow
def test_a_prior_finds_what_pixels_alone_cannot(key, asked, fitted, fit):
    assert fitted.failed is None
    grid = {"rates": (0.01, 0.03), "variations": (0.0, 1e-2), "energies": (0.0,)}
    pixels = fit(WhiteBox(Image(), steps=100, restarts=1, **grid, tuned_on=16, starters=()), key, asked)
    assert error(fitted.attacker, asked) < 0.5 * error(pixels.attacker, asked)


def half_stopped(x):
    return jnp.where((np.arange(8) % 2 == 0)[None], z := narrow(x), jax.lax.stop_gradient(z))


@pytest.mark.slow
@pytest.mark.parametrize("function", [half_stopped, lambda x: jax.lax.stop_gradient(narrow(x))])
def test_who_stops_gradients_is_inverted_as_well_as_an_honest_twin(asked, fitted, fit, function):
    lying = seen(function)
    found = fit(SMALL, jax.random.key(0), lying)
    assert "which is no privacy" in found.note
    assert fitted.note == ""
    assert error(found.attacker, lying) < 1.1 * error(fitted.attacker, asked)


@pytest.mark.slow
def test_the_layer_refines_the_code(asked, fitted):
    still = dataclasses.replace(fitted.attacker, steps=0)
    assert error(fitted.attacker, asked) < error(still, asked)
    guess = fitted.attacker(jax.random.key(1), asked.held)
    assert guess.shape == asked.validation.image.shape
    assert float(guess.min()) >= 0
    assert float(guess.max()) <= 1


@pytest.mark.slow
def test_an_image_is_found_alone_as_among_others(asked, fitted):
    # A few steps: over many, rounding that depends on the batch's size decides between two valleys.
    attacker = dataclasses.replace(fitted.attacker, steps=5)
    together = attacker(jax.random.key(1), asked.held)
    alone = attacker(jax.random.key(1), asked.held[:, 5:6])
    np.testing.assert_allclose(alone, together[5:6], atol=1e-3)
