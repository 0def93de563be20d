"""Pooling against reduce_window, in both modes of differentiation, and on ties, where they differ."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.modules.kernels import max_pool, peak


def plain(x):
    return nn.max_pool(x, (2, 2), (2, 2))


def test_pool_equals_reduce_window_away_from_ties(key):
    keys = jax.random.split(key, 3)
    x, t, g = (jax.random.normal(key, (3, 6, 4, 5)) for key in keys)
    g = g[:, ::2, ::2]
    y, pull = jax.vjp(max_pool, x)
    expected, expected_pull = jax.vjp(plain, x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(pull(g)[0], expected_pull(g)[0])
    np.testing.assert_array_equal(jax.jvp(max_pool, (x,), (t,))[1], jax.jvp(plain, (x,), (t,))[1])
    np.testing.assert_array_equal(jax.vmap(max_pool)(x[None])[0], y)


@pytest.mark.parametrize("derivative", [jax.jacfwd, jax.jacrev, jax.hessian])
def test_derivatives_of_any_order(derivative, key):
    x = jax.random.normal(key, (1, 4, 4, 2))
    got, expected = (derivative(lambda x: (function(x) ** 3).sum(-1))(x) for function in (max_pool, plain))  # noqa: B023
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_pool_on_ties_passes_on_what_it_received():
    """On flat paper all four tie: the gradient is neither lost nor counted four times, in either mode."""
    x = jnp.full((1, 4, 4, 1), 0.3)
    dx = jax.grad(lambda x: (max_pool(x) * 3).sum())(x)
    np.testing.assert_allclose(dx, 0.75)
    for derivative in (jax.grad, jax.jacfwd):
        slope = derivative(lambda scale: (max_pool(scale * x) * 3).sum())(1.0)
        np.testing.assert_allclose(slope, 4 * 3 * 0.3, rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_peak_gives_its_gradient_to_the_first_as_torch_does(axis, key):
    """Values are rounded so that many tie."""
    torch = pytest.importorskip("torch")
    x = jnp.round(2 * jax.random.normal(key, (3, 4, 5))) / 2
    there = torch.tensor(np.asarray(x), requires_grad=True)
    expected = there.max(axis).values
    (expected**2).sum().backward()
    np.testing.assert_array_equal(peak(x, axis), expected.detach())
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.square(peak(x, axis)).sum())(x), there.grad)


@pytest.mark.parametrize("shape", [(1, 3, 4, 1), (1, 4, 5, 1), (4, 4, 1)])
def test_pool_refuses_odd_sides(shape):
    with pytest.raises(ValueError, match="height and width even"):
        max_pool(jnp.zeros(shape))
