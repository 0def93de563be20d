"""Pooling against reduce_window, and on ties, where they differ."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.modules.pool import max_pool


def test_pool_equals_reduce_window_away_from_ties(key):
    keys = jax.random.split(key)
    x, g = jax.random.normal(keys[0], (3, 6, 4, 5)), jax.random.normal(keys[1], (3, 3, 2, 5))
    y, pull = jax.vjp(max_pool, x)
    expected, expected_pull = jax.vjp(lambda x: nn.max_pool(x, (2, 2), (2, 2)), x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(pull(g)[0], expected_pull(g)[0])
    np.testing.assert_array_equal(jax.vmap(max_pool)(x[None])[0], y)


def test_pool_on_ties_passes_on_what_it_received():
    """On flat paper all four tie: the gradient is neither lost nor counted four times."""
    x = jnp.full((1, 4, 4, 1), 0.3)
    dx = jax.grad(lambda x: (max_pool(x) * 3).sum())(x)
    np.testing.assert_allclose(dx, 0.75)
    slope = jax.grad(lambda scale: (max_pool(scale * x) * 3).sum())(1.0)
    np.testing.assert_allclose(slope, 4 * 3 * 0.3, rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 3, 4, 1), (1, 4, 5, 1), (4, 4, 1)])
def test_pool_refuses_odd_sides(shape):
    with pytest.raises(ValueError, match="height and width even"):
        max_pool(jnp.zeros(shape))
