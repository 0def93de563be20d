"""Rounding: against NumPy's nearest, exact, and with the gradient of what was not rounded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.modules.grid import Grid, rounded


@pytest.mark.parametrize("grid", [Grid(-1.0, 2.0, 4), Grid(-3.0, 3.0, 16), Grid(-0.3, 0.7, 2)])
def test_what_is_sent_is_the_nearest_of_all_values(grid, key):
    z = 3 * jax.random.normal(key, (50, 40))
    values = np.linspace(grid.low, grid.high, grid.levels)
    nearest = values[np.abs(np.asarray(z)[..., None] - values).argmin(-1)]
    np.testing.assert_allclose(grid(z), nearest, atol=1e-6)
    # Exactly: what rounding leaves of the number itself would be sent too.
    assert len(np.unique(grid(z))) == grid.levels


def test_a_grid_keeps_its_ends():
    assert Grid(-1.0, 2.0, 4)(jnp.array([[-9.0, 0.4, 0.6, 9.0]])).tolist() == [[-1.0, 0.0, 1.0, 2.0]]


def test_gradients_pass_the_rounding_and_not_the_clipping():
    z = jnp.array([[-9.0, 0.4, 0.6, 9.0]])
    weight = jnp.array([[2.0, 3.0, 4.0, 5.0]])
    np.testing.assert_array_equal(jax.grad(lambda z: (weight * rounded(z, 0.5)).sum())(z), weight)
    clipped = jax.grad(lambda z: (weight * Grid(-1.0, 2.0, 4)(z)).sum())(z)
    np.testing.assert_array_equal(clipped, weight * jnp.array([[0.0, 1.0, 1.0, 0.0]]))
