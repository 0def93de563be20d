import jax
import jax.numpy as jnp
import pytest

from ani_jax.modules.imitation import Imitation
from ani_jax.modules.initialise import initialise


@pytest.mark.parametrize(
    "shape", [(4, 4, 6), (10,), (3, 5, 2), (16, 1, 1), pytest.param((16, 16, 3), marks=pytest.mark.slow)]
)
def test_any_features_can_be_imitated(key, shape):
    module, x = Imitation(shape, 4), jax.random.uniform(key, (2, 16, 16, 3))
    variables = initialise(module, key, x)
    assert module.apply(variables, x, train=False).shape == (2, *shape)
    gradient = jax.grad(lambda x: jnp.square(module.apply(variables, x, train=False)).sum())(x)
    assert bool((jnp.abs(gradient).sum((1, 2, 3)) > 0).all())
