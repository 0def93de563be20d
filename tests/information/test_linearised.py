"""Of a linear client, tangent, least squares, Wiener's filter and the bound are one; of others no attack is beyond the bound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from ani_jax.information.linearised import gaussian_prior, linearised, moments
from ani_jax.types import Release

VARIANCES = jnp.array([4.0, 2.0, 1.0, 0.5])


def weighed(matrix, x, key):
    del key
    return x @ matrix


def drawn(seed, count=8000):
    return jax.random.normal(jax.random.key(seed), (count, 4)) * jnp.sqrt(VARIANCES)[None]


def wiener(matrix, stddev):
    """R² of the least squares guess of x from x A + noise, by the textbook."""
    prior = np.diag(np.asarray(VARIANCES, np.float64))
    gain = prior @ matrix @ np.linalg.inv(matrix.T @ prior @ matrix + stddev**2 * np.eye(matrix.shape[1]))
    return float(np.trace(gain @ matrix.T @ prior) / np.trace(prior))


@pytest.fixture(scope="module")
def prior():
    x = drawn(0, 40_000)
    return gaussian_prior(x, jnp.zeros(len(x), int))


def test_the_prior_is_the_covariance_around_class_means():
    x, label = np.asarray(drawn(1)), np.arange(8000) % 2
    moved = x + 10 * label[:, None]
    found = gaussian_prior(jnp.asarray(moved), jnp.asarray(label), 2, count=3)
    rest = np.concatenate([moved[label == one] - moved[label == one].mean(0) for one in (0, 1)])
    values, vectors = np.linalg.eigh(np.cov(rest.T, bias=True))
    np.testing.assert_allclose(found.variances, values[::-1][:3], rtol=1e-4)
    np.testing.assert_allclose(np.abs(found.directions @ vectors[:, ::-1][:, :3]), np.eye(3), atol=1e-2)
    assert found.total == pytest.approx(np.trace(np.cov(rest.T, bias=True)), rel=1e-4)


@pytest.mark.parametrize("stddev", [0.1, 0.3, 1.0, 3.0, 10.0])
def test_of_a_linear_client_bound_wiener_and_least_squares_are_one(prior, stddev):
    matrix = np.random.default_rng(2).standard_normal((4, 3)).astype(np.float32)
    x, held = drawn(3), drawn(4)
    for k in (1, 4, 16):
        # The mean of k releases is one with a k-th of the variance.
        heard = stddev / np.sqrt(k)
        told = linearised(Release(jnp.asarray(matrix), weighed), held[:8], prior, heard)
        known = wiener(matrix, heard)
        assert told.explained == pytest.approx(known, rel=0.02)
        assert told.bound == pytest.approx(float(told.explained), abs=1e-4)
        z, held_z = (
            np.asarray(one @ matrix + heard * jax.random.normal(jax.random.key(seed), (8000, 3)))
            for seed, one in ((5, x), (6, held))
        )
        guess = LinearRegression().fit(z, x).predict(held_z)
        fitted = float(1 - np.square(held - guess).sum() / np.square(held).sum())
        # Of its error.
        assert 1 - fitted == pytest.approx(1 - known, rel=0.02)


def test_noise_beside_everything_and_half_of_the_inputs(prior):
    whole = linearised(Release(jnp.eye(4), weighed), drawn(7, 4), prior, 1.0)
    parts = np.asarray(prior.variances)
    assert whole.explained == pytest.approx((parts * parts / (1 + parts)).sum() / parts.sum(), rel=1e-4)
    assert whole.nats == pytest.approx(np.log1p(parts).sum() / 2, rel=1e-4)
    half = linearised(Release(jnp.eye(4)[:, :2], weighed), drawn(7, 4), prior, 1e-3)
    assert half.explained == pytest.approx(6 / 7.5, rel=0.01)


def test_noise_that_grows_with_the_image_tells_of_it(prior):
    """Fisher's information of a deviation is twice its squared derivative over its square."""
    loud = Release((), lambda v, x, key: 0 * x, mean=lambda v, x: 0 * x, stddev=lambda v, x: jnp.exp(x))
    found = linearised(loud, jnp.zeros((2, 4)), prior, 1e-6)
    parts = np.asarray(prior.variances)
    assert found.nats == pytest.approx(np.log1p(2 * parts).sum() / 2, rel=1e-3)
    mean, stddev = moments(loud, jnp.ones((1, 4)), 1.0)
    np.testing.assert_allclose(mean, 0)
    np.testing.assert_allclose(stddev, np.sqrt(np.e**2 + 1), rtol=1e-5)


def bent(variables, x):
    inner, bias, _, _ = variables
    return jnp.tanh(x @ inner + bias[None])


def louder(variables, x):
    _, _, scale, slope = variables
    return scale * jnp.exp(jnp.tanh(x @ slope))


def test_no_attack_on_200_random_clients_is_beyond_the_bound():
    """The best attack there is, the posterior's mean by 4,000 images, on clients that bend and whose noise depends on x."""
    generator = np.random.default_rng(8)
    x, images = (jnp.asarray(generator.standard_normal((count, 2)), jnp.float32) for count in (4000, 1000))
    prior = gaussian_prior(jnp.eye(2).repeat(2, 0) * jnp.array([1, -1, 1, -1])[:, None] * np.sqrt(2), jnp.zeros(4, int))
    np.testing.assert_allclose(prior.variances, 1, rtol=1e-5)

    @jax.jit
    def both(variables, key):
        client = Release(variables, lambda v, x, key: bent(v, x), mean=bent, stddev=louder)
        bound = linearised(client, images, prior, 1e-3).bound
        z = bent(variables, images) + louder(variables, images) * jax.random.normal(key, (1000, 3))
        mean, stddev = bent(variables, x), louder(variables, x)
        likely = -0.5 * jnp.square((z[:, None] - mean[None]) / stddev[None]).sum(2) - jnp.log(stddev).sum(1)[None]
        guess = jax.nn.softmax(likely, axis=1) @ x
        return bound, 1 - jnp.square(guess - images).sum() / jnp.square(images).sum()

    found = []
    for number in range(200):
        bend = np.exp(generator.uniform(-2, 1))
        parts = (generator.standard_normal(shape) for shape in ((2, 3), (3,), (2, 3)))
        inner, bias, slope = (jnp.asarray(bend * part, jnp.float32) for part in parts)
        scale = jnp.float32(np.exp(generator.uniform(-2, 2)))
        found.append(both((inner, bias, scale, slope), jax.random.key(number)))
    bounds, attacks = np.asarray(found).T
    # A thousand images tell an R² to a hundredth or two.
    assert (attacks <= bounds + 0.03).all()
    # And it is no empty claim: it ranks them, and some come near.
    assert np.corrcoef(np.argsort(np.argsort(bounds)), np.argsort(np.argsort(attacks)))[0, 1] > 0.8
    assert (attacks > bounds - 0.1).sum() > 20


def test_what_cannot_be_is_refused(prior):
    with pytest.raises(ValueError, match=r"len\(images\)=1: must be at least 2"):
        gaussian_prior(jnp.ones((1, 4)), jnp.zeros(1, int))
    with pytest.raises(ValueError, match="count=0: must be 1 or more"):
        gaussian_prior(jnp.ones((2, 4)), jnp.zeros(2, int), count=0)
    with pytest.raises(ValueError, match=r"images.shape=\(2, 3\): must be"):
        linearised(Release(jnp.eye(3), weighed), jnp.ones((2, 3)), prior, 1.0)
