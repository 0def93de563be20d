import functools

import jax
import jax.numpy as jnp

from ani_jax.modules.adversaries import ConvClassifier
from ani_jax.modules.initialise import initialise


def test_values_are_those_of_a_fully_optimised_program(key):
    module, z = ConvClassifier(3, width=8), jnp.ones((1, 4, 4, 2))
    plain = jax.jit(functools.partial(module.init, train=False))(key, z)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), initialise(module, key, z), plain))
