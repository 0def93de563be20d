"""The objective of optimising attacks and its descent, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ani_jax.attacks.descent import PEAK, Goal, Pixels, Setting, descend, feature_rates
from ani_jax.attacks.query import as_release
from ani_jax.types import Release

STDDEV = 0.3


def noisy(variables, x, key):
    return x + STDDEV * jax.random.normal(key, x.shape)


def pictures(key, count=5):
    return jax.random.uniform(key, (count, 2, 2, 1))


def test_descends_to_the_ridge_solution_of_every_image(key):
    matrix = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    goal = Goal(as_release(lambda x: x.reshape(len(x), -1) @ matrix), jnp.ones(6))
    z = np.asarray(goal.release(pictures(key), key))
    start, energy = 0.4, np.array([0.0, 0.01, 0.1, 1.0, 10.0], np.float32)
    starts = jnp.full((1, 5, 2, 2, 1), start)
    found = descend(goal, Pixels(False), None, starts, z[None], Setting(0.05, 0.0, energy), 600, key)
    for row, weight in enumerate(energy):
        curvature = matrix @ matrix.T / 6 + weight * np.eye(4) / 4
        exact = np.linalg.solve(curvature, matrix @ z[row] / 6 + weight * start / 4)
        np.testing.assert_allclose(np.asarray(found.unknown[row]).ravel(), exact, atol=2e-3)
    assert found.finite.all()


@pytest.mark.parametrize("queries", [1, 3])
def test_misfit_of_a_declared_density_is_its_mean_negative_logarithm(key, queries):
    def log_prob(variables, z, x):
        return jax.scipy.stats.norm.logpdf(z, x, STDDEV).reshape(len(z), -1).sum(1)

    goal = Goal(Release((), noisy, True, log_prob=log_prob), jnp.ones((2, 2, 1)), likelihood=True)
    images, z = pictures(key), jax.random.normal(key, (queries, 5, 2, 2, 1))
    exact = -scipy.stats.norm.logpdf(np.asarray(z), np.asarray(images), STDDEV).mean((0, 2, 3, 4))
    np.testing.assert_allclose(goal.misfit(images, z, key), exact, rtol=1e-5)


def test_misfit_of_undeclared_noise_does_not_count_its_variance(key):
    goal = Goal(Release((), noisy, True), jnp.ones((2, 2, 1)))
    images, z = pictures(key), jax.random.normal(key, (1, 5, 2, 2, 1))
    draws = jax.vmap(lambda one: goal.misfit(images, z, one))(jax.random.split(key, 4000))
    exact = np.square(np.asarray(images - z[0])).mean((1, 2, 3))
    error = 4 * np.asarray(draws.std(0)) / 4000**0.5
    assert (np.abs(np.asarray(draws.mean(0)) - exact) < error).all()
    assert (error < STDDEV**2 / 2).all()


def test_the_lowest_objective_of_all_starts_wins_and_never_rises(key):
    """Two valleys, the deeper one at 0.8; a rate of 0 leaves every start where it is."""
    goal = Goal(as_release(lambda x: (x - 0.2) * (x - 0.8) + 0.1 * (x - 0.8)), jnp.ones((1, 1, 1)))
    starts = jnp.stack([jnp.full((2, 1, 1, 1), value) for value in (0.0, 1.0)])
    z = jnp.zeros((1, 2, 1, 1, 1))
    still = descend(goal, Pixels(), None, starts, z, Setting(0.0), 3, key)
    each = jnp.square(goal.release(starts.reshape(-1, 1, 1, 1), key)).reshape(2, 2)
    np.testing.assert_allclose(still.objective, each.min(0), rtol=1e-6)
    wild = descend(goal, Pixels(), None, starts, z, Setting(jnp.array([0.02, 50.0])), 200, key)
    assert (wild.objective <= still.objective).all()
    assert float(wild.objective[0]) < 1e-6


def test_a_feature_that_is_seldom_lit_does_not_drown_the_others():
    z = jnp.zeros((1000, 2)).at[3, 0].set(1.0).at[::2, 1].set(1.0)
    assert feature_rates(z)[0] == pytest.approx(PEAK, rel=0.01)
    assert feature_rates(z)[1] == pytest.approx(2.0, rel=0.01)
