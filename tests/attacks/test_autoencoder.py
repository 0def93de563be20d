import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.modules.initialise import initialise
from ani_jax.modules.prior import Autoencoder


@pytest.mark.parametrize("shape", [(8, 8, 3), pytest.param((28, 28, 1), marks=pytest.mark.slow)])
def test_the_halves_make_the_whole(key, shape):
    module, x = Autoencoder(shape, 5, 4), jax.random.uniform(key, (2, *shape))
    variables = initialise(module, key, x, key)
    coded = module.apply(variables, x, key, train=False)
    assert coded.mean.shape == coded.log_stddev.shape == (2, 5)
    code = coded.mean + jnp.exp(coded.log_stddev) * jax.random.normal(key, coded.mean.shape)
    layer = module.apply(variables, code, method="layer")
    np.testing.assert_allclose(module.apply(variables, layer, method="paint"), coded.image, atol=1e-5)
    np.testing.assert_allclose(module.apply(variables, x, method="code"), coded.mean, atol=1e-6)
    assert coded.image.shape == x.shape
