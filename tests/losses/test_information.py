import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from ani_jax.losses import information
from ani_jax.losses.estimates import correlated_gaussian_information

BOUNDS = {
    "donsker_varadhan": information.donsker_varadhan,
    "mine": lambda joint, marginal: information.mine(joint, marginal)[0],
    "nwj": information.nwj,
    "smile": information.smile,
    "jsd": information.jsd,
}


def log_ratio(rho, x, z):
    """Log density ratio of correlated normal pairs, summed over dimensions: the optimal critic."""
    variance = 1 - rho**2
    each = -0.5 * math.log(variance) + (2 * rho * x * z - rho**2 * (x**2 + z**2)) / (2 * variance)
    return each.sum(-1)


def pairs(seed, rho, count, dimension):
    one, two, three = jax.random.split(jax.random.key(seed), 3)
    x, noise = jax.random.normal(one, (count, dimension)), jax.random.normal(two, (count, dimension))
    z = rho * x + math.sqrt(1 - rho**2) * noise
    return x, z, jax.random.normal(three, (count, dimension))


def optimal_scores(rho, seed=0, count=40_000, dimension=2):
    x, z, other = pairs(seed, rho, count, dimension)
    return log_ratio(rho, x, z), log_ratio(rho, x, other)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_bounds_are_tight_at_the_optimal_critic(rho):
    joint, marginal = optimal_scores(rho)
    truth = correlated_gaussian_information(rho, 2)
    for name in ("donsker_varadhan", "mine", "smile"):
        np.testing.assert_allclose(BOUNDS[name](joint, marginal), truth, atol=0.05)
    np.testing.assert_allclose(information.nwj(1 + joint, 1 + marginal), truth, atol=0.05)


def test_jsd_is_the_divergence_at_the_optimal_critic():
    joint, marginal = optimal_scores(0.8)
    # JSD = (KL(p || m) + KL(q || m)) / 2 with m the mixture, by Monte Carlo in another form.
    expected = (jnp.log(2 / (1 + jnp.exp(-joint))).mean() + jnp.log(2 / (1 + jnp.exp(marginal))).mean()) / 2
    np.testing.assert_allclose(information.jsd(joint, marginal), expected, atol=1e-5)
    assert 0 < information.jsd(joint, marginal) < math.log(2)


@pytest.mark.parametrize(("rho", "dimension"), [(0.3, 4), (math.sqrt(1 - math.exp(-0.2)), 20)])
def test_club_with_the_exact_conditional_is_its_closed_form(rho, dimension):
    x, z, _ = pairs(1, rho, 2000, dimension)
    variance = 1 - rho**2

    def log_density(x, z):
        return -0.5 * (jnp.square(z - rho * x) / variance + math.log(2 * math.pi * variance)).sum(-1)

    positive = log_density(x, z)
    all_pairs = jax.lax.map(lambda row: log_density(row[None], z), x)
    closed = dimension * rho**2 / variance
    np.testing.assert_allclose(information.club(positive, all_pairs), closed, rtol=0.1)
    assert closed > correlated_gaussian_information(rho, dimension)
    if dimension == 20:
        np.testing.assert_allclose(correlated_gaussian_information(rho, 20), 2.0, rtol=1e-5)
        np.testing.assert_allclose(closed, 4.43, atol=0.01)


def test_infonce_is_near_the_truth_and_never_above_its_cap():
    x, z, _ = pairs(2, 0.8, 256, 1)
    scores = log_ratio(0.8, x[:, None], z[None])
    np.testing.assert_allclose(information.infonce(scores), correlated_gaussian_information(0.8, 1), atol=0.1)
    expected = np.mean([s[i] - np.log(np.exp(s).mean()) for i, s in enumerate(np.asarray(scores, np.float64))])
    np.testing.assert_allclose(information.infonce(scores), expected, rtol=1e-4)
    certain = 50 * jnp.eye(16)
    np.testing.assert_allclose(information.infonce(certain), information.infonce_cap(16), rtol=1e-5)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31 - 1), scale=st.floats(0.01, 30), shift=st.floats(-20, 20))
def test_relations_between_bounds(seed, scale, shift):
    scores = scale * jax.random.normal(jax.random.key(seed), (8, 8))
    joint, marginal = information.split_scores(scores)
    value = information.donsker_varadhan(joint, marginal)
    assert information.nwj(joint, marginal) <= value + 1e-3
    np.testing.assert_allclose(information.donsker_varadhan(joint + shift, marginal + shift), value, atol=1e-3)
    np.testing.assert_allclose(information.smile(joint, marginal, math.inf), value, atol=1e-5)
    assert information.infonce(scores) <= math.log(8) + 1e-5
    assert information.jsd(joint, marginal) <= math.log(2) + 1e-6
    assert information.nwj(jnp.zeros(8), jnp.zeros(3)) < 0


def test_split_scores_takes_each_entry_once():
    joint, marginal = information.split_scores(jnp.arange(25.0).reshape(5, 5))
    assert joint.tolist() == [0, 6, 12, 18, 24]
    assert sorted([*joint.tolist(), *marginal.tolist()]) == list(range(25))


def test_mine_has_the_value_of_donsker_varadhan_and_the_gradient_of_the_moving_average():
    joint, marginal = optimal_scores(0.5, count=64)
    previous = 2.0
    (value, log_ema), gradient = jax.value_and_grad(
        lambda m: information.mine(joint, m, jnp.log(previous), decay=0.9), has_aux=True
    )(marginal)
    np.testing.assert_allclose(value, information.donsker_varadhan(joint, marginal), rtol=1e-5)
    ema = 0.9 * previous + 0.1 * np.exp(np.array(marginal)).mean()
    np.testing.assert_allclose(log_ema, np.log(ema), rtol=1e-5)
    np.testing.assert_allclose(gradient, -np.exp(np.array(marginal)) / 64 / ema, rtol=1e-4)


def test_mine_starts_with_the_first_batch_and_survives_large_scores():
    joint, marginal = jnp.full(4, 300.0), jnp.full(6, 200.0)
    value, log_ema = information.mine(joint, marginal)
    np.testing.assert_allclose([value, log_ema], [100.0, 200.0], rtol=1e-5)
    gradient = jax.grad(lambda m: information.mine(joint, m)[0])(marginal)
    np.testing.assert_allclose(gradient, np.full(6, -1 / 6), rtol=1e-5)
    # A moving average without memory is the biased gradient.
    plain = jax.grad(lambda m: information.donsker_varadhan(joint, m))(marginal)
    forgetful = jax.grad(lambda m: information.mine(joint, m, 3.0, decay=0.0)[0])(marginal)
    np.testing.assert_allclose(forgetful, plain, rtol=1e-5)


def test_gradients():
    joint, marginal = optimal_scores(0.5, count=8)
    for bound in ("donsker_varadhan", "nwj", "jsd", "smile"):
        check_grads(jax.jit(BOUNDS[bound]), (joint, marginal), order=1, atol=1e-2, rtol=1e-2)
    check_grads(jax.jit(information.infonce), (jnp.outer(joint, marginal),), order=1, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: information.infonce(jnp.ones((2, 3))), "scores.shape=.2, 3.: must be .b, b."),
        (lambda: information.split_scores(jnp.ones((1, 1))), "b of 2 or more"),
        (lambda: information.smile(jnp.ones(2), jnp.ones(2), 0.0), "clip=0.0: must be above 0"),
        (lambda: information.mine(jnp.ones(2), jnp.ones(2), decay=1.0), "decay=1.0"),
        (lambda: information.infonce_cap(0), "batch=0"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
