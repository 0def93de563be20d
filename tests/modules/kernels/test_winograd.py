"""Winograd's form is the convolution: at every shape and padding, and as exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.modules.kernels import winograd


def plain(x, kernel, pads=((1, 1), (1, 1))):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def arrays(b, h, w, c, f):
    keys = jax.random.split(jax.random.key(0))
    return jax.random.normal(keys[0], (b, h, w, c)), jax.random.normal(keys[1], (3, 3, c, f))


@pytest.mark.parametrize("pads", [((1, 1), (1, 1)), ((0, 0), (0, 0)), ((2, 0), (1, 3))])
@pytest.mark.parametrize("sides", [(3, 3), (4, 5), (7, 8)])
def test_equals_the_plain_convolution(sides, pads):
    x, kernel = arrays(2, *sides, 3, 4)
    np.testing.assert_allclose(winograd.output(x, kernel, pads), plain(x, kernel, pads), atol=2e-5)


def test_is_as_exact_as_the_plain_convolution():
    x, kernel = arrays(2, 16, 16, 64, 64)
    with jax.enable_x64():
        exact = np.asarray(plain(*(jnp.asarray(np.asarray(array), jnp.float64) for array in (x, kernel))))

    def error(y):
        return np.sqrt(np.square(np.asarray(y, np.float64) - exact).mean())

    assert error(winograd.output(x, kernel, ((1, 1), (1, 1)))) < 1.5 * error(plain(x, kernel))


def test_keeps_double_precision():
    with jax.enable_x64():
        x, kernel = (jnp.asarray(array, jnp.float64) for array in arrays(1, 4, 4, 2, 2))
        np.testing.assert_allclose(winograd.output(x, kernel, ((1, 1), (1, 1))), plain(x, kernel), rtol=0, atol=1e-13)
