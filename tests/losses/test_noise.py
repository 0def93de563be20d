import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from ani_jax.losses import noise

REWARDS = (noise.mean_log_scale, noise.gaussian_entropy_per_element, noise.laplace_entropy_per_element)


def log_scales(seed=0):
    return jax.random.normal(jax.random.key(seed), (3, 4, 4, 2))


@pytest.mark.parametrize(
    ("reward", "family"),
    [
        (noise.gaussian_entropy_per_element, torch.distributions.Normal),
        (noise.laplace_entropy_per_element, torch.distributions.Laplace),
    ],
)
def test_entropies_are_pytorchs(reward, family):
    scale = torch.tensor(np.exp(np.array(log_scales())))
    expected = family(torch.zeros_like(scale), scale).entropy().mean((1, 2, 3))
    np.testing.assert_allclose(reward(log_scales()), expected, rtol=1e-5)


def test_mean_of_logs_and_not_log_of_mean():
    one_loud = jnp.log(jnp.full((1, 8), 1e-3).at[0, 0].set(10.0))
    even = jnp.log(jnp.full((1, 8), 0.5))
    for reward in REWARDS:
        assert reward(one_loud) < reward(even)
    assert jnp.exp(one_loud).mean() > jnp.exp(even).mean()


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31 - 1), shift=st.floats(-5, 5))
def test_louder_noise_by_a_factor_adds_its_log(seed, shift):
    for reward in REWARDS:
        np.testing.assert_allclose(reward(log_scales(seed) + shift), reward(log_scales(seed)) + shift, atol=1e-5)


def test_mask_rewards():
    mask = jax.nn.sigmoid(log_scales())
    np.testing.assert_allclose(noise.mask_log_reward(mask), np.log(np.array(mask)).mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(noise.mask_mean_reward(mask), np.array(mask).mean((1, 2, 3)), rtol=1e-6)
    value, gradient = jax.value_and_grad(lambda m: noise.mask_log_reward(m)[0])(jnp.array([[0.0, 1.0]]))
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()


def test_gradients():
    for reward in (*REWARDS, lambda x: noise.mask_log_reward(jax.nn.sigmoid(x))):
        check_grads(reward, (log_scales(),), order=1, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("reward", [*REWARDS, noise.mask_log_reward, noise.mask_mean_reward])
def test_a_scalar_is_refused(reward):
    with pytest.raises(ValueError, match=r"shape=\(\): must be of rank 1 or more"):
        reward(jnp.ones(()))


def test_the_rate_bounds_what_gets_through():
    """Of a channel whose exact information is known: two equal means apart by ``2 m`` and noise of stddev 1."""
    mean = jnp.array([[0.8], [-0.8]])
    grid = np.linspace(-8, 8, 4001)
    density = 0.5 * (np.exp(-((grid - 0.8) ** 2) / 2) + np.exp(-((grid + 0.8) ** 2) / 2)) / np.sqrt(2 * np.pi)
    exact = -np.trapezoid(density * np.log(density), grid) - noise.GAUSSIAN_CONSTANT
    rate = float(noise.gaussian_rate(mean, jnp.ones((2, 1))))
    assert exact < rate < 1.1 * exact
    # The noise's scale is a signal as well, and scaling all of z changes nothing.
    assert noise.gaussian_rate(jnp.zeros((2, 1)), jnp.array([[0.5], [2.0]])) > 0.3
    assert float(noise.gaussian_rate(7 * mean, 7 * jnp.ones((2, 1)))) == pytest.approx(rate, rel=1e-5)


def test_the_rate_is_of_the_global_batch_and_has_gradients():
    mean, stddev = jax.random.normal(jax.random.key(0), (8, 3)), jnp.exp(0.1 * log_scales()[0, :, :2, 0].reshape(8, 1))
    whole = float(noise.gaussian_rate(mean, stddev))
    parts = (mean.reshape(4, 2, 3), stddev.reshape(4, 2, 1))
    shared = jax.vmap(lambda m, s: noise.gaussian_rate(m, s, axis_name="devices"), axis_name="devices")(*parts)
    np.testing.assert_allclose(shared, whole, rtol=1e-5)
    check_grads(noise.gaussian_rate, (mean, stddev), order=1, modes=["rev"])


def test_the_rate_beside_a_label_is_that_of_each_class_and_needs_no_attribute():
    """Of classes whose images are equal nothing is left; else it is the pooled variance within them, by a loop."""
    labels = jnp.array([0, 1, 0, 2, 1, 0, 2, 1])
    centres, stddev = 5 * jax.random.normal(jax.random.key(1), (4, 2, 3)), jnp.full((8, 2, 3), 0.7)
    assert noise.gaussian_rate(centres[labels], stddev, labels, 4) == pytest.approx(0, abs=1e-5)
    mean = centres[labels] + jax.random.normal(jax.random.key(2), (8, 2, 3))
    within = np.zeros((2, 3))
    for one in range(3):
        rows = np.asarray(mean)[np.asarray(labels) == one]
        within += np.square(rows - rows.mean(0)).sum(0) / 8
    known = 0.5 * np.log(1 + within / 0.49).sum()
    assert float(noise.gaussian_rate(mean, stddev, labels, 4)) == pytest.approx(known, rel=1e-5)
    assert noise.gaussian_rate(mean, stddev) > 3 * known
    assert noise.gaussian_rate(mean, stddev) == noise.gaussian_rate(mean, stddev, jnp.zeros(8, int), 1)
    parts = [jnp.stack(jnp.split(one, 2)) for one in (mean, stddev, labels)]
    shared = jax.vmap(lambda m, s, y: noise.gaussian_rate(m, s, y, 4, axis_name="devices"), axis_name="devices")(*parts)
    np.testing.assert_allclose(shared, known, rtol=1e-5)
    check_grads(lambda m, s: noise.gaussian_rate(m, s, labels, 4), (mean, stddev), order=1, modes=["rev"])


def test_the_rate_of_a_scalar_is_refused():
    with pytest.raises(ValueError, match=r"mean.shape=\(\): must be of rank 1 or more"):
        noise.gaussian_rate(jnp.float32(1), jnp.float32(1))
    with pytest.raises(ValueError, match="classes=0: must be at least 1"):
        noise.gaussian_rate(jnp.ones((2, 1)), jnp.ones((2, 1)), classes=0)
