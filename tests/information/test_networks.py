"""Critics start out blind, are unbounded, and score pairs as the formulas say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ani_jax.information.networks import Critic, GaussianConditional, gaussian_log_density

GENERATOR = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(GENERATOR.standard_normal(shape), jnp.float32)


def random_like(params):
    return jax.tree.map(lambda leaf: normal(*leaf.shape), params)


@functools.partial(jax.jit, static_argnums=0)
def apply(module, params, x, z):
    return module.apply(params, x, z)


@pytest.fixture(scope="module", params=[Critic(4), GaussianConditional(4)], ids=["critic", "conditional"])
def network(request):
    x, z = normal(5, 3), normal(6, 2)
    params = jax.jit(request.param.init)(jax.random.key(0), x, z)
    return request.param, params, random_like(params), x, z


def test_starts_blind_to_x_and_learns_from_there(network):
    module, params, _, x, z = network
    scores = apply(module, params, x, z)
    np.testing.assert_allclose(scores, np.broadcast_to(scores[:1], scores.shape), atol=1e-6)
    gradient = jax.jit(jax.grad(lambda params: jnp.trace(module.apply(params, x, z))))(params)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) > 0.1


def test_a_pair_is_scored_alike_in_any_company(network):
    module, _, params, x, z = network
    scores = apply(module, params, x, z)
    assert scores.shape == (5, 6)
    alone = apply(module, params, x[3:4], z[4:5])
    np.testing.assert_allclose(alone[0, 0], scores[3, 4], rtol=1e-4)


def test_critic_is_unbounded():
    x = jnp.array([[1.0], [1e3]])
    params = random_like(jax.eval_shape(Critic(4).init, jax.random.key(0), x, x))
    scores = np.abs(apply(Critic(4), params, x, x))
    # Bilinear where the linear paths rule: a million times the score for a thousand times both inputs.
    assert scores[1, 1] > 1e4 * scores[0, 0]


def test_log_density_is_the_normal_one():
    mean, spread, z = normal(4, 3), normal(4, 3), normal(5, 3)
    expected = stats.norm.logpdf(np.asarray(z)[None], np.asarray(mean)[:, None], np.exp(spread / 2)[:, None]).sum(2)
    np.testing.assert_allclose(gaussian_log_density(mean, spread, z), expected, rtol=1e-4, atol=1e-5)
