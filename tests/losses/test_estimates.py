import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy.spatial import cKDTree
from scipy.special import digamma
from sklearn.feature_selection import mutual_info_regression

from ani_jax.losses import estimates

ENTROPY = jax.jit(estimates.kozachenko_leonenko_entropy, static_argnums=1)
KSG = jax.jit(estimates.ksg_mutual_information, static_argnums=2)


def pair(rho, seed=0, count=600, dimension=1):
    x, noise = jax.random.normal(jax.random.key(seed), (2, count, dimension))
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def test_correlated_gaussian_information():
    np.testing.assert_allclose(
        estimates.correlated_gaussian_information(math.sqrt(1 - math.exp(-0.2)), 20), 2.0, rtol=1e-5
    )
    assert estimates.correlated_gaussian_information(0.0, 3) == 0
    assert estimates.correlated_gaussian_information(1e-4, 1) > 0


def test_gaussian_estimates_are_closed_forms():
    x, z = pair(0.6, count=4000, dimension=2)
    x = x * jnp.array([[2.0, 0.5]])
    truth = estimates.correlated_gaussian_information(0.6, 2)
    np.testing.assert_allclose(estimates.gaussian_mutual_information(x, z), truth, atol=0.03)
    np.testing.assert_allclose(estimates.gaussian_entropy(x), math.log(2 * math.pi * math.e), atol=0.05)
    covariance = np.cov(np.asarray(x, np.float64).T)
    exact = 0.5 * np.linalg.slogdet(2 * math.pi * math.e * covariance)[1]
    np.testing.assert_allclose(estimates.gaussian_entropy(x), exact, rtol=1e-4)


@pytest.mark.parametrize("k", [1, 3])
def test_neighbour_entropy_is_its_definition_and_near_the_truth(k):
    x = 2 * jax.random.normal(jax.random.key(4), (600, 3))
    value = ENTROPY(x, k)
    radius = cKDTree(np.asarray(x, np.float64)).query(np.asarray(x, np.float64), k + 1)[0][:, k]
    expected = digamma(600) - digamma(k) + math.log(4 / 3 * math.pi) + 3 * np.log(radius).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    np.testing.assert_allclose(value, 1.5 * math.log(2 * math.pi * math.e * 4), atol=0.2)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_ksg_is_scikit_learns_and_near_the_truth(rho):
    x, z = pair(rho)
    value = KSG(x, z, 3)
    # scikit-learn rescales and adds noise of 1e-10.
    a, b = (np.asarray(v, np.float64) / np.asarray(v, np.float64).std(0, ddof=0) for v in (x, z))
    expected = mutual_info_regression(a, b[:, 0], n_neighbors=3, random_state=0)[0]
    np.testing.assert_allclose(max(value, 0), expected, atol=0.03)
    np.testing.assert_allclose(value, estimates.correlated_gaussian_information(rho, 1), atol=0.08)


def test_ksg_counts_euclidean_neighbours_in_several_dimensions():
    x, z = pair(0.6, 1, 600, 2)
    a, b = np.asarray(x, np.float64), np.asarray(z, np.float64)
    distance_x, distance_z = (np.sqrt(((v[:, None] - v[None]) ** 2).sum(-1)) for v in (a, b))
    radius = np.sort(np.maximum(distance_x, distance_z), axis=1)[:, 3]
    counts = [(d < radius[:, None]).sum(1) for d in (distance_x, distance_z)]
    expected = digamma(3) + digamma(600) - np.mean(digamma(counts[0]) + digamma(counts[1]))
    np.testing.assert_allclose(KSG(x, z, 3), expected, atol=2e-3)


@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 2**31 - 1), scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
def test_scaling_and_symmetry(seed, scale, shift):
    x, z = pair(0.7, seed)
    np.testing.assert_allclose(ENTROPY(scale * x + shift, 3), ENTROPY(x, 3) + math.log(scale), atol=5e-3)
    np.testing.assert_allclose(
        estimates.gaussian_entropy(scale * x), estimates.gaussian_entropy(x) + math.log(scale), atol=1e-3
    )
    np.testing.assert_allclose(KSG(x, z, 3), KSG(z, x, 3), atol=1e-5)
    np.testing.assert_allclose(
        estimates.gaussian_mutual_information(scale * x + shift, z),
        estimates.gaussian_mutual_information(x, z),
        atol=1e-3,
    )


