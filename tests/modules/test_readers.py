"""Readers: any features in, the right shapes out; statistics of a fixed sample, whatever is read beside one another."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from ani_jax.modules.readers import (
    AdditiveReader,
    ConvReader,
    DecoderReader,
    FourierReader,
    LinearReader,
    LocalReader,
    PerceptronReader,
    hats,
    local_hats,
    statistics,
)

READERS = [
    LinearReader(5),
    ConvReader(5, 8),
    LocalReader(5, 8),
    PerceptronReader(5, 8),
    AdditiveReader(5),
    AdditiveReader(5, 8),
    FourierReader(5, 8),
]
FEATURES = [(2, 8, 8, 12), (2, 16, 16, 3), (2, 32, 32, 3), (2, 1, 1, 5), (2, 5, 6, 3), (2, 40)]


@pytest.mark.parametrize("shape", FEATURES)
@pytest.mark.parametrize("module", READERS)
def test_readers_take_any_features(module, shape, key):
    logits, _ = jax.eval_shape(module.init_with_output, key, jnp.zeros(shape))
    assert logits.shape == (2, 5)


@pytest.mark.parametrize("shape", FEATURES)
@pytest.mark.parametrize("image", [(32, 32, 3), (28, 28, 1), (9, 9, 1)])
def test_the_decoder_reaches_the_image_from_any_features(image, shape, key):
    assert jax.eval_shape(DecoderReader(image, 8, 1).init_with_output, key, jnp.zeros(shape))[0].shape == (2, *image)


@pytest.mark.parametrize("module", [*READERS, DecoderReader((8, 8, 1), 8, 1)])
def test_an_answer_is_about_one_example(module, key):
    z = 3 * jax.random.normal(key, (16, 4, 4, 6))
    params = module.init(key, z, train=False)["params"]
    # A fresh additive reader says nothing at all.
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), params)
    variables = statistics(module, params, z)
    out = module.apply(variables, z, train=False)
    np.testing.assert_allclose(module.apply(variables, z[:3], train=False), out[:3], atol=1e-4)
    assert bool(jnp.isfinite(out).all())
    assert float(jnp.abs(out[0] - out[1]).max()) > 1e-4


def test_statistics_are_those_of_the_sample(key):
    z = 5 + 3 * jax.random.normal(key, (64, 7))
    module = PerceptronReader(2, 4)
    params = module.init(key, z, train=False)["params"]
    hidden = z @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"][None]
    found = statistics(module, params, z)["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(found["mean"], hidden.mean(0), rtol=1e-4)
    np.testing.assert_allclose(found["var"], hidden.var(0), rtol=1e-3)


@pytest.mark.parametrize("shape", [(2, 32, 32, 3), (2, 16, 10, 1)])
def test_averages_of_curves_are_those_of_pooling(key, shape):
    x = 2 * jax.random.normal(key, shape)
    np.testing.assert_allclose(local_hats(x, 5), nn.avg_pool(hats(x, 5), (2, 2), (2, 2)), atol=1e-6)


def test_dropout_acts_where_a_key_is_given(key):
    module, z = PerceptronReader(2, 32), jnp.ones((4, 7)) * jnp.arange(4.0)[:, None]
    params = module.init(key, z, train=False)["params"]

    def run(**rngs):
        return module.apply({"params": params}, z, train=True, mutable=["batch_stats"], rngs=rngs)[0]

    np.testing.assert_array_equal(run(), run())
    assert not np.allclose(run(), run(dropout=key))


def test_an_additive_reader_adds_a_curve_of_each_feature(key):
    module = AdditiveReader(1)
    params = module.init(key, jnp.zeros((1, 3)), train=False)["params"]
    params["heads"]["kernel"] = jax.random.normal(key, params["heads"]["kernel"].shape)

    def f(*row):
        return float(module.apply({"params": params}, jnp.array([row]), train=False)[0, 0])

    # No feature's part depends on another, and beyond the outermost knots nothing moves any more.
    assert f(1.0, 2.0, 0.3) - f(1.0, -1.0, 0.3) == pytest.approx(f(-2.0, 2.0, 0.0) - f(-2.0, -1.0, 0.0), abs=1e-4)
    assert f(4.0, 0.0, 0.0) == pytest.approx(f(400.0, 0.0, 0.0), abs=1e-4)
    # Straight between two knots, here 0 and 0.8.
    assert f(0.4, 0.0, 0.0) == pytest.approx((f(0.0, 0.0, 0.0) + f(0.8, 0.0, 0.0)) / 2, abs=1e-4)


def test_local_curves_tell_what_noise_hides(key):
    # A spread that differs between halves of an image, in noise alone: averages of curves see it after few steps.
    place_key, noise_key, init_key = jax.random.split(key, 3)
    wide = jax.random.bernoulli(place_key, 0.5, (512,)).astype(jnp.int32)
    left = jnp.arange(16)[None, None, :, None] < 8
    scale = jnp.where(left == (wide[:, None, None, None] == 1), 1.3, 0.8)
    z, module = scale * jax.random.normal(noise_key, (512, 16, 16, 3)), LocalReader(2, 8)
    params = module.init(init_key, z[:2], train=False)["params"]
    optimizer = optax.adam(2e-3)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        def loss(params):
            logits, _ = module.apply({"params": params}, z[:384], train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, wide[:384]).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    for _ in range(20):
        params, state = step(params, state)
    guess = module.apply(statistics(module, params, z[:384]), z[384:], train=False).argmax(1)
    assert float((guess == wide[384:]).mean()) > 0.95


def test_random_fourier_features_make_gaussian_kernels_of_two_widths(key):
    z, module = jax.random.normal(key, (6, 5)), FourierReader(1, 20_000)
    params = module.init(key, z, train=False)["params"]

    def logits(kernel):
        heads = {**params["heads"], "kernel": kernel}
        return module.apply({"params": {**params, "heads": heads}}, z)[:, 0]

    features = jax.jacrev(logits)(params["heads"]["kernel"])[..., 0]
    distances = np.square(np.asarray(z)[:, None] - np.asarray(z)[None]).sum(2)
    kernels = [np.exp(-(scale**2) * distances / (2 * 5)) for scale in (1, 2)]
    np.testing.assert_allclose(features @ features.T / 20_000, np.mean(kernels, 0), atol=0.04)
    # What is drawn stays as it was drawn.
    gradient = jax.grad(lambda params: module.apply({"params": params}, z).sum())(params)
    assert not jnp.any(gradient["frequencies"])
    assert not jnp.any(gradient["phases"])