def test_duplicates_are_minus_infinity_not_nan():
    x = jnp.repeat(pair(0.0)[0][:60], 10, axis=0)
    assert ENTROPY(x, 3) == -jnp.inf
    assert jnp.isfinite(KSG(x, x, 3))


def test_certificate_holds_for_the_gaussian_channel_with_equality():
    prior, noise, dimension = 0.5, 0.3, 7
    entropy = dimension * (0.5 * math.log(2 * math.pi * math.e) + math.log(prior))
    information = estimates.gaussian_channel_capacity(prior**2, noise, dimension)
    bound = estimates.mse_bound_from_entropy(estimates.conditional_entropy_bound(entropy, information), dimension)
    np.testing.assert_allclose(bound, prior**2 * noise**2 / (prior**2 + noise**2), rtol=1e-5)
    # An under-estimate of the information looks like more privacy: that is why it is no bound.
    flattering = estimates.conditional_entropy_estimate(entropy, 0.5 * information)
    assert estimates.mse_estimate_from_entropy(flattering, dimension) > bound


def test_fisher_information_is_the_curvature_of_the_likelihood():
    weights = jax.random.normal(jax.random.key(0), (5, 3))

    def moments(x):
        return jnp.tanh(weights @ x), jnp.exp(0.3 * weights @ x)

    x = jnp.array([0.3, -0.2, 0.1])
    mean_jacobian, stddev_jacobian = jax.jacobian(moments)(x)
    stddev = moments(x)[1]
    fisher = estimates.gaussian_fisher_information(mean_jacobian, stddev, stddev_jacobian)

    def score(noise):
        z = jax.lax.stop_gradient(moments(x)[0] + stddev * noise)

        def log_density(x):
            mean, spread = moments(x)
            return (-0.5 * jnp.square((z - mean) / spread) - jnp.log(spread)).sum()

        return jax.grad(log_density)(x)

    scores = jax.vmap(score)(jax.random.normal(jax.random.key(1), (100_000, 5)))
    np.testing.assert_allclose(fisher, scores.T @ scores / len(scores), rtol=0.05, atol=0.1)
    without = estimates.gaussian_fisher_information(mean_jacobian, stddev)
    assert jnp.trace(fisher - without) > 0.1 * jnp.trace(fisher)
    direction = jnp.array([1.0, 2.0, -1.0])
    along = jnp.square(mean_jacobian @ direction) + 2 * jnp.square(stddev_jacobian @ direction)
    np.testing.assert_allclose(direction @ fisher @ direction, (along / stddev**2).sum(), rtol=1e-4)


def test_gradients():
    x, z = pair(0.5, 3, 12, 2)
    check_grads(jax.jit(estimates.gaussian_mutual_information), (x, z), order=1, modes=["rev"], atol=2e-2, rtol=2e-2)
    with jax.enable_x64(True):
        x = jnp.asarray(np.asarray(x, np.float64))
        check_grads(jax.jit(lambda v: estimates.kozachenko_leonenko_entropy(v, 2)), (x,), order=1, modes=["rev"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: estimates.gaussian_entropy(x[:1]), r"len\(x\)=1: must be above its dimension, 1"),
        (lambda x: estimates.gaussian_mutual_information(x, x[:3]), r"len\(x\)=8: must be z's, 3"),
        (lambda x: estimates.kozachenko_leonenko_entropy(x, 8), "k=8: must be from 1 to 7"),
        (lambda x: estimates.ksg_mutual_information(x, x, 0), "k=0: must be from 1 to 7"),
        (lambda x: estimates.mse_bound_from_entropy(1.0, 0), "dimension=0"),
        (lambda x: estimates.correlated_gaussian_information(0.5, 0), "dimension=0"),
        (lambda x: estimates.gaussian_channel_capacity(1.0, 1.0, 0), "dimension=0"),
        (lambda x: estimates.gaussian_fisher_information(x, jnp.ones(3)), "stddev.shape=.3,.: must be .8,."),
        (lambda x: estimates.gaussian_fisher_information(x, jnp.ones(8), jnp.ones((8, 2))), "stddev_jacobian.shape"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(pair(0.0, 0, 8)[0])
